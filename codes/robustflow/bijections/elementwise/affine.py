"""The affine map: unbounded inverse for eps → 0, bounded by 1/eps otherwise."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from robustflow.bijections.analytic import AnalyticElementwise, Partials
from robustflow.bijections.base import InverseBound
from robustflow.registry import ELEMENTWISE, Options, require_valid


class AffineOptions(Options):
    """Options of the affine map."""

    type: Literal["affine"] = "affine"
    eps: float = Field(1e-4, gt=0, lt=1, description="Smallest scale; 0.1 is the bounded variant.")


@ELEMENTWISE.register("affine", AffineOptions)
class Affine(AnalyticElementwise):
    """y = (x + t)·s with s = σ(ŝ + 2) + ε; two parameters t, ŝ (Lugmayr et al., SRFlow, ECCV 2020).

    Args:
        eps: Lower bound ε of the scale. 0.1 gives the bounded variant of Hong et al. (ICCV 2023).
    """

    num_params = 2

    def __init__(self, eps: float = 1e-4) -> None:
        super().__init__()
        require_valid(AffineOptions, eps=eps)
        self.eps = eps
        self.constants = (eps,)

    def inverse_bound(self) -> InverseBound:
        """1/ε."""
        return InverseBound(1 / self.eps)

    @staticmethod
    def evaluate(x: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log s."""
        (t, s_hat), (eps,) = params.unbind(-2), constants
        s = torch.sigmoid(s_hat + 2) + eps
        y = (x + t) * s
        return y, torch.log(s).expand_as(y)

    @staticmethod
    def invert(y: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = y/s − t and −log s."""
        (t, s_hat), (eps,) = params.unbind(-2), constants
        s = torch.sigmoid(s_hat + 2) + eps
        x = y / s - t
        return x, -torch.log(s).expand_as(x)

    @staticmethod
    def partials(x: Tensor, params: Tensor, *constants: Tensor) -> Partials:
        """Return dy/dx = s, dl/dx = 0 and the derivatives by t and ŝ, with ds/dŝ = σ(ŝ+2)·σ(−ŝ−2)."""
        (t, s_hat), (eps,) = params.unbind(-2), constants
        sigmoid = torch.sigmoid(s_hat + 2)
        s, slope = sigmoid + eps, sigmoid * torch.sigmoid(-s_hat - 2)
        return s, torch.zeros_like(s), [(s, 0.0), ((x + t) * slope, slope / s)]
