"""Tests that need CUDA. GPU_TESTS_ON=cpu tries all but those of CUDA's own arithmetic on a machine without."""

import os

import pytest
import torch

from robustflow.utils import precision


@pytest.fixture(scope="session")
def device():
    chosen = torch.device(os.environ.get("GPU_TESTS_ON", "cuda"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return chosen


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def exact():
    """No TF32, as in evaluation, and the same kernels at each call."""
    flags = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with flags, precision.using("fp32", training=False):
        yield
