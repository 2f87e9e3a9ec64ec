"""Leaving the training loop cleanly."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from robustflow.training import checkpoint
from robustflow.training.checkpoint import CheckpointError
from robustflow.training.failures.guard import NonFiniteGuard
from robustflow.training.run import Run
from robustflow.utils import distributed
from robustflow.utils.answer import message_of
from robustflow.utils.distributed import FailedElsewhere
from robustflow.utils.errors import UserError
from robustflow.utils.files import CannotWrite

log = logging.getLogger(__name__)

# Windows has none of them.
_HANGUP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
# With which batch systems announce the end: sbatch --signal=USR1@60, qsub -notify.
_WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
# Seconds that a loader process outlives a SIGTERM.
GRACE = 3


class Interruption:
    """Turns signals that end a process into a flag, so that the iteration under way is finished and saved.

    They are SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2. A second SIGINT acts as it would without this class; the
    others may come several times: a batch system sends them to every process, and torchrun hands on its own. SIGHUP
    that is ignored, as by nohup, stays so, and so do SIGUSR1 and SIGUSR2 that another library listens to; SIGINT does
    not: shells have it ignored in what they start in the background.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM, *_HANGUP, *_WARNINGS):
            handler = signal.getsignal(number)
            ignored = number in _HANGUP and handler == signal.SIG_IGN
            if not ignored and (number not in _WARNINGS or handler == signal.SIG_DFL):
                self._previous[number] = handler
                signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(number, self._previous[number])

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def save_on_failure(run: Run, guard: NonFiniteGuard, interruption: Interruption) -> Iterator[None]:
    """Save what is learnt when training ends without a fault of its own.

    That is: an image turns out unreadable, a signal to all processes ended a loader process, another of the processes
    that train together failed.
    """
    try:
        with distributed.announcing():
            yield
    except (CheckpointError, CannotWrite):
        raise
    except (UserError, RuntimeError) as error:
        interrupted = interruption.requested and "DataLoader worker" in str(error)
        if not interrupted and not isinstance(error, UserError | FailedElsewhere):
            raise
        saved = _save_what_is_settled(run, guard)
        if isinstance(error, UserError):
            raise UserError("\n  ".join([message_of(error), *(f"{each.capitalize()}." for each in saved)])) from error
        for each in saved:
            log.info("interrupted: %s" if interrupted else "%s", each)
        if not interrupted:
            raise


def _save_what_is_settled(run: Run, guard: NonFiniteGuard) -> list[str]:
    """Save a checkpoint if an iteration is done; say so, in a line or none."""
    guard.abandon()
    if run.progress.iteration == 0:
        return []
    if distributed.is_main():
        checkpoint.save(run)
    return [f"saved iteration {run.progress.iteration}; go on with --resume auto"]


def leave_signals_to_main(worker: int) -> None:
    """Let the main process decide on signals that reach all processes of a run, loader processes included.

    A process group of its own keeps away what a terminal sends. SIGTERM acts after a delay: a batch system sends it
    to every process, and the main one must be able to finish its iteration and save. Windows has neither.
    """
    for number in (signal.SIGINT, *_HANGUP, *_WARNINGS):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE) and None)
        # By itself: one that a signal ends torch takes for a fault, also when the main process ends it on its way out.
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
