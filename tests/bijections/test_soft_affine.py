import math

import pytest
import torch

from robustflow.bijections.elementwise import Affine, SoftAffine

SPECIAL = (0.0, -0.0, 1e30, 1e-45, 1e-39, 10.0, 3.0, 1e4)


def draw_extremes(n, generator):
    """x (1, n) and params (1, 2, n) of all sizes from denormals to 1e30, and 1e4."""
    x = 10 ** (76 * torch.rand(1, n, generator=generator, dtype=torch.float64) - 46)
    params = 10 ** (8 * torch.rand(1, 2, n, generator=generator) - 4)
    special = torch.tensor(SPECIAL, dtype=torch.float64)
    x[:, ::3] = special[torch.randint(len(special), x[:, ::3].shape, generator=generator)]
    x, params = (
        value * torch.where(torch.rand(value.shape, generator=generator) < 0.5, -1, 1) for value in (x, params)
    )
    params[:, :, ::5] = 0
    return x.float(), params


def check_extremes(n, generator, **options):
    """Nothing is non-finite; slopes lie between s and 1; round trips and distances are right within rounding."""
    soft, (x, params) = SoftAffine(**options), draw_extremes(n, generator)
    t, s = params[:, 0], torch.sigmoid(params[:, 1] + 2) + soft.eps
    given = x.clone().requires_grad_(), params.clone().requires_grad_()
    for direction in (soft, soft.inverse):
        value, log_slope = direction(*given)
        grads = torch.autograd.grad((value.sign() * log_slope + value / (1 + value.detach().abs())).sum(), given)
        assert all(bool(part.isfinite().all()) for part in (value, log_slope, *grads))
    y, log_slope = soft(x, params)
    assert bool((log_slope <= s.clamp(min=1).log() + 1e-6).all())
    assert bool((log_slope >= s.clamp(max=1).log() - 1e-6).all())
    error = (soft.inverse(y, params)[0] - x).abs() / ((x + t).abs() + t.abs()).clamp(min=1e-30)
    assert float(error.max()) < 2e-6
    apart = (soft.inverse(x, params)[0] - soft.inverse(x.roll(1), params)[0]).double().abs()
    limit, rounding = soft.inverse_bound(), 1e-6 * (x.abs() + x.roll(1).abs() + t.abs() + soft.B)
    assert bool((apart <= limit.factor * (x.double() - x.roll(1).double()).abs() + limit.offset + rounding).all())


@pytest.mark.parametrize("options", [{}, {"B": 1e-6}, {"B": 1e6, "eps": 0.1}], ids=str)
def test_nothing_overflows_or_cancels(options):
    check_extremes(30_000, torch.Generator().manual_seed(0), **options)


def draw(n=1000):
    generator = torch.Generator().manual_seed(0)
    x, params = 20 * torch.randn(1, n, generator=generator), 3 * torch.randn(1, 2, n, generator=generator)
    return x.double(), params.double()


def test_follows_its_equation():
    x, params = draw()
    u, s = x + params[:, 0], torch.sigmoid(params[:, 1] + 2) + 1e-4
    y, log_slope = SoftAffine(B=10.0)(x, params)
    torch.testing.assert_close(y, u - (1 - s) * u / (1 + u.abs() / 10))
    torch.testing.assert_close(log_slope, torch.log(1 - (1 - s) / (1 + u.abs() / 10) ** 2))


def test_a_wide_one_is_the_affine_map_and_a_narrow_one_a_shift():
    x, params = (value / 3 for value in draw())
    for found, expected in zip(SoftAffine(B=1e6)(x, params), Affine()(x, params), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    y, log_slope = SoftAffine(B=1e-6)(x, params)
    torch.testing.assert_close(y, x + params[:, 0], rtol=0, atol=2e-6)
    assert float(log_slope.abs().max()) < 1e-3


def test_scale_just_above_one_is_a_bijection_too():
    """σ(ŝ + 2) + ε exceeds 1 for large ŝ: slopes in [1, 1 + ε] then, and distances shrink."""
    x = torch.linspace(-50, 50, 2001, dtype=torch.float64)[None]
    params = torch.full((1, 2, 2001), 40.0, dtype=torch.float64)
    soft = SoftAffine(eps=0.1)
    y, log_slope = soft(x, params)
    assert 0 < float(log_slope.min()) < float(log_slope.max()) == pytest.approx(math.log(1.1), abs=1e-3)
    assert bool((y.diff() > x.diff()).all())
    torch.testing.assert_close(soft.inverse(y, params)[0], x, rtol=0, atol=1e-12)


def test_inverse_bound_is_nearly_reached():
    y = torch.tensor([[-1e9, 1e9]], dtype=torch.float64)
    params = torch.zeros(1, 2, 2, dtype=torch.float64)
    params[:, 1] = -60
    x, _ = SoftAffine(B=3.0, eps=0.01).inverse(y, params)
    gained = float(x.diff() - y.diff())
    assert SoftAffine(B=3.0, eps=0.01).inverse_bound() == (1.0, 6 * 0.99)
    assert 0.999 * 6 * 0.99 < gained <= 6 * 0.99 + 1e-6
