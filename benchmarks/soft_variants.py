"""Variants of the soft affine map, as a plugin (``plugins: [benchmarks.soft_variants]``): what was tried beside it."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustflow.bijections.base import Elementwise, InverseBound
from robustflow.bijections.elementwise.soft_affine import scale_softly, unscale_softly
from robustflow.registry import ELEMENTWISE, Options


class LearnedSoftAffineOptions(Options):
    """Options of the soft affine map whose B is learned."""

    type: Literal["learned_soft_affine"] = "learned_soft_affine"
    B: float = Field(1.0, gt=0, description="Where scaling ends, before training; in units of x.")
    limit: float = Field(30.0, gt=0, description="What B stays below.")
    eps: float = Field(1e-4, gt=0, lt=1, description="Smallest slope, reached at zero.")


@ELEMENTWISE.register("learned_soft_affine", LearnedSoftAffineOptions)
class LearnedSoftAffine(Elementwise):
    """The soft affine map with a B of its own in each layer, learned: limit·σ(b), so that the bound stays additive."""

    num_params = 2

    def __init__(self, B: float = 1.0, limit: float = 30.0, eps: float = 1e-4) -> None:
        super().__init__()
        self.limit, self.eps = limit, eps
        self.raw = nn.Parameter(torch.tensor(math.log(B / (limit - B))))

    @property
    def B(self) -> Tensor:
        """Where scaling ends at present."""
        return self.limit * torch.sigmoid(self.raw)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|."""
        return scale_softly(x + params[:, 0], torch.sigmoid(params[:, 1] + 2) + self.eps, self.B)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|."""
        u, log_slope = unscale_softly(y, torch.sigmoid(params[:, 1] + 2) + self.eps, self.B)
        return u - params[:, 0], log_slope

    def inverse_bound(self) -> InverseBound:
        """As that of `SoftAffine`."""
        return InverseBound(1.0, 2 * float(self.B.detach()) * (1 - self.eps))
