"""What commands return to the shell, and the one place where an error becomes a message."""

import errno
import logging
import os
import re
import sys
from collections.abc import Callable

from robustflow.utils import launcher
from robustflow.utils.errors import RunFailed, UserError

DONE = 0
# The work itself failed: training that diverged, too little memory.
FAILED = 1
# Options, data, weights or folders that cannot be used; what argparse returns, too.
MISTAKE = 2
# What a shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130

# What files and folders can be at fault for; any other failed system call is a fault of ours.
_OF_FILES = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EFBIG,
        errno.EIO,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
# As torch words it: on GPUs, on CPUs, and for loader processes that the system ended.
_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "_STATUS_ALLOC_FAILED",
    "can't allocate memory",
    "shared memory",
    "killed by signal: Killed",
    "killed by signal: Bus error",
)

log = logging.getLogger(__name__)


def answered(
    work: Callable[[], int | None],
    *,
    memory: Callable[[], str] = str,
    interrupted: str = "interrupted",
    alone: bool = True,
) -> int:
    """Do the work of a command; answer mistakes and failures with a message on stderr; return the exit status.

    Args:
        work: Returns its own status, or None for `DONE`.
        memory: Called where memory does not suffice; says what to lower.
        interrupted: What to say when Ctrl-C ends the work.
        alone: One process computes it; several, as torchrun starts them, are a mistake.

    Raises:
        Exception: whatever is neither: a fault of ours, whose traceback is wanted.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if alone and launcher.size() > 1:
        return _answer(MISTAKE, f"expected one process, got {launcher.size()}; start it without torchrun")
    try:
        status = work()
        _flush_output()
        return DONE if status is None else status
    except UserError as error:
        return _answer(MISTAKE, own_words(error))
    except RunFailed as error:
        return _answer(FAILED, str(error))
    except OSError as error:
        if error.errno not in _OF_FILES:
            raise
        return _answer(
            # What has no name is what the command prints to: its standard output, led to a file.
            MISTAKE,
            f"{error.filename or 'output'}: cannot be used: {error.strerror}; choose another place or make room",
        )
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        return _answer(FAILED, "\n  ".join(filter(None, [f"too little memory: {_first_line(error)}", memory()])))
    except KeyboardInterrupt:
        log.error(interrupted)
        return INTERRUPTED


def _flush_output() -> None:
    """Write what was printed now: when Python ends, it could no longer be answered that there is no room for it."""
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()  # whoever read it wants no more
    except OSError:
        _discard_output()
        raise


def _discard_output() -> None:
    """Keep Python from trying again, at its end, to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _answer(status: int, message: str) -> int:
    log.error("error: %s", message)
    return status


def own_words(error: UserError) -> str:
    """The message alone: a loader process sends its whole traceback with it."""
    text = str(error).strip()
    return re.split(r"^[\w.]*Error: ", text, flags=re.MULTILINE)[-1].strip() if "Original Traceback" in text else text


def is_of_memory(error: Exception) -> bool:
    """Whether memory did not suffice."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OF_MEMORY)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
