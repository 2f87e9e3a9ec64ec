"""The elementwise maps in the published style: textbook formulas, boolean masks, plain autograd."""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[Tensor, Tensor]
PlainMap: TypeAlias = "Affine | ExpAffine | InverseAffine | SoftAffine | Spline"


@dataclass(frozen=True)
class Affine:
    """y = (x + t)·s, s = σ(ŝ + 2) + ε."""

    num_params: ClassVar[int] = 2
    eps: float = 1e-4

    def forward(self, x: Tensor, params: Tensor) -> Pair:
        """Return y and log|dy/dx| of x (b, c, *spatial), params (b, 2, c, *spatial)."""
        shift, scale = params[:, 0], torch.sigmoid(params[:, 1] + 2.0) + self.eps
        return (x + shift) * scale, torch.log(scale)

    def inverse(self, y: Tensor, params: Tensor) -> Pair:
        """Return x and log|dx/dy|; shapes as in ``forward``."""
        shift, scale = params[:, 0], torch.sigmoid(params[:, 1] + 2.0) + self.eps
        return y / scale - shift, -torch.log(scale)


@dataclass(frozen=True)
class ExpAffine:
    """y = x·exp(s) + b."""

    num_params: ClassVar[int] = 2

    def forward(self, x: Tensor, params: Tensor) -> Pair:
        """Return y and log|dy/dx| of x (b, c, *spatial), params (b, 2, c, *spatial)."""
        return x * torch.exp(params[:, 1]) + params[:, 0], params[:, 1]

    def inverse(self, y: Tensor, params: Tensor) -> Pair:
        """Return x and log|dx/dy|; shapes as in ``forward``."""
        return (y - params[:, 0]) / torch.exp(params[:, 1]), -params[:, 1]


@dataclass(frozen=True)
class InverseAffine:
    """y = (x + t)/r, r = σ(r̂ + 2) + ε."""

    num_params: ClassVar[int] = 2
    eps: float = 1e-4

    def forward(self, x: Tensor, params: Tensor) -> Pair:
        """Return y and log|dy/dx| of x (b, c, *spatial), params (b, 2, c, *spatial)."""
        shift, divisor = params[:, 0], torch.sigmoid(params[:, 1] + 2.0) + self.eps
        return (x + shift) / divisor, -torch.log(divisor)

    def inverse(self, y: Tensor, params: Tensor) -> Pair:
        """Return x and log|dx/dy|; shapes as in ``forward``."""
        shift, divisor = params[:, 0], torch.sigmoid(params[:, 1] + 2.0) + self.eps
        return y * divisor - shift, torch.log(divisor)


@dataclass(frozen=True)
class SoftAffine:
    """y = u − (1 − s)·u/(1 + |u|/B), u = x + t, s = σ(ŝ + 2) + ε; its inverse by the textbook root of the quadratic."""

    num_params: ClassVar[int] = 2
    B: float = 10.0
    eps: float = 1e-4

    def forward(self, x: Tensor, params: Tensor) -> Pair:
        """Return y and log|dy/dx| of x (b, c, *spatial), params (b, 2, c, *spatial)."""
        u, scale = x + params[:, 0], torch.sigmoid(params[:, 1] + 2.0) + self.eps
        return u - (1 - scale) * u / (1 + u.abs() / self.B), self._log_slope(u, scale)

    def inverse(self, y: Tensor, params: Tensor) -> Pair:
        """Return x and log|dx/dy|; shapes as in ``forward``."""
        scale = torch.sigmoid(params[:, 1] + 2.0) + self.eps
        size, half = y.abs(), (self.B * scale - y.abs()) / 2
        u = torch.sign(y) * (torch.sqrt(half**2 + self.B * size) - half)
        return u - params[:, 0], -self._log_slope(u, scale)

    def _log_slope(self, u: Tensor, scale: Tensor) -> Tensor:
        return torch.log(1 - (1 - scale) / (1 + u.abs() / self.B) ** 2)


