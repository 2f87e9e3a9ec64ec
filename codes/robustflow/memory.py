"""How much memory a run has taken."""

import resource
import sys
from pathlib import Path

import torch


def peak() -> int:
    """Largest memory so far, bytes: allocated on the GPU if any was, else resident of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage, which on Linux starts at the parent's peak.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
