"""Variants of robust maps that were tried and are no part of the package: ``plugins: [benchmarks.robust_maps]``.

`robust_maps.yml` beside this file trains them and the package's own; docs/soft-affine.md says what came of it.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.base import Elementwise, InverseBound, sum_per_item
from robustflow.bijections.elementwise import SoftAffine
from robustflow.bijections.elementwise.soft_affine import scale_softly, unscale_softly
from robustflow.bijections.injector import Injector
from robustflow.models import FSNCSR
from robustflow.models.super_resolution import FSNCSROptions
from robustflow.registry import ELEMENTWISE, MODELS, Options


class _SoftAffineOfB(Elementwise):
    """`SoftAffine` whose B, a scalar tensor, is not one number for good."""

    num_params = 2
    B: Tensor
    eps: float

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|."""
        return SoftAffine.evaluate(x, params.movedim(1, -2), self.B, self.eps)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|."""
        return SoftAffine.invert(y, params.movedim(1, -2), self.B, self.eps)

    def inverse_bound(self) -> InverseBound:
        """That of `SoftAffine`."""
        return SoftAffine(float(self.B.detach()), self.eps).inverse_bound()


class LearnedOptions(Options):
    """Options of the soft affine map whose B is learned."""

    type: Literal["learned_soft_affine"] = "learned_soft_affine"
    B: float = Field(3.0, gt=0, description="Where scaling ends, before training; in units of x.")
    limit: float = Field(30.0, gt=0, description="What B stays below.")
    eps: float = Field(0.1, gt=0, lt=1, description="Smallest slope, reached at zero.")


@ELEMENTWISE.register("learned_soft_affine", LearnedOptions)
class LearnedSoftAffine(_SoftAffineOfB):
    """A B of its own in each layer, learned: limit·σ(b), so that the bound stays additive."""

    def __init__(self, B: float, limit: float, eps: float) -> None:
        super().__init__()
        self.limit, self.eps = limit, eps
        self.raw = nn.Parameter(torch.tensor(math.log(B / (limit - B))))

    @property
    def B(self) -> Tensor:  # type: ignore[override]
        """Where scaling ends at present."""
        return self.limit * torch.sigmoid(self.raw)


class GrowingOptions(Options):
    """Options of the soft affine map whose B grows in training."""

    type: Literal["growing_soft_affine"] = "growing_soft_affine"
    B: float = Field(3.0, gt=0, description="Where scaling ends, after training; in units of x.")
    start: float = Field(0.3, gt=0, description="The same before training.")
    passes: int = Field(300, gt=0, description="Training passes that this takes.")
    eps: float = Field(0.1, gt=0, lt=1, description="Smallest slope, reached at zero.")


@ELEMENTWISE.register("growing_soft_affine", GrowingOptions)
class GrowingSoftAffine(_SoftAffineOfB):
    """B grows by a constant factor in each training pass, until it is what it is to be."""

    passed: Tensor

    def __init__(self, B: float, start: float, passes: int, eps: float) -> None:
        super().__init__()
        self.start, self.factor, self.passes, self.eps = start, B / start, passes, eps
        self.register_buffer("passed", torch.tensor(0.0))

    @property
    def B(self) -> Tensor:  # type: ignore[override]
        """Where scaling ends at present."""
        return self.start * self.factor ** (self.passed / self.passes).clamp(max=1)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|."""
        if self.training:
            self.passed += 1
        return super().forward(x, params)


class ManyKnotsOptions(Options):
    """Options of the spline with several interior knots."""

    type: Literal["many_knots"] = "many_knots"
    knots: int = Field(3, ge=1, description="Interior knots.")
    bound: float = Field(0.5, gt=0, description="The box is [-bound, bound]; the map is x + t outside it.")
    eps: float = Field(1e-3, gt=0, lt=0.1, description="Smallest bin, as a share of the box, and smallest slope.")


