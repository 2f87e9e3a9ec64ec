"""How far from what the machine's convolutions allow."""

from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import jobs, measure
from benchmarks.jobs import Job
from benchmarks.networks import COUPLINGS
from benchmarks.setting import Row, Setting, report

WAYS = {"ours fp32": torch.float32, "ours bf16": torch.bfloat16}
# Batch, channels in and out, side of a 3×3 convolution; on a GPU the batch is 32 times as large.
CONVOLUTIONS = ((1, 512, 48), (1, 256, 96), (1, 128, 192), (4, 64, 192))
TINY_CONVOLUTIONS = ((1, 16, 16),)
# Name → work, samples or crops.
WORK = {"1 sample": ("sample", 1), "10 samples": ("sample", 10), "training step, 1 crop": ("train", 1)}


def floor(setting: Setting) -> None:
    """FLOPs that our code needs, over what the fastest big convolution would do in the same time."""
    peaks = {way: max(_speed(shape, dtype, setting) for shape in _shapes(setting)) for way, dtype in WAYS.items()}
    rows = [row for coupling in COUPLINGS for name in WORK for row in _rows(setting, coupling, name, peaks)]
    note = "; ".join(f"{way}: {peak / 1e9:.4g} GFLOP/s" for way, peak in peaks.items())
    report(setting, "floor: 40×40 LR, 4x", rows, f"Peak, best of big 3×3 convolutions, channels last: {note}.")


def _rows(setting: Setting, coupling: str, name: str, peaks: dict[str, float]) -> list[Row]:
    work, items = WORK[name]
    calls = {way: jobs.prepare(Job(work, way, coupling, items), setting) for way in WAYS}
    with FlopCounterMode(display=False) as counter:
        calls["ours fp32"]()
    needed = counter.get_total_flops()
    times = measure.medians(calls, setting.repeats)
    return [
        {
            "coupling": coupling,
            "work": name,
            "way": way,
            "needed GFLOP": needed / 1e9,
            "seconds": seconds,
            "needed / (peak · seconds)": needed / (peaks[way] * seconds),
        }
        for way, seconds in times.items()
    ]


def _shapes(setting: Setting) -> tuple[tuple[int, int, int], ...]:
    return TINY_CONVOLUTIONS if setting.tiny else CONVOLUTIONS


@torch.no_grad()
def _speed(shape: tuple[int, int, int], dtype: torch.dtype, setting: Setting) -> float:
    """FLOP/s of the fastest of some calls of one convolution."""
    batch, channels, side = shape
    batch *= 32 if setting.on_cuda else 1
    x = torch.randn(batch, channels, side, side, device=setting.device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=setting.device, dtype=dtype)
    x, weight = (part.contiguous(memory_format=torch.channels_last) for part in (x, weight))
    call = partial(F.conv2d, x, weight, padding=1)
    times = measure.interleaved({"convolution": call}, max(3, setting.repeats))
    return 2 * 9 * channels**2 * batch * side**2 / min(times["convolution"])
