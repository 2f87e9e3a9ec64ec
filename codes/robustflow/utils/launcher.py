"""What torchrun tells each of the processes that it starts; read without loading torch."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator

# Seconds that a silent process leaves the first one to speak: torchrun ends all of them once one has ended.
PATIENCE = 10


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


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Silence standard error in all but the first process of each machine: they would all say the same."""
    if local_rank() == 0:
        yield
        return
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except SystemExit as leaving:
        if leaving.code != 0:
            time.sleep(PATIENCE)
        raise


def require_one_process(what: str) -> None:
    """Exit with a message and status 2 if torchrun started several processes for what one computes."""
    if size() > 1:
        sys.stderr.write(f"{what}: expected one process, got {size()}; start it without torchrun\n")
        raise SystemExit(2)
