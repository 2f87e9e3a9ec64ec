"""How many CPU threads a command computes with, and how they wait, which torch reads when it is loaded.

A second thread pays only if what it shares of a layer takes longer than waking it. Threads that wait for each other
spin, which is fastest on cores of their own; beside a single other busy program it makes them slower than one thread:
they spin until the one that was put off gets its turn.
"""

import math
import os
import sys
from pathlib import Path

# Elements of a layer's activations that give a thread enough to do.
ELEMENTS_PER_THREAD = 2**17
# Turns of a waiting thread's loop before it sleeps: a few microseconds, as the gaps between layers are.
_SPINS = "1000"
_CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Instructions that multiply bfloat16; without one of them torch converts each value to float32 and back.
_BF16_UNITS = {"avx512_bf16", "amx_bf16", "bf16"}


def available() -> int:
    """CPUs that this process may use at the same time: those it is bound to, within its control group's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(bound, _quota())))


def threads_for(elements: int) -> int:
    """Threads for layers of so many elements."""
    return max(1, min(available(), elements // ELEMENTS_PER_THREAD))


def shorten_waits() -> None:
    """Have threads that wait sleep soon; to be called before torch is loaded. Unless the user has set threads."""
    if not any(os.environ.get(name) for name in (*_CHOSEN_BY_USER, "OMP_WAIT_POLICY")):
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)


def settle(threads: int) -> None:
    """Compute with so many threads from here on, unless the user has set a number in the environment."""
    if any(os.environ.get(name) for name in _CHOSEN_BY_USER):
        return
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    else:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def bf16_units() -> list[str] | None:
    """Those instructions of this machine's CPU that multiply bfloat16; None if the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return None
    lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    flags = next((value.split() for name, _, value in lines if name.strip() in ("flags", "Features")), None)
    return None if flags is None else sorted(_BF16_UNITS.intersection(flags))


def _quota() -> float:
    """CPUs that the control groups of this process, version 1 or 2, grant; infinity without a limit."""
    try:
        entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return math.inf
    granted = [math.inf]
    for _, controllers, path in entries:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup", "" if not controllers else "cpu")
        own = root / path.lstrip("/")
        # Inside a container the path may be the host's, and the group the root.
        granted += [_granted(folder) for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return min(granted)


def _granted(folder: Path) -> float:
    """CPUs that one group grants."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    return math.inf
