"""What the device's convolutions reach at best: the measure of how close a network comes."""

from functools import partial

import torch
import torch.nn.functional as F

from benchmarks import measure
from benchmarks.setting import Setting

# Batch, channels in and out, side of a 3×3 convolution; on a GPU the batch is 16 times as large.
CONVOLUTIONS = ((1, 512, 48), (1, 256, 96), (1, 128, 192), (4, 64, 192))
TINY_CONVOLUTIONS = ((1, 16, 16),)


def fastest(precision: str, setting: Setting) -> float:
    """FLOP/s of the fastest of some calls of big convolutions in "fp32", "tf32" or "bf16"."""
    shapes = TINY_CONVOLUTIONS if setting.tiny else CONVOLUTIONS
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=precision == "tf32"):
        return max(_speed(shape, dtype, setting) for shape in shapes)


@torch.no_grad()
def _speed(shape: tuple[int, int, int], dtype: torch.dtype, setting: Setting) -> float:
    batch, channels, side = shape
    batch *= 16 if setting.on_cuda else 1
    x = torch.randn(batch, channels, side, side, device=setting.device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=setting.device, dtype=dtype)
    x, weight = (part.contiguous(memory_format=torch.channels_last) for part in (x, weight))
    call = partial(F.conv2d, x, weight, padding=1)
    times = measure.interleaved({"convolution": call}, max(3, setting.repeats))
    return 2 * 9 * channels**2 * batch * side**2 / min(times["convolution"])
