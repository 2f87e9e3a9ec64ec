"""What commands return to the shell, and the one place where an error becomes a message."""

import contextlib
import errno
import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from robustflow.utils import distributed
from robustflow.utils.errors import RunFailed, UserError

DONE = 0
# The work itself failed: training that diverged, too little memory.
FAILED = 1
# Options, data, weights or folders that cannot be used; what argparse returns, too.
MISTAKE = 2
# What a shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130

# Seconds that a silent process leaves the first one to speak: torchrun ends all of them once one has ended.
PATIENCE = 10
# What files and folders can be at fault for; any other failed system call is a fault of ours.
_FAULTS_OF_FILES = (
    *(errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
    # Of network file systems that are out of reach.
    *(errno.ENOTCONN, errno.ESHUTDOWN, errno.ESTALE, errno.ETIMEDOUT),
)
# As Python words it; torch wants such a folder, too.
_NOWHERE = "No usable temporary directory"
# As torch words it: on GPUs, on CPUs, and for loader processes that the system ended.
_SHARED = "shared memory"
_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "_STATUS_ALLOC_FAILED",
    "can't allocate memory",
    _SHARED,
    "killed by signal: Killed",
    "killed by signal: Bus error",
)
_OF_SHARED = (
    "Loader processes hand over what they read in /dev/shm: enlarge it (docker run --shm-size), or lower n_workers of "
    "the training set; 0 needs none."
)

log = logging.getLogger(__name__)


class Reply:
    """The exit status of a command whose work is under way."""

    status: int = DONE


@contextlib.contextmanager
def answering(*, memory: Callable[[], str] = str, interrupted: str = "interrupted") -> Iterator[Reply]:
    """Answer mistakes and failures of the work inside with a message on stderr; give the reply with its exit status.

    Args:
        memory: Called where memory does not suffice; says what to lower.
        interrupted: What to say when Ctrl-C ends the work.

    Raises:
        Exception: whatever is neither: a fault of ours, whose traceback is wanted.
    """
    print_messages()
    reply = Reply()
    try:
        yield reply
        _flush_output()
    except UserError as error:
        reply.status = _tell(MISTAKE, message_of(error))
    except RunFailed as error:
        reply.status = _tell(FAILED, str(error))
    except BrokenPipeError:
        _discard_output()  # whoever read it wants no more
    except OSError as error:
        if _NOWHERE in str(error):
            reply.status = _tell(MISTAKE, f"{error.strerror}; set TMPDIR to a folder that can be written to")
            return
        if error.errno not in _FAULTS_OF_FILES:
            raise
        # What has no name is what the command prints to: its standard output, led to a file.
        place = error.filename or "output"
        reply.status = _tell(MISTAKE, f"{place}: cannot be used: {error.strerror}; choose another place or make room")
    except (MemoryError, RuntimeError) as error:
        if not is_of_memory(error):
            raise
        reason = next(iter(message_of(error).splitlines()), type(error).__name__)
        advice = memory() if _SHARED not in reason or "open files" in reason else _OF_SHARED
        reply.status = _tell(FAILED, "\n  ".join(filter(None, [f"too little memory: {reason}", advice])))
    except KeyboardInterrupt:
        log.error(interrupted)
        reply.status = INTERRUPTED


def answer(work: Callable[[], int | None], **how: Any) -> int:
    """Do the work of a command, which returns its own status, or None for `DONE`, in one process; see `answering`."""
    with answering(**how) as reply:
        require_one_process()
        reply.status = work() or DONE
    return reply.status


@contextlib.contextmanager
def exit_on_mistake() -> Iterator[None]:
    """Answer a mistake in a command line or its options, where several processes read them, with exit status 2.

    The first process of each machine says what it is: they would all say the same.
    """
    first = distributed.rank("LOCAL_RANK") == 0
    try:
        with contextlib.nullcontext() if first else contextlib.redirect_stderr(io.StringIO()):
            yield
    except (UserError, SystemExit) as error:
        status = error.code if isinstance(error, SystemExit) else MISTAKE
        if isinstance(error, UserError) and first:
            print_messages()
            _tell(MISTAKE, str(error))
        if not first and status != DONE:
            time.sleep(PATIENCE)
        raise SystemExit(status) from None


def require_one_process() -> None:
    """Raise UserError if torchrun started several processes for what one computes."""
    n = distributed.size()
    if n > 1:
        raise UserError(f"expected one process, got {n}; start it without torchrun")


def accept_all_characters() -> None:
    """Have standard output and error print ``?`` for what their encoding lacks (cp1252, ASCII): no error at the end.

    Those that were closed (``2>&-``) lead nowhere, not into the next file that is opened, and can be printed to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # Not in a notebook, say, whose streams take everything.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_messages(*, quiet: bool = False) -> None:
    """Print what is done, or with ``quiet`` warnings and errors alone, to stderr; the first call says which."""
    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)


def _flush_output() -> None:
    """Write what was printed now: when Python ends, it could no longer be answered that there is no room for it."""
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
        raise


def _discard_output() -> None:
    """Keep Python from trying again, at its end, to write what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(status: int, message: str) -> int:
    log.error("error: %s", message)
    return status


def message_of(error: Exception) -> str:
    """The message alone: a loader process sends its whole traceback with it."""
    text = str(error).strip()
    return re.split(r"^[\w.]*Error: ", text, flags=re.MULTILINE)[-1].strip() if "Original Traceback" in text else text


def is_of_memory(error: Exception) -> bool:
    """Whether memory did not suffice."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OF_MEMORY)
