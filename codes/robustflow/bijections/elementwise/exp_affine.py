"""The exponential affine map of SRFlow's text: no bound on its slope, in either direction."""

from typing import Literal

import torch
from torch import Tensor

from robustflow.bijections.analytic import AnalyticElementwise, Partials
from robustflow.registry import ELEMENTWISE, Options


class ExpAffineOptions(Options):
    """Options of the exponential affine map: none."""

    type: Literal["exp_affine"] = "exp_affine"


@ELEMENTWISE.register("exp_affine", ExpAffineOptions)
class ExpAffine(AnalyticElementwise):
    """y = x·exp(s) + b; two parameters b, s; zero ones give the identity (Lugmayr et al., SRFlow, ECCV 2020, eq. 2).

    s is not clamped: where exp(±s) leaves the range of floats, beyond |s| ≈ 88 in float32, values are infinite.
    """

    num_params = 2

    @staticmethod
    def evaluate(x: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and s."""
        b, s = params.unbind(-2)
        return x * torch.exp(s) + b, s.clone().expand_as(x)

    @staticmethod
    def invert(y: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = (y − b)·exp(−s) and −s."""
        b, s = params.unbind(-2)
        return (y - b) * torch.exp(-s), (-s).expand_as(y)

    @staticmethod
    def partials(x: Tensor, params: Tensor, *constants: Tensor) -> Partials:
        """Return dy/dx = exp(s), dl/dx = 0 and the derivatives by b and s."""
        slope = torch.exp(params.unbind(-2)[1])
        return slope, torch.zeros_like(slope), [(torch.ones_like(slope), 0.0), (x * slope, 1.0)]
