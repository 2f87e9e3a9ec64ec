import math

import pytest
import torch

from robustflow.bijections.elementwise import Affine


def draw(std, n=1000):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, n, generator=generator), std * torch.randn(1, 2, n, generator=generator)


def test_follows_its_equation():
    x, params = draw(1)
    t, s = params[:, 0], torch.sigmoid(params[:, 1] + 2) + 1e-4
    y, log_slope = Affine()(x, params)
    torch.testing.assert_close(y, (x + t) * s)
    torch.testing.assert_close(log_slope, torch.log(s))


@pytest.mark.parametrize("eps", [1e-4, 0.1])
@pytest.mark.parametrize("std", [1, 100])
def test_inverse_slope_is_bounded_by_1_over_eps(eps, std):
    y, params = draw(std)
    x, log_slope = Affine(eps).inverse(y, params)
    assert x.isfinite().all()
    assert log_slope.max() <= -math.log(eps) * (1 + 1e-6)
    assert log_slope.min() >= -math.log(1 + eps) - 1e-6
    if std == 100:
        assert log_slope.max() == pytest.approx(-math.log(eps), rel=1e-6)


def test_gradients_equal_plain_autograd():
    x, params = (value.double() for value in draw(1))
    affine = Affine()
    for direction, plain in ((affine, affine.evaluate), (affine.inverse, affine.invert)):
        grads = []
        for function in (
            direction,
            lambda x, params, plain=plain: plain(x, params, torch.tensor(affine.eps, dtype=torch.float64)),
        ):
            variables = x.clone().requires_grad_(), params.clone().requires_grad_()
            y, log_slope = function(*variables)
            grads.append(torch.autograd.grad((y**2).sum() + (log_slope * x).sum(), variables))
        for value, expected in zip(*grads, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
