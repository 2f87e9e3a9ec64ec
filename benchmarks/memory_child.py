"""A fresh process that does one job and prints its peak of memory and its time; its one argument is JSON."""

import contextlib
import json
import math
import resource
import statistics
import sys
from pathlib import Path

import torch

from benchmarks import jobs, measure
from benchmarks.jobs import Job
from benchmarks.setting import Setting
from robustflow.nn import fused


def _peak(setting: Setting) -> int:
    if setting.on_cuda:
        return torch.cuda.max_memory_allocated(setting.device)
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux that begins with the peak of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _forget_peak(setting: Setting) -> None:
    """Set the peak back to what is in use, where the system can (Linux, CUDA): the warm-up's could hide a small job."""
    if setting.on_cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    command = Path("/proc/self/clear_refs")
    if command.exists():
        with contextlib.suppress(OSError):
            command.write_text("5")


def main(text: str) -> None:
    """Do the job that the JSON text describes, see ``measure.Children.run``."""
    values = json.loads(text)
    job, setting = Job(**values["job"]), Setting(**values["setting"])
    torch.set_num_threads(setting.threads)
    with fused.expecting(math.inf):
        call = jobs.prepare(job, setting, Path(values["stored"]), warm_up=True, idle=values["idle"])
        _forget_peak(setting)
        seconds = statistics.median(measure.seconds(call) for _ in range(setting.repeats))
    print(json.dumps({"peak": _peak(setting), "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
