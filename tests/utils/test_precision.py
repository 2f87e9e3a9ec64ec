import warnings

import pytest
import torch

from robustflow.utils import precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def _restored():
    before = tf32()
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize(
    ("option", "training", "evaluation"),
    [("auto", "tf32", "fp32"), ("fp32", "fp32", "fp32"), ("tf32", "tf32", "tf32"), ("bf16", "bf16", "bf16")],
)
def test_what_the_option_means(option, training, evaluation):
    assert precision.resolve(option, training=True) == precision.resolve(option, True, CUDA) == training
    assert precision.resolve(option, training=False) == precision.resolve(option, False, CUDA) == evaluation


def test_cpus_have_no_tf32():
    assert precision.resolve("tf32", training=False, device=CPU) == "fp32"
    assert precision.resolve("bf16", training=True, device=CPU) == "bf16"
    assert precision.describe("auto", CPU) == "fp32"
    assert precision.describe("auto", CUDA) == "tf32 in training, fp32 in evaluation"
    assert precision.describe("bf16", CUDA) == "bf16"


@pytest.mark.parametrize("convolutions", [False, True])
@pytest.mark.parametrize("matmul", [False, True])
def test_using_sets_convolutions_alone_and_restores(convolutions, matmul):
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, matmul
    with precision.using("auto", training=True):
        assert tf32() == (True, False)
        with precision.using("auto", training=False):
            assert tf32() == (False, False)
        with precision.using("bf16", training=True):
            assert tf32() == (False, False)
        assert tf32() == (True, False)
    assert tf32() == (convolutions, matmul)


def test_using_restores_after_an_error():
    precision.use("tf32", training=False)
    with pytest.raises(ValueError), precision.using("fp32", training=True):
        raise ValueError
    assert tf32() == (True, False)


def test_goes_with_torch_s_own_context_of_flags():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision.use("tf32", training=False)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            assert tf32() == (False, False)
        assert tf32() == (True, False)
