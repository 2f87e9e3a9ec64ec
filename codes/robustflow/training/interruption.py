"""Leaving the training loop cleanly."""

import signal
from types import FrameType
from typing import Any


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


def ignore_interrupt(worker: int) -> None:
    """Let a loader process ignore SIGINT and SIGTERM, which reach a whole process group: the main one decides."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
