from pathlib import Path

import pytest
import torch

from robustflow.bijections.elementwise import RationalQuadratic
from robustflow.bijections.elementwise.rational_quadratic import RationalQuadraticOptions

FIXTURE = Path(__file__).resolve().parents[3] / "shared" / "golden" / "j_rational_quadratic_spline.pt"
SCALES = [1, 3, 10, 100]
N = 2_000_000


def draw(scale, n=N, spline=None, dtype=torch.float32, seed=0):
    """x (1, n), a tenth of it exactly on the box and its neighbours in floating point, and params (1, 4, n)."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (spline or RationalQuadratic()).bounds
    x = 2 * torch.rand(1, n, generator=generator, dtype=dtype) - 1
    bounds = torch.tensor([low, high], dtype=dtype)
    edges = torch.cat([bounds, torch.nextafter(bounds, bounds.new_zeros(2)), torch.nextafter(bounds, 2 * bounds)])
    x[:, : n // 10] = edges.repeat(n // 60 + 1)[: n // 10]
    return x, scale * torch.randn(1, 4, n, generator=generator, dtype=dtype)


def inside(x, spline):
    return (x >= spline.bounds[0]) & (x <= spline.bounds[1])


# The contract itself: test_contract.py


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_overflows_or_leaves_the_box_in_float32(scale):
    spline = RationalQuadratic()
    x, params = draw(scale)
    y, log_slope = spline(x, params)
    assert y.isfinite().all()
    assert log_slope.isfinite().all()
    params[:, 3] = 0
    q, _ = spline(x, params)
    assert torch.equal(inside(q, spline), inside(x, spline))
    back, log_slope = spline.inverse(x, params)
    assert back.isfinite().all()
    assert log_slope.isfinite().all()
    assert torch.equal(inside(back, spline), inside(x, spline))


@pytest.mark.parametrize("scale", SCALES)
def test_gradients_are_finite_in_float32(scale):
    spline = RationalQuadratic()
    x, params = (value.requires_grad_() for value in draw(scale, n=200_000))
    for direction in (spline, spline.inverse):
        y, log_slope = direction(x, params)
        for grad in torch.autograd.grad(y.sum() + log_slope.sum(), (x, params)):
            assert grad.isfinite().all()


def conditioning(x, params):
    """What one rounding of x, |x| ≤ 1, does to y and to the log-slope, in units of the last place."""
    x, params = x.double().clone().requires_grad_(), params.double()
    _, log_slope = RationalQuadratic()(x, params)
    (change,) = torch.autograd.grad(log_slope.sum(), x)
    return 1 + log_slope.detach().exp(), 1 + change.abs()


def error(found, expected, condition):
    """Largest difference in units of the last place of what was found, as a multiple of the conditioning."""
    return float(((found.double() - expected.double()).abs() / condition).max() / torch.finfo(found.dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1, 3])
def test_inverse_solves_the_equation(scale, dtype):
    y, params = draw(scale, n=200_000, dtype=dtype)
    spline = RationalQuadratic()
    x, _ = spline.inverse(y, params)
    again, _ = spline(x, params)
    assert error(again, y, conditioning(x, params)[0]) < 4
    if scale == 1:
        assert (again - y).abs().max() < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1, 3])
def test_float32_is_float64_rounded(scale):
    x, params = draw(scale, n=200_000)
    spline = RationalQuadratic()
    found, exact = spline(x, params), spline(x.double(), params.double())
    for value, expected, condition in zip(found, exact, conditioning(x, params), strict=True):
        assert error(value, expected, condition) < 20


def test_any_gradient_equals_plain_autograd():
    x, params = draw(1, n=20_000, dtype=torch.float64)
    x = torch.where((x.abs() - 0.5).abs() < 1e-9, 0.25, x)  # the log-slope has a kink on the box
    spline = RationalQuadratic()
    weights = torch.randn(2, *x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for direction, plain in ((spline, spline.evaluate), (spline.inverse, spline.invert)):
        grads = []
        for function in (
            direction,
            lambda x, params, plain=plain: plain(x, params, *torch.tensor(spline.constants, dtype=torch.float64)),
        ):
            variables = x.clone().requires_grad_(), params.clone().requires_grad_()
            loss = (weights * torch.stack(function(*variables))).sum()
            grads.append(torch.autograd.grad(loss, variables))
        for value, expected in zip(*grads, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (-1.0, 0.25), (0.0, 2.0)])
@pytest.mark.parametrize("eps", [1e-3, 0.1])
def test_zero_parameters_are_the_identity(bounds, eps):
    spline = RationalQuadratic(bounds, eps)
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)[None]
    for direction in (spline, spline.inverse):
        y, log_slope = direction(x, torch.zeros(1, 4, 1001, dtype=torch.float64))
        torch.testing.assert_close(y, x, rtol=0, atol=1e-15)
        torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (-1.0, 0.25), (0.0, 2.0)])
def test_slope_is_exactly_one_outside_the_box(bounds):
    spline = RationalQuadratic(bounds)
    x = torch.tensor([[-1e6, -3, bounds[0], bounds[1], 3, 1e6]])
    params = 10 * torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    y, log_slope = spline(x, params)
    assert torch.equal(y, x + params[:, 3])
    assert torch.equal(log_slope, torch.zeros_like(x))
    params[:, 3] = 0
    back, log_slope = spline.inverse(x, params)
    assert torch.equal(back, x)
    assert torch.equal(log_slope, torch.zeros_like(x))


@pytest.mark.parametrize(("bounds", "eps"), [((-0.5, 0.5), 1e-3), ((-1.0, 0.25), 0.05), ((-3.0, 3.0), 0.4)])
def test_follows_the_paper_s_equations(bounds, eps):
    spline = RationalQuadratic(bounds, eps)
    x, params = draw(1, n=20_000, spline=spline, dtype=torch.float64)
    q, slope = textbook_spline(x, params, bounds, eps)
    y, log_slope = spline(x, params)
    torch.testing.assert_close(y, q, rtol=0, atol=1e-14)
    torch.testing.assert_close(log_slope, slope.log(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (-2.0, 2.0), (0.0, 0.1)])
def test_knots_stay_eps_away_from_the_box(bounds):
    """The knot (x_k, y_k) is at (B1 + ε, B2 − ε) where ŵ → −∞, ĥ → ∞; whatever the box is wide."""
    eps = 1e-2
    params = torch.tensor([-100.0, 100.0, 0.0, 0.0], dtype=torch.float64).view(1, 4, 1)
    y, _ = RationalQuadratic(bounds, eps)(torch.tensor([[bounds[0] + eps]], dtype=torch.float64), params)
    assert y.item() == pytest.approx(bounds[1] - eps, abs=1e-12)
    x, _ = RationalQuadratic(bounds, eps).inverse(y, params)
    assert x.item() == pytest.approx(bounds[0] + eps, abs=1e-12)


@pytest.mark.parametrize(("bounds", "eps"), [((0.0, 0.1), 0.05), ((0.0, 0.1), 0.4)])
def test_a_box_without_room_for_a_knot_is_refused(bounds, eps):
    with pytest.raises(ValueError, match=r"expected 2 eps < upper - lower.*make eps smaller than 0\.05"):
        RationalQuadraticOptions(bounds=bounds, eps=eps)


def textbook_spline(x, params, bounds, eps):
    (low, high), (w_hat, h_hat, d_hat, t) = bounds, params.unbind(1)
    x_k = (low + eps) + (high - low - 2 * eps) * torch.sigmoid(w_hat)
    y_k = (low + eps) + (high - low - 2 * eps) * torch.sigmoid(h_hat)
    delta_k = torch.exp(d_hat) * (1 - eps) + eps
    left, one = x < x_k, torch.ones_like(x)
    x_lo, x_hi = torch.where(left, low, x_k), torch.where(left, x_k, high)
    y_lo, y_hi = torch.where(left, low, y_k), torch.where(left, y_k, high)
    d_lo, d_hi = torch.where(left, one, delta_k), torch.where(left, delta_k, one)
    slope, theta = (y_hi - y_lo) / (x_hi - x_lo), (x - x_lo) / (x_hi - x_lo)
    pi = theta * (1 - theta)
    denominator = slope + (d_hi + d_lo - 2 * slope) * pi
    q = y_lo + (y_hi - y_lo) * (slope * theta**2 + d_lo * pi) / denominator
    dq = slope**2 * (d_hi * theta**2 + 2 * slope * pi + d_lo * (1 - theta) ** 2) / denominator**2
    outside = (x <= low) | (x >= high)
    return torch.where(outside, x, q) + t, torch.where(outside, one, dq)


# Published numbers


@pytest.fixture(scope="module")
def published():
    if not FIXTURE.exists():
        pytest.skip(f"{FIXTURE.name} is not here")
    return torch.load(FIXTURE, weights_only=True)


def parameters(case, dtype):
    hats = [case[name].squeeze(-1).to(dtype) for name in ("width", "height", "derivative")]
    return torch.stack([*hats, torch.zeros_like(hats[0])], dim=1)


@pytest.mark.parametrize(("name", "limit"), [("mild", 20), ("wide", 1000), ("extreme", 1000)])
def test_forward_equals_the_published_one(published, name, limit):
    """At large parameters the published log-slope loses up to three digits by cancellation."""
    case = published[name]
    x, params = case["x"].double(), parameters(case, torch.float64)
    for_y, for_log_slope = conditioning(x, params)
    y, log_slope = RationalQuadratic()(x, params)
    assert error(y, case["f64"]["fwd"][0], for_y) < 4
    assert error(log_slope, case["f64"]["fwd"][1], for_log_slope) < limit


@pytest.mark.parametrize(("name", "limits"), [("mild", (1e-14, 1e-12)), ("wide", (1e-12, 1e-7))])
def test_inverse_equals_the_published_one(published, name, limits):
    """Not at extreme parameters: the published inverse is wrong there."""
    case = published[name]
    found = RationalQuadratic().inverse(case["x"].double(), parameters(case, torch.float64))
    for value, expected, limit in zip(found, case["f64"]["inv"], limits, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=limit)


def test_float32_equals_the_published_one(published):
    case = published["mild"]
    x, params = case["x"], parameters(case, torch.float32)
    for direction, key in ((RationalQuadratic(), "fwd"), (RationalQuadratic().inverse, "inv")):
        for value, expected, limit in zip(direction(x, params), case["f32"][key], (2e-6, 1e-4), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", ["mild", "wide", "extreme"])
def test_inverse_solves_the_equation_at_published_parameters(published, name):
    y, params = published[name]["x"].double(), parameters(published[name], torch.float64)
    x, _ = RationalQuadratic().inverse(y, params)
    assert error(RationalQuadratic()(x, params)[0], y, conditioning(x, params)[0]) < 4


def test_other_box_equals_the_published_one(published):
    case = published["default_0_1"]
    spline, params = RationalQuadratic(bounds=(0.0, 1.0)), parameters(case, torch.float32)
    for direction, key in ((spline, "fwd"), (spline.inverse, "inv")):
        for value, expected in zip(direction(case["x"], params), case["f32"][key], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mild", "wide", "extreme"])
def test_parameter_gradients_equal_the_published_ones(published, name):
    case = published[name]
    params = parameters(case, torch.float64).requires_grad_()
    q, log_slope = RationalQuadratic()(case["x"].double(), params)
    weights = torch.linspace(-1, 1, q.numel(), dtype=torch.float64).view_as(q)
    ((q * weights).sum() + log_slope.sum()).backward()
    for grad, expected in zip(params.grad.unbind(1), case["param_grads_f64"], strict=False):
        torch.testing.assert_close(grad, expected.squeeze(-1).double(), rtol=1e-6, atol=1e-6)
