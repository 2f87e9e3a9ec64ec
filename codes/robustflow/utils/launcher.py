"""What torchrun tells each of the processes that it starts; read without loading torch."""

import os

from robustflow.utils.errors import UserError


def size() -> int:
    """Number of processes of the run, on all machines; 1 without torchrun."""
    # Job schedulers leave a WORLD_SIZE of their own about.
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Number of this process in the run, from 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if size() > 1 else 0


def require_one_process() -> None:
    """Raise UserError if torchrun started several processes for what one computes."""
    if size() > 1:
        raise UserError(f"expected one process, got {size()}; start it without torchrun")
