"""The modified rational-quadratic spline: slope 1 outside a box, so its inverse cannot explode."""

from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, model_validator
from torch import Tensor

from robustflow.bijections.analytic import AnalyticElementwise, Partials, Slopes
from robustflow.bijections.base import InverseBound
from robustflow.registry import ELEMENTWISE, Options, require_valid


def _require_order(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] < bounds[1]:
        raise ValueError(f"expected [lower, upper] with lower < upper, got {list(bounds)}")
    return bounds


class RationalQuadraticOptions(Options):
    """Options of the modified rational-quadratic spline."""

    type: Literal["rq_spline"] = "rq_spline"
    bounds: Annotated[
        tuple[FiniteFloat, FiniteFloat],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
        AfterValidator(_require_order),
    ] = Field((-0.5, 0.5), description="The box [B1, B2]; the map is x + t outside it.")
    eps: float = Field(
        1e-3, gt=0, lt=0.5, description="Smallest bin width and height, below half the box's, and smallest slope."
    )

    @model_validator(mode="after")
    def _require_room(self) -> "RationalQuadraticOptions":
        size = self.bounds[1] - self.bounds[0]
        if not 2 * self.eps < size:
            raise ValueError(
                f"expected 2 eps < upper - lower, as both bins are at least eps wide, got eps {self.eps:g} and bounds "
                f"{list(self.bounds)}: widen bounds, or make eps smaller than {size / 2:g}"
            )
        return self


class _Bounds(NamedTuple):
    """The box [B1, B2] and ε."""

    lower: Tensor
    upper: Tensor
    eps: Tensor

    @property
    def size(self) -> Tensor:
        return self.upper - self.lower

    @property
    def share(self) -> Tensor:
        """ε as a share of the box: knots lie in (B1 + ε, B2 − ε)."""
        return self.eps / self.size

    def contains(self, x: Tensor) -> Tensor:
        """1 inside, 0 outside, see ``_where``."""
        return ((x > self.lower) & (x < self.upper)).to(x.dtype)

    def from_outer_knot(self, x: Tensor, sign: Tensor) -> Tensor:
        """Distance of x from the outer knot of its bin: x − B1 or B2 − x."""
        return self.size / 2 + sign * (x - (self.lower + self.upper) / 2)

    def at_distance(self, xi: Tensor, sign: Tensor) -> Tensor:
        """The place at distance ξ from the outer knot: B1 + ξ or B2 − ξ."""
        return (self.lower + self.upper) / 2 + sign * (xi - self.size / 2)


class _Bin(NamedTuple):
    """The bin an element lies in, mirrored so that its outer knot has slope 1 and its inner knot slope δ."""

    sign: Tensor  # +1 in the left bin, −1 in the right one
    width: Tensor
    height: Tensor
    per_height: Tensor  # 1 / height: divisions are what takes time
    slope: Tensor  # Δ = height / width
    delta: Tensor  # δ, slope at the interior knot
    sigmoid_slopes: tuple[Tensor, Tensor]  # σ(a)·σ(−a) of a = ŵ and a = ĥ


LOG_DELTA_RANGE = (-60.0, 40.0)  # far outside the useful range; keeps δ² finite in float32


