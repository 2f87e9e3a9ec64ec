"""The soft affine map: scales like the affine one near zero and has slope 1 far out, so its inverse cannot explode."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from robustflow.bijections.analytic import AnalyticElementwise, Partials
from robustflow.bijections.base import InverseBound
from robustflow.registry import ELEMENTWISE, Options, require_valid


class SoftAffineOptions(Options):
    """Options of the soft affine map."""

    type: Literal["soft_affine"] = "soft_affine"
    # Within this range nothing over- or underflows in float32, for inputs up to 1e30.
    B: float = Field(10.0, ge=1e-6, le=1e6, description="Where scaling ends: slope 1 far beyond ±B; in units of x.")
    eps: float = Field(1e-4, gt=0, lt=1, description="Smallest slope, reached at zero.")


@ELEMENTWISE.register("soft_affine", SoftAffineOptions)
class SoftAffine(AnalyticElementwise):
    """c(x) = u − (1 − s)·φ(u), φ(u) = u/(1 + |u|/B), u = x + t, s = σ(ŝ + 2) + ε; two parameters t, ŝ.

    Of this project, made to satisfy Remark 2 of Hong et al. (ICCV 2023): c'(x) ≃ 1 for |x| ≫ B. With k = B/(B + |u|)
    and p = |u|/(B + |u|) = 1 − k:

        c = u·(s·k + p),  c' = 1 − (1 − s)·k² = s·k² + p·(1 + k)

    Slopes lie between s and 1. That is [s, 1] for s ≤ 1; s may exceed 1 by up to ε, and then it is [1, s]: always
    positive, and never below ε, so c is a bijection of the line. From |φ| < B, and φ being increasing,
    |x₁ − x₂| ≤ |y₁ − y₂| + 2B(1 − s) for s ≤ 1, and ≤ |y₁ − y₂| for s > 1. B → ∞ is the affine map, B → 0 a shift.

    The inverse is the positive root of w² + (s − a)·w − a = 0, w = |u|/B, a = |y|/B, of which there is one for any
    s > 0: the roots' product is −a. As an equation of w/(1 + a) its coefficients are at most 1 + ε; no step overflows
    or cancels for any parameters.

    Args:
        B: Where scaling ends, in units of x.
        eps: Lower bound ε of the slope.
    """

    num_params = 2

    def __init__(self, B: float = 10.0, eps: float = 1e-4) -> None:
        super().__init__()
        require_valid(SoftAffineOptions, B=B, eps=eps)
        self.B = B
        self.eps = eps
        self.constants = (B, eps)

    def inverse_bound(self) -> InverseBound:
        """Slope 1 far out; what a difference gains on the way is at most 2B(1 − ε)."""
        return InverseBound(1.0, 2 * self.B * (1 - self.eps))

    @staticmethod
    def evaluate(x: Tensor, params: Tensor, *constants: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return y and log c'(x)."""
        (t, s_hat), (bound, eps) = params.unbind(-2), constants
        return scale_softly(x + t, torch.sigmoid(s_hat + 2) + eps, bound)

    @staticmethod
    def invert(y: Tensor, params: Tensor, *constants: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return x = c⁻¹(y) and −log c'(x): the root of the quadratic without cancellation."""
        (t, s_hat), (bound, eps) = params.unbind(-2), constants
        u, log_slope = unscale_softly(y, torch.sigmoid(s_hat + 2) + eps, bound)
        return u - t, log_slope

    @staticmethod
    def partials(x: Tensor, params: Tensor, *constants: Tensor) -> Partials:
        """Return c', dl/dx = ±2(1 − s)·k²/((B + |u|)·c'), and the derivatives by t and ŝ; l = log c'."""
        (t, s_hat), (bound, eps) = params.unbind(-2), constants
        sigmoid, rest, u = torch.sigmoid(s_hat + 2), torch.sigmoid(-s_hat - 2), x + t
        k, p = _shares(u, bound)
        slope, s_slope = (sigmoid + eps) * k**2 + p * (1 + k), sigmoid * rest
        by_slope = k**2 / slope
        l_x = torch.sign(u) * 2 * (rest - eps) * by_slope / (bound + u.abs())
        return slope, l_x, [(slope, l_x), (u * k * s_slope, by_slope * s_slope)]


def scale_softly(u: Tensor, s: Tensor, bound: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return u − (1 − s)·φ(u) for a slope s > 0 at zero, and its log-slope."""
    k, p = _shares(u, bound)
    return u * (s * k + p), torch.log(s * k**2 + p * (1 + k))


def unscale_softly(y: Tensor, s: Tensor, bound: Tensor | float) -> tuple[Tensor, Tensor]:
    """Undo `scale_softly`: the root of the quadratic without cancellation, and the log-slope of the way back."""
    k, p = _shares(y, bound)
    h = s * k - p
    d = h.abs() + torch.sqrt(h**2 + 4 * p * k)
    u = torch.where(h > 0, 2 * y * k / d, (y + torch.sign(y) * bound) * (d / 2))
    k, p = _shares(u, bound)
    return u, -torch.log(s * k**2 + p * (1 + k))


def _shares(u: Tensor, bound: Tensor | float) -> tuple[Tensor, Tensor]:
    """B/(B + |u|) and |u|/(B + |u|)."""
    # Finite, so that the share of an infinite u is 1, not ∞/∞; its inverse is no denormal, which GPUs may take for 0.
    size = u.abs().clamp(max=torch.finfo(u.dtype).max / 8)
    per_sum = 1 / (bound + size)
    return bound * per_sum, size * per_sum
