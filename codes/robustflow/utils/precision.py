"""The arithmetic of float32 convolutions on CUDA devices: float32, or rounded to ten bits of mantissa (TF32).

torch's own default is TF32, for convolutions alone. It changes latents and samples of published networks by 1e-3,
float32 by 2e-6, and round trips by 7e-5: less than the noise of training, and more than an evaluation should add.
Matrix products, which mix a flow's channels, are always exact.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch

from robustflow.utils import cpus

log = logging.getLogger(__name__)


def resolve(option: str, training: bool, device: torch.device | None = None) -> str:
    """What the option ``precision`` means: "fp32", "tf32" or "bf16".

    Args:
        option: "auto", or one of these, which is taken as it is.
        training: Whether gradients for a training step are computed.
        device: Where; on CPUs "tf32" is "fp32". None: not asked.
    """
    auto = "tf32" if training else "fp32"
    chosen = auto if option == "auto" else option
    return "fp32" if chosen == "tf32" and device is not None and device.type == "cpu" else chosen


def describe(option: str, device: torch.device) -> str:
    """The arithmetic of a training run, for its log: "fp32", or "tf32 in training, fp32 in evaluation"."""
    training, evaluation = (resolve(option, training, device) for training in (True, False))
    return training if training == evaluation else f"{training} in training, {evaluation} in evaluation"


def warn_if_slow(option: str, device: torch.device) -> None:
    """Warn of bfloat16 on a CPU that has to emulate it."""
    if option == "bf16" and device.type == "cpu" and cpus.bf16_units() == []:
        log.warning(
            "precision: bf16 is several times slower than fp32 here: this CPU has no unit for it (avx512_bf16, "
            "amx_bf16); fp32 is advised"
        )


def use(option: str, training: bool) -> None:
    """Compute with the precision that the option means from here on, in this whole process."""
    _allow_tf32(resolve(option, training) == "tf32", matmul=False)


@contextlib.contextmanager
def using(option: str, training: bool) -> Iterator[None]:
    """Compute with the precision that the option means; afterwards as before. Kernels captured keep theirs."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    use(option, training)
    try:
        yield
    finally:
        _allow_tf32(*before)


def _allow_tf32(convolutions: bool, matmul: bool) -> None:
    with warnings.catch_warnings():
        # The newer setting is not in all versions of torch that will do, and must not be mixed with this one.
        warnings.filterwarnings("ignore", message=".*new API settings")
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.backends.cuda.matmul.allow_tf32 = matmul
