"""Leaving the training loop cleanly."""

import os
import signal
from types import FrameType
from typing import Any

# Seconds that a loader process outlives a SIGTERM.
GRACE = 3


class Interruption:
    """Turns the first SIGINT or SIGTERM into a flag, so that the iteration under way is finished and saved.

    A second signal acts as it would without this class.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def __exit__(self, *exception: object) -> None:
        self._restore()


def leave_signals_to_main(worker: int) -> None:
    """Let the main process decide on signals that reach all processes of a run, loader processes included.

    A process group of its own keeps away what a terminal sends. SIGTERM acts after a delay: a batch system sends it
    to every process, and the main one must be able to finish its iteration and save.
    """
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE) and None)
