import pytest
import torch
import torch.nn.functional as F

from robustflow.nn.nearest import Resized

SIZES = [(1, 1), (1, 4), (2, 3), (5, 7)]
FACTORS = [0.25, 0.5, 1, 2, 4, 8]


def plain(x, weight, factor):
    return F.conv2d(F.interpolate(x, scale_factor=factor, mode="nearest"), weight, padding=1)


def sizes_of(factor):
    """Sizes of the smaller map, odd ones among them; below 1 the input must be a multiple of 1/factor."""
    step = 1 if factor >= 1 else round(1 / factor)
    return [(h * step, w * step) for h, w in SIZES]


@pytest.mark.parametrize("factor", FACTORS)
def test_equals_convolution_of_the_resized_map(factor):
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    for size in sizes_of(factor):
        x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
        found, expected = Resized(x, factor).conv(weight), plain(x, weight, factor)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        pull = torch.randn_like(expected)
        grads, expected_grads = (torch.autograd.grad((y * pull).sum(), (x, weight)) for y in (found, expected))
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, expected_grad, rtol=0, atol=1e-11)


def test_float32_stays_close():
    x, weight = torch.randn(1, 64, 6, 5), 0.05 * torch.randn(8, 64, 3, 3)
    expected = plain(x.double(), weight.double(), 4)
    torch.testing.assert_close(Resized(x, 4).conv(weight).double(), expected, rtol=0, atol=1e-5)
