"""The affine map with its scale below the fraction line: sampling multiplies and cannot explode, encoding can."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from robustflow.bijections.analytic import AnalyticElementwise, Partials
from robustflow.bijections.base import InverseBound
from robustflow.registry import ELEMENTWISE, Options, require_valid


class InverseAffineOptions(Options):
    """Options of the inverse affine map."""

    type: Literal["inverse_affine"] = "inverse_affine"
    eps: float = Field(1e-4, gt=0, lt=1, description="Smallest divisor r; encoding multiplies by 1/eps at most.")


@ELEMENTWISE.register("inverse_affine", InverseAffineOptions)
class InverseAffine(AnalyticElementwise):
    """y = (x + t)/r with r = σ(r̂ + 2) + ε; two parameters t, r̂.

    Not in the paper of Hong et al. (ICCV 2023) but in the code published with it, as a reparametrised affine coupling.

    Args:
        eps: Lower bound ε of r.
    """

    num_params = 2

    def __init__(self, eps: float = 1e-4) -> None:
        super().__init__()
        require_valid(InverseAffineOptions, eps=eps)
        self.eps = eps
        self.constants = (eps,)

    def inverse_bound(self) -> InverseBound:
        """1 + ε."""
        return InverseBound(1 + self.eps)

    @staticmethod
    def evaluate(x: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and −log r."""
        (t, r_hat), (eps,) = params.unbind(-2), constants
        r = torch.sigmoid(r_hat + 2) + eps
        y = (x + t) / r
        return y, -torch.log(r).expand_as(y)

    @staticmethod
    def invert(y: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = y·r − t and log r."""
        (t, r_hat), (eps,) = params.unbind(-2), constants
        r = torch.sigmoid(r_hat + 2) + eps
        x = y * r - t
        return x, torch.log(r).expand_as(x)

    @staticmethod
    def partials(x: Tensor, params: Tensor, *constants: Tensor) -> Partials:
        """Return dy/dx = 1/r, dl/dx = 0 and the derivatives by t and r̂, with dr/dr̂ = σ(r̂+2)·σ(−r̂−2)."""
        (t, r_hat), (eps,) = params.unbind(-2), constants
        sigmoid = torch.sigmoid(r_hat + 2)
        per_r = 1 / (sigmoid + eps)
        slope = -sigmoid * torch.sigmoid(-r_hat - 2) * per_r
        return per_r, torch.zeros_like(per_r), [(per_r, 0.0), ((x + t) * per_r * slope, slope)]