@ELEMENTWISE.register("many_knots", ManyKnotsOptions)
class ManyKnots(Elementwise):
    """The modified rational-quadratic spline with several interior knots; formulas of Durkan et al., 2019."""

    def __init__(self, knots: int, bound: float, eps: float) -> None:
        super().__init__()
        self.bins, self.bound, self.eps = knots + 1, bound, eps
        self.num_params = 3 * self.bins

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|."""
        inside = x.abs() < self.bound
        x0, y0, width, height, slope_0, slope_1 = self._bin(x, params, by_height=False)
        theta = ((x - x0) / width).clamp(0, 1)
        slope, pi = height / width, theta * (1 - theta)
        denominator = slope + (slope_1 + slope_0 - 2 * slope) * pi
        y = y0 + height * (slope * theta**2 + slope_0 * pi) / denominator
        log_slope = self._log_slope(theta, slope, slope_0, slope_1)
        return torch.where(inside, y, x) + params[:, 0], torch.where(inside, log_slope, torch.zeros_like(x))

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|."""
        v = y - params[:, 0]
        inside = v.abs() < self.bound
        x0, y0, width, height, slope_0, slope_1 = self._bin(v, params, by_height=True)
        slope, rise = height / width, torch.minimum((v - y0).clamp(min=0), height)
        bend = rise * (slope_1 + slope_0 - 2 * slope)
        a, b, c = height * (slope - slope_0) + bend, height * slope_0 - bend, -slope * rise
        theta = (2 * c / (-b - torch.sqrt((b**2 - 4 * a * c).clamp(min=0)))).clamp(0, 1)
        log_slope = self._log_slope(theta, slope, slope_0, slope_1)
        return torch.where(inside, x0 + theta * width, v), torch.where(inside, -log_slope, torch.zeros_like(v))

    def inverse_bound(self) -> InverseBound:
        """Slope 1 outside the box; inside nothing moves farther than the box is wide."""
        return InverseBound(1.0, 2 * self.bound)

    def _bin(self, x: Tensor, params: Tensor, *, by_height: bool) -> list[Tensor]:
        """Left knot (x, y), width, height and slopes at both knots, of the bin of x, or of the bin that maps to x."""
        sizes = params[:, 1 : 1 + 2 * self.bins].unflatten(1, (2, self.bins)).movedim((1, 2), (0, -1)).softmax(-1)
        sizes = 2 * self.bound * (self.eps + (1 - self.eps * self.bins) * sizes)
        ends = sizes.cumsum(-1) - self.bound
        slopes = torch.exp(params[:, 1 + 2 * self.bins :].movedim(1, -1).clamp(-60, 40)) * (1 - self.eps) + self.eps
        one = torch.ones_like(slopes[..., :1])
        index = (x[..., None] >= ends[int(by_height)][..., :-1]).sum(-1, keepdim=True)
        mine = index == torch.arange(self.bins, device=x.device)
        values = [*(ends - sizes), *sizes, torch.cat([one, slopes], -1), torch.cat([slopes, one], -1)]
        return [(mine * value).sum(-1) for value in values]

    @staticmethod
    def _log_slope(theta: Tensor, slope: Tensor, slope_0: Tensor, slope_1: Tensor) -> Tensor:
        pi = theta * (1 - theta)
        numerator = slope**2 * (slope_1 * theta**2 + 2 * slope * pi + slope_0 * (1 - theta) ** 2)
        return torch.log(numerator) - 2 * torch.log(slope + (slope_1 + slope_0 - 2 * slope) * pi)


class SoftNormInjector(Injector):
    """An injector after a soft ActNorm: slope exp(logs) at −b and 1 far beyond ±B, set by the first training batch."""

    def __init__(self, inner: Injector, channels: int, bound: float) -> None:
        super().__init__(inner.elementwise, inner.network)
        self.norm, self.B = ActNorm(channels), bound

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (n·b, c, h, w); return z and log|det|, (n·b,)."""
        if self.training:
            self.norm.initialize_once(x)
        bias, slope = self._bias_and_slope()
        x, log_slope = scale_softly(x + bias, slope, self.B)
        z, log_det = super().transform(x, params)
        return z, log_det + sum_per_item(log_slope)

    def untransform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Undo ``transform``; return x and log|det| of the inverse, (n·b,)."""
        z, log_det = super().untransform(z, params)
        bias, slope = self._bias_and_slope()
        x, log_slope = unscale_softly(z, slope, self.B)
        return x - bias, log_det + sum_per_item(log_slope)

    def _bias_and_slope(self) -> tuple[Tensor, Tensor]:
        return self.norm.bias[:, None, None], torch.exp(self.norm.logs)[:, None, None]


class SoftNormOptions(FSNCSROptions):
    """FS-NCSR whose full steps have soft ActNorms."""

    type: Literal["soft-norm"] = "soft-norm"  # type: ignore[assignment]
    norm_B: float = Field(3.0, gt=0, description="Where the ActNorms' scaling ends; in units of their input's shift.")


@MODELS.register("soft-norm", SoftNormOptions)
class SoftNorm(FSNCSR):
    """FS-NCSR whose full steps' ActNorms are soft and come after the 1×1 convolution, arguments as of `FSNCSR`."""

    def __init__(self, scale: int = 4, coupling: Any = "affine", *, norm_B: float = 3.0, **architecture: Any) -> None:
        super().__init__(scale, coupling, **architecture)
        self.norm_B = norm_B
        for level in self.network.levels:
            for step in level.steps:
                step.injector = SoftNormInjector(step.injector, step.actnorm.bias.numel(), norm_B)
                step.actnorm.mark_initialized()
                step.actnorm.requires_grad_(False)
