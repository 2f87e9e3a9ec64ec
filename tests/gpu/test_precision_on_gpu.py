"""The option ``precision`` on CUDA."""

import pytest
import torch
import torch.nn.functional as F

from robustflow.utils import precision

EXACT, ROUGH = 1e-5, 5e-5


def error(function, *tensors):
    """Of a result in float32, relative to that of the CPU in float64."""
    expected = function(*(tensor.cpu().double() for tensor in tensors))
    return ((function(*tensors).cpu().double() - expected).norm() / expected.norm()).item()


def convolution(x, kernel):
    return F.conv2d(x, kernel, padding=1)


@pytest.fixture
def tensors(cuda):
    return torch.randn(4, 64, 64, 64, device=cuda), torch.randn(64, 64, 3, 3, device=cuda)


@pytest.mark.parametrize(
    ("option", "training", "rounds"),
    [
        *(("auto", True, True), ("auto", False, False), ("tf32", True, True), ("tf32", False, True)),
        *(("fp32", True, False), ("bf16", True, False)),
    ],
)
def test_convolutions_round_as_the_option_says(tensors, option, training, rounds):
    if rounds and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    with precision.using(option, training):
        found = error(convolution, *tensors)
    assert found > ROUGH if rounds else found < EXACT


def test_matrix_products_are_exact_in_tf32(cuda):
    with precision.using("tf32", training=True):
        assert error(torch.matmul, torch.randn(96, 96, device=cuda), torch.randn(2, 96, 4096, device=cuda)) < EXACT
