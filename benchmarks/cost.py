"""Time, memory and kernels of a call."""

import gc
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measure
from benchmarks.captured import Captured
from benchmarks.setting import Row, Setting

Call = Callable[[], Any]


class Cost(NamedTuple):
    """What a call costs; None: not measured.

    Attributes:
        seconds: Median, wall clock.
        peak: Largest memory of torch's allocations in the first call, captures included, beyond what was there, bytes.
        kernels: How many, copies included.
        kernel_seconds: Their time.
    """

    seconds: float | None = None
    peak: int | None = None
    kernels: float | None = None
    kernel_seconds: float | None = None

    def columns(self, needed: float, rate: float) -> Row:
        """Columns of a table; ``needed`` FLOP at ``rate`` FLOP/s are the floor."""
        return {
            "seconds": self.seconds,
            "peak GB": self.peak and self.peak / 1e9,
            "kernels": self.kernels,
            "kernel ms": self.kernel_seconds and 1e3 * self.kernel_seconds,
            "floor / seconds": self.seconds and needed / (rate * self.seconds),
        }


def of_each(what: str, makers: Mapping[str, Callable[[], Call | None]], setting: Setting) -> dict[str, Cost]:
    """Costs of the calls that the makers make, None for one that cannot be made; told on stderr as they are found.

    On CPUs in turns, since other work disturbs; on a GPU one after the other, since memory is measured.
    """
    costs: dict[str, Cost] = {}
    if setting.on_cuda:
        for name, maker in makers.items():
            costs[name] = _on_cuda(maker, setting)
            _tell(f"{what}, {name}", costs[name])
        return costs
    calls = {name: call for name, maker in makers.items() if (call := maker()) is not None}
    times = measure.medians(calls, setting.repeats)
    return {name: Cost(times.get(name)) for name in makers}


def _tell(what: str, found: Cost) -> None:
    """So that an interrupted program has told what it found."""
    ms = "not measured" if found.seconds is None else f"{1e3 * found.seconds:.4g} ms"
    kernels = "" if found.kernel_seconds is None else f", kernels {1e3 * found.kernel_seconds:.4g} ms"
    print(f"{what}: {ms}{kernels}", file=sys.stderr, flush=True)


def _on_cuda(maker: Callable[[], Call | None], setting: Setting) -> Cost:
    call = maker()
    if call is None:
        return Cost()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(setting.device)
    before = torch.cuda.memory_allocated(setting.device)
    call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated(setting.device) - before
    if isinstance(call, Captured) and call.failed:
        return Cost()
    seconds = statistics.median(measure.seconds(call) for _ in range(setting.repeats))
    with profiled() as found:
        call()
    return Cost(seconds, peak, *found())


@contextmanager
def profiled() -> Iterator[Callable[[], tuple[int, float]]]:
    """Watch the GPU; what is given tells, afterwards, number and seconds of kernels and copies."""
    # Otherwise older versions of CUDA lose track of graphs between two uses of the profiler.
    os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")
    os.environ.setdefault("TEARDOWN_CUPTI", "0")
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        yield lambda: summed(watched)
        torch.cuda.synchronize()


def attach_profiler() -> None:
    """Use the profiler once: graphs that are captured before its first use are not seen by it."""
    with profiled():
        torch.ones(1, device="cuda")


def summed(watched: profile) -> tuple[int, float]:
    """Number and seconds of kernels and copies that a profiler saw."""
    microseconds = [
        event.time_range.elapsed_us()
        for event in watched.events() or ()
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
    ]
    return len(microseconds), sum(microseconds) / 1e6


def flops(call: Call) -> float:
    """Floating-point operations of the convolutions and matrix products of a call."""
    # Told not to compile: otherwise torch 2.11 leaves uncompiled, ever after, what it meets first while it counts.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
