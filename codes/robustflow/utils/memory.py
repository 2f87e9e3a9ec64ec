"""How much memory a run has taken, whether processes can share some, and whole images worked on without taking more."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from multiprocessing.connection import Listener
from pathlib import Path

import torch
from torch import Tensor

from robustflow.utils.errors import UserError, describe_error

try:
    import resource
except ImportError:  # as on Windows
    resource = None  # type: ignore[assignment]

# Numbers of an image that are worked on at once: 4 MiB in double precision.
_BAND = 2**19


def peak() -> int | None:
    """Largest memory so far, bytes: allocated on a GPU if any was, else resident of this process; None if not known."""
    # Not of the current device alone, which need not be the one that is used.
    on_gpus = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())), default=0)
    if on_gpus > 0:
        return on_gpus
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage, which on Linux starts at the parent's peak.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def require_shared(processes: int, key: str) -> None:
    """Raise UserError if loader processes are asked for, by ``key``, where processes cannot share memory or sockets."""
    if processes > 0:
        try:
            multiprocessing.Lock()
        except OSError as error:
            fault = describe_error(error)
            raise UserError(f"{key}: expected 0 where /dev/shm cannot be used ({fault}), got {processes}") from error
        try:
            # As they hand over what they read; where that fails, torch waits for them for ever.
            Listener().close()
        except OSError as error:
            place, fault = os.environ.get("TMPDIR", "/tmp"), describe_error(error)
            raise UserError(
                f"{key}: expected 0 where {place} cannot hold sockets ({fault}), got {processes}; or set TMPDIR to a "
                "folder with a short path"
            ) from error


def bands(height: int, per_row: int) -> Iterator[slice]:
    """Rows of an image, some at a time, from the first to the last: all of them at once unless it is large.

    What takes more memory than the image, and is made of each pixel or the few rows around it, is made band by band.

    Args:
        height: Rows.
        per_row: Numbers in a row of what is worked on.
    """
    step = max(1, _BAND // max(1, per_row))
    return (slice(first, min(first + step, height)) for first in range(0, max(height, 1), step))


def bands_of(images: Tensor) -> Iterator[slice]:
    """`bands` of images (..., h, w)."""
    return bands(images.shape[-2], images[..., :1, :].numel())
