"""Time, ways taking turns, and the peak of memory, in a fresh process."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import torch

from benchmarks import networks
from benchmarks.jobs import Job
from benchmarks.networks import ROOT
from benchmarks.setting import Setting

Key = TypeVar("Key", bound=Hashable)


def interleaved(ways: Mapping[Key, Callable[[], Any]], repeats: int) -> dict[Key, list[float]]:
    """Seconds of ``repeats`` calls of each way, in turns, after one call of each that is not timed."""
    for call in ways.values():
        call()
    times: dict[Key, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, call in ways.items():
            times[name].append(seconds(call))
    return times


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock time of one call, a GPU's work included."""
    _synchronize()
    start = time.perf_counter()
    call()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def medians(ways: Mapping[Key, Callable[[], Any]], repeats: int) -> dict[Key, float]:
    """Median seconds of each way, see ``interleaved``.

    Code that was compiled for earlier measurements is forgotten: torch compiles a function for a few shapes and
    types only, so results would depend on what else was measured.
    """
    torch.compiler.reset()
    return {name: statistics.median(values) for name, values in interleaved(ways, repeats).items()}


def ratios(values: Mapping[str, float], reference: str) -> dict[str, float | None]:
    """Each value divided by that of ``reference``; None if that is zero."""
    base = values[reference]
    return {name: None if base == 0 else value / base for name, value in values.items()}


class Measured(NamedTuple):
    """What a fresh process measured.

    Attributes:
        peak: Largest memory of the process (CPU) or of torch's allocations (CUDA), bytes.
        seconds: Median of its calls, after a warm-up with small inputs; next to nothing if it was idle.
    """

    peak: int
    seconds: float


class Children(AbstractContextManager["Children"]):
    """Runs jobs in fresh processes, with the seeded weights; each coupling's are written once.

    Args:
        setting: Of the processes.
        repeats: Calls of the job in each process.
    """

    def __init__(self, setting: Setting, repeats: int = 1) -> None:
        self._setting = replace(setting, repeats=repeats)
        self._folder = TemporaryDirectory()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def run(self, job: Job, idle: bool = False) -> Measured:
        """Measure a job, or, if ``idle``, the process that has its inputs only."""
        values = {
            "job": asdict(job),
            "setting": asdict(self._setting),
            "stored": str(self._weights(job)),
            "idle": idle,
        }
        command = [sys.executable, "-m", "benchmarks.memory_child", json.dumps(values)]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        return Measured(**json.loads(output.splitlines()[-1]))

    def extra(self, job: Job) -> Measured:
        """As ``run``, the peak less that of an idle process."""
        busy = self.run(job)
        return Measured(busy.peak - self.run(job, idle=True).peak, busy.seconds)

    def growth(self, one: Job, three: Job) -> float:
        """Growth of the peak per further item, bytes, from jobs of one and of three items."""
        return (self.run(three).peak - self.run(one).peak) / 2

    def _weights(self, job: Job) -> Path:
        path = Path(self._folder.name) / f"{job.coupling}.npy"
        if not path.exists():
            networks.store(job.coupling, self._setting.tiny, path)
        return path
