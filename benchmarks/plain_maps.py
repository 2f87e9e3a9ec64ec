"""The elementwise maps in the published style: textbook formulas, boolean masks, plain autograd."""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustflow.bijections.base import Elementwise
from robustflow.bijections.elementwise import Affine, RationalQuadratic


def forward(elementwise: Elementwise, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and log|dy/dx| of x (b, c, *spatial), params (b, num_params, c, *spatial)."""
    return _map(elementwise, x, params, inverse=False)


def inverse(elementwise: Elementwise, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and log|dx/dy|; shapes as in ``forward``."""
    return _map(elementwise, y, params, inverse=True)


def _map(elementwise: Elementwise, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    if isinstance(elementwise, Affine):
        return _affine(x, params, elementwise.eps, inverse)
    if isinstance(elementwise, RationalQuadratic):
        return _boxed_spline(x, params, elementwise.bounds, elementwise.eps, inverse)
    raise TypeError(f"expected Affine or RationalQuadratic, got {type(elementwise).__name__}")


def _affine(x: Tensor, params: Tensor, eps: float, inverse: bool) -> tuple[Tensor, Tensor]:
    """y = (x + t)·s, s = σ(ŝ + 2) + ε."""
    shift, scale = params[:, 0], torch.sigmoid(params[:, 1] + 2.0) + eps
    if inverse:
        return x / scale - shift, -torch.log(scale)
    return (x + shift) * scale, torch.log(scale)


def _boxed_spline(
    x: Tensor, params: Tensor, bounds: tuple[float, float], eps: float, inverse: bool
) -> tuple[Tensor, Tensor]:
    """y = q(x) + t: the spline for the elements selected inside the box, the identity for the others."""
    shift = params[:, 3]
    inputs = x - shift if inverse else x
    inside = (inputs >= bounds[0]) & (inputs <= bounds[1])
    outside = ~inside
    outputs, log_slope = torch.zeros_like(inputs), torch.zeros_like(inputs)
    outputs[outside] = inputs[outside]
    log_slope[outside] = 0
    if inside.any():
        chosen = params[:, :3].movedim(1, -1)[inside]
        outputs[inside], log_slope[inside] = _spline(inputs[inside], chosen, bounds, eps, inverse)
    return (outputs if inverse else outputs + shift), log_slope


def _knots(fraction: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Positions (m, 3) of the knots and sizes (m, 2) of the bins; ``fraction`` (m,) is that of the first bin."""
    sizes = torch.stack([fraction, 1 - fraction], dim=-1)
    cumulative = F.pad(torch.cumsum(sizes, dim=-1), (1, 0))
    cumulative = (bounds[1] - bounds[0]) * cumulative + bounds[0]
    cumulative[..., 0] = bounds[0]
    cumulative[..., -1] = bounds[1]
    return cumulative, cumulative[..., 1:] - cumulative[..., :-1]


def _spline(
    inputs: Tensor, params: Tensor, bounds: tuple[float, float], eps: float, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Rational-quadratic spline with K = 2 bins of ``inputs`` (m,) inside the box; params (m, 3): ŵ, ĥ, d̂."""
    x_knots, widths = _knots(torch.sigmoid(params[:, 0]) * (1 - 2 * eps) + eps, bounds)
    y_knots, heights = _knots(torch.sigmoid(params[:, 1]) * (1 - 2 * eps) + eps, bounds)
    slopes = F.pad((torch.exp(params[:, 2]) * (1 - eps) + eps)[:, None], (1, 1), value=1.0)

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
