"""Runs train.py in this process and prints, as JSON, how fast it went: ``python -m benchmarks.loop_child PERIOD ...``.

PERIOD is the option ``logger.print_freq``; the other arguments are those of train.py. Start-up, up to the second line
of the log, does not count: code is compiled, graphs are captured.
"""

import json
import logging
import math
import re
import runpy
import sys
import time
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks import cost
from benchmarks.networks import ROOT
from robustflow.nn import fused

LINE = re.compile(r"iteration (\d+)/(\d+): ")


class Watch(logging.Handler):
    """Notes when iterations were logged; on a GPU the last ones are profiled, and not timed.

    Args:
        period: Iterations between lines of the log.
        on_cuda: Whether the device is a GPU.
    """

    def __init__(self, period: int, on_cuda: bool) -> None:
        super().__init__()
        self.period, self.on_cuda = period, on_cuda
        self.marks: list[tuple[int, float]] = []
        self.kernels: tuple[float, float] | None = None
        self._open = ExitStack()
        self._found: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line that tells of an iteration."""
        line = LINE.match(record.getMessage())
        if line is None:
            return
        number, last = (int(text) for text in line.groups())
        if self.on_cuda:
            torch.cuda.synchronize()
        if self._found is not None:
            self._stop()
            return
        self.marks.append((number, time.perf_counter()))
        if self.on_cuda and last - self.period <= number < last:
            self._found = self._open.enter_context(cost.profiled())

    def _stop(self) -> None:
        self._open.close()
        kernels, seconds = self._found()
        self.kernels, self._found = (kernels / self.period, seconds / self.period), None

    def result(self) -> dict[str, float | None]:
        """Iterations per second, peak of memory in bytes, kernels per iteration and their seconds."""
        (first, began), (last, ended) = self.marks[1], self.marks[-1]
        kernels, seconds = self.kernels or (None, None)
        return {
            "rate": (last - first) / (ended - began),
            "peak": torch.cuda.max_memory_allocated() if self.on_cuda else None,
            "kernels": kernels,
            "kernel_seconds": seconds,
        }


def main(period: int, arguments: list[str]) -> None:
    """Train as the arguments say."""
    on_cuda = torch.cuda.is_available() and "device=cpu" not in " ".join(arguments)
    if on_cuda:
        cost.attach_profiler()
    watch = Watch(period, on_cuda)
    logging.getLogger("robustflow").addHandler(watch)
    sys.argv = ["train.py", *arguments]
    try:
        # As in a run of usual length, which compiles.
        with fused.expecting(math.inf):
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as ended:
        if ended.code not in (0, None):
            raise
    print(json.dumps(watch.result()))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
