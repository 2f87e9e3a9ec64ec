"""Hand-written gradients have no second derivatives, and say so."""

import pytest
import torch

import robustflow as rf
from robustflow.encoders.blocks import DenseBlock


def apply_map(x):
    y, log_slope = rf.RationalQuadratic()(x, x.new_zeros(2, 4, *x.shape[1:]) + x.mean())
    return y + log_slope


def apply_block(x):
    torch.manual_seed(0)
    return DenseBlock(3, 2).to(x)(x)


@pytest.mark.parametrize("function", [apply_map, apply_block])
def test_second_derivatives_are_an_error(function):
    """Also where the first ones are multiplied by numbers alone, as of a mean."""
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(function(x).mean(), x)
    assert gradient.abs().max() > 0
    with pytest.raises(RuntimeError, match="have no second derivatives"):
        torch.autograd.grad(function(x).mean(), x, create_graph=True)