@dataclass(frozen=True)
class Spline:
    """y = q(x) + t: a spline of one interior knot for the elements inside the box, the identity for the others."""

    num_params: ClassVar[int] = 4
    bounds: tuple[float, float] = (-0.5, 0.5)
    eps: float = 1e-3

    def forward(self, x: Tensor, params: Tensor) -> Pair:
        """Return y and log|dy/dx| of x (b, c, *spatial), params (b, 4, c, *spatial)."""
        y, log_slope = self._boxed(x, params, inverse=False)
        return y + params[:, 3], log_slope

    def inverse(self, y: Tensor, params: Tensor) -> Pair:
        """Return x and log|dx/dy|; shapes as in ``forward``."""
        return self._boxed(y - params[:, 3], params, inverse=True)

    def _boxed(self, inputs: Tensor, params: Tensor, inverse: bool) -> Pair:
        inside = (inputs >= self.bounds[0]) & (inputs <= self.bounds[1])
        outside = ~inside
        outputs, log_slope = torch.zeros_like(inputs), torch.zeros_like(inputs)
        outputs[outside] = inputs[outside]
        log_slope[outside] = 0
        if inside.any():
            chosen = params[:, :3].movedim(1, -1)[inside]
            outputs[inside], log_slope[inside] = self._spline(inputs[inside], chosen, inverse)
        return outputs, log_slope

    def _knots(self, parameter: Tensor) -> Pair:
        """Positions (m, 3) of the knots and sizes (m, 2) of the bins."""
        low, high = self.bounds
        smallest = self.eps / (high - low)
        fraction = torch.sigmoid(parameter) * (1 - 2 * smallest) + smallest
        cumulative = F.pad(torch.cumsum(torch.stack([fraction, 1 - fraction], dim=-1), dim=-1), (1, 0))
        cumulative = (high - low) * cumulative + low
        cumulative[..., 0] = low
        cumulative[..., -1] = high
        return cumulative, cumulative[..., 1:] - cumulative[..., :-1]

    def _spline(self, inputs: Tensor, params: Tensor, inverse: bool) -> Pair:
        """Rational-quadratic spline with K = 2 bins of ``inputs`` (m,) inside the box; params (m, 3): ŵ, ĥ, d̂."""
        (x_knots, widths), (y_knots, heights) = self._knots(params[:, 0]), self._knots(params[:, 1])
        slopes = F.pad((torch.exp(params[:, 2]) * (1 - self.eps) + self.eps)[:, None], (1, 1), value=1.0)
        knots = (y_knots if inverse else x_knots).detach().clone()
        knots[..., -1] += 1e-6
        index = torch.searchsorted(knots, inputs.detach()[:, None], right=True) - 1

        def of_bin(values: Tensor) -> Tensor:
            return values.gather(-1, index)[:, 0]

        x_low, width, y_low, height = of_bin(x_knots), of_bin(widths), of_bin(y_knots), of_bin(heights)
        delta = of_bin(heights / widths)
        low, high = of_bin(slopes), of_bin(slopes[:, 1:])
        if inverse:
            theta = _root(inputs - y_low, height, delta, low, high)
            return theta * width + x_low, -_log_slope(theta, delta, low, high)
        theta = (inputs - x_low) / width
        pi = theta * (1 - theta)
        outputs = y_low + height * (delta * theta**2 + low * pi) / (delta + (low + high - 2 * delta) * pi)
        return outputs, _log_slope(theta, delta, low, high)


def _root(rise: Tensor, height: Tensor, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The root in [0, 1] of aθ² + bθ + c = 0, by b² − 4ac."""
    a = rise * (low + high - 2 * delta) + height * (delta - low)
    b = height * low - rise * (low + high - 2 * delta)
    c = -delta * rise
    return 2 * c / (-b - torch.sqrt(b**2 - 4 * a * c))


def _log_slope(theta: Tensor, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """log q'(x)."""
    pi = theta * (1 - theta)
    numerator = delta**2 * (high * theta**2 + 2 * delta * pi + low * (1 - theta) ** 2)
    return torch.log(numerator) - 2 * torch.log(delta + (low + high - 2 * delta) * pi)