@ELEMENTWISE.register("rq_spline", RationalQuadraticOptions)
class RationalQuadratic(AnalyticElementwise):
    """c(x) = q(x) + t, q a rational-quadratic spline with one interior knot inside the box, the identity outside.

    Hong et al., ICCV 2023, supplement S1.2; the spline is that of Durkan et al., Neural Spline Flows, 2019. Four
    parameters ŵ, ĥ, d̂, t. A point reflection of the box turns the right bin into a left one with −ŵ, −ĥ; with ξ the
    distance from the outer knot, θ = ξ/W, π = θ(1−θ), Δ = H/W:

        g = H(Δθ² + π)/D,  D = Δ(1−2π) + (1+δ)π,  g' = Δ²(δθ² + 2Δπ + (1−θ)²)/D²

    Only sums of non-negative terms, in both directions: nothing overflows or cancels for any parameters.

    Args:
        bounds: The box [B1, B2].
        eps: ε: the interior knot lies in (B1 + ε, B2 − ε) in both directions, its slope above ε; below (B2 − B1)/2.
    """

    num_params = 4

    def __init__(self, bounds: tuple[float, float] = (-0.5, 0.5), eps: float = 1e-3) -> None:
        super().__init__()
        require_valid(RationalQuadraticOptions, bounds=bounds, eps=eps)
        self.bounds = bounds
        self.eps = eps
        self.constants = (*bounds, eps)

    def inverse_bound(self) -> InverseBound:
        """Slope 1 outside the box; inside, steep as it may be, nothing moves farther than the box is wide."""
        return InverseBound(1.0, self.bounds[1] - self.bounds[0])

    @staticmethod
    def evaluate(x: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return y = q(x) + t and log q'(x)."""
        (*_, t), box = params.unbind(-2), _Bounds(*constants)
        inside, b = box.contains(x), _bin(x, params, box)
        theta = (box.from_outer_knot(x, b.sign) / b.width).clamp(0, 1)
        pi = theta * (1 - theta)
        g = b.height * (b.slope * theta**2 + pi) / (b.slope * (1 - 2 * pi) + (1 + b.delta) * pi)
        q = box.at_distance(g, b.sign)
        return _where(inside, q, x) + t, inside * _log_slope(b, theta, 1 - theta)

    @staticmethod
    def invert(y: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return x = q⁻¹(y − t) and −log q'(x): the root of the quadratic without cancellation."""
        (*_, t), box = params.unbind(-2), _Bounds(*constants)
        v = y - t
        inside, b = box.contains(v), _bin(v, params, box, by_height=True)
        u = (box.from_outer_knot(v, b.sign) * b.per_height).clamp(0, 1)
        r = 1 - u
        e = r - b.delta * u
        root = torch.sqrt(e**2 + 4 * b.slope**2 * u * r)
        near_outer = (e >= 0).to(e.dtype)
        part = 2 * b.slope * _where(near_outer, u, r)
        fraction = part / (e.abs() + part + root)
        theta, rest = _where(near_outer, fraction, 1 - fraction), _where(near_outer, 1 - fraction, fraction)
        q = box.at_distance(b.width * theta, b.sign)
        q = torch.minimum(torch.maximum(q, box.lower), box.upper)
        return _where(inside, q, v), -inside * _log_slope(b, theta, rest)

    @staticmethod
    def partials(x: Tensor, params: Tensor, *constants: Tensor) -> Partials:
        """Return dy/dx, dl/dx and the derivatives by ŵ, ĥ, d̂, t; l = log q'."""
        (_, _, d_hat, _), box = params.unbind(-2), _Bounds(*constants)
        inside, b = box.contains(x), _bin(x, params, box)
        theta = (box.from_outer_knot(x, b.sign) / b.width).clamp(0, 1)
        g_xi, l_xi, g_w, l_w, g_h, l_h, g_d, l_d = _bin_partials(b, theta)
        size = inside * (box.size * (1 - 2 * box.share))
        width_by_param, height_by_param = (size * slope for slope in b.sigmoid_slopes)
        low, high = LOG_DELTA_RANGE
        delta_by_param = inside * ((d_hat > low) & (d_hat < high)) * (b.delta - box.eps)
        by_param: Slopes = [
            (g_w * width_by_param, b.sign * l_w * width_by_param),
            (g_h * height_by_param, b.sign * l_h * height_by_param),
            (b.sign * g_d * delta_by_param, l_d * delta_by_param),
            (torch.ones_like(x), 0.0),
        ]
        return _where(inside, g_xi, 1.0), inside * b.sign * l_xi, by_param


def _bin(x: Tensor, params: Tensor, box: _Bounds, by_height: bool = False) -> _Bin:
    """The bin of x, or, by height, of q(x)."""
    w_hat, h_hat, d_hat, _ = params.unbind(-2)
    (left_width, right_width, w_slope), (left_height, right_height, h_slope) = _sizes(w_hat, box), _sizes(h_hat, box)
    left = (x < box.lower + (left_height if by_height else left_width)).to(x.dtype)
    width, height = _where(left, left_width, right_width), _where(left, left_height, right_height)
    delta = torch.exp(d_hat.clamp(*LOG_DELTA_RANGE)) * (1 - box.eps) + box.eps
    return _Bin(2 * left - 1, width, height, 1 / height, height / width, delta, (w_slope, h_slope))


def _sizes(a: Tensor, box: _Bounds) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes of the left and the right bin, f(±a) times the box, f(a) = σ(a)(1−2e) + e, e its share; and σ(a)·σ(−a)."""
    # Not torch.sigmoid, which rounds in another way where a tensor's last elements fill no vector register.
    left, right = 1 / (1 + torch.exp(-a)), 1 / (1 + torch.exp(a))
    left_size, right_size = (box.size * (part * (1 - 2 * box.share) + box.share) for part in (left, right))
    return left_size, right_size, left * right


def _where(mask: Tensor, a: Tensor, b: Tensor | float) -> Tensor:
    """a where the mask is 1, b where it is 0, both finite there: on CPUs ``torch.where`` takes as long as all else."""
    return mask * a + (1 - mask) * b


def _log_slope(b: _Bin, theta: Tensor, rest: Tensor) -> Tensor:
    pi = theta * rest
    numerator = b.delta * theta**2 + 2 * b.slope * pi + rest**2
    per_d = 1 / ((1 - 2 * pi) + (1 + b.delta) * pi * (b.width * b.per_height))  # Δ/D, at most 2
    # One after the other: the square could underflow.
    return torch.log(numerator * per_d * per_d)


def _bin_partials(b: _Bin, theta: Tensor) -> tuple[Tensor, ...]:
    """Derivatives of g and l by ξ, W, H and δ in turn, from G = g/H and l as functions of θ, Δ, δ."""
    rest = 1 - theta
    pi = theta * rest
    by_d = 1 / (b.slope * (1 - 2 * pi) + (1 + b.delta) * pi)
    by_slope, by_width = 1 / b.slope, 1 / b.width
    m = b.delta * theta**2 + 2 * b.slope * pi + rest**2
    by_m = 1 / m
    gg = (b.slope * theta**2 + pi) * by_d
    # By θ, Δ, δ.
    gg_theta = b.slope * m * by_d * by_d
    gg_slope = (theta**2 - gg * (1 - 2 * pi)) * by_d
    gg_delta = -gg * pi * by_d
    l_theta = 2 * (b.delta * theta + b.slope * (rest - theta) - rest) * by_m
    l_theta = l_theta - 2 * (b.delta + 1 - 2 * b.slope) * (rest - theta) * by_d
    l_slope = 2 * by_slope + 2 * pi * by_m - 2 * (1 - 2 * pi) * by_d
    l_delta = theta**2 * by_m - 2 * pi * by_d
    # By ξ, W, H: θ = ξ/W, Δ = H/W.
    g_xi = b.slope * gg_theta
    g_w = -b.slope * (theta * gg_theta + b.slope * gg_slope)
    g_h = gg + b.slope * gg_slope
    l_w = -(theta * l_theta + b.slope * l_slope) * by_width
    return g_xi, l_theta * by_width, g_w, l_w, g_h, l_slope * by_width, b.height * gg_delta, l_delta
