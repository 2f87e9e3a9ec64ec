"""Looking at an update after it was made, so that the host need not wait for the device.

The device itself suppresses the update of a step whose loss or gradients are not finite. So the weights stay those
before it, and the event can be answered later: on GPUs when the next step is already under way, the gradients of which
are then computed once more. The moving average takes in an update when it is known to have been made, before the next.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from robustflow.training import ema, parallel, saving
from robustflow.training.checkpoint import Progress
from robustflow.training.failures.dump import Step
from robustflow.training.failures.sentinel import Sentinel
from robustflow.training.gradients import Gradients
from robustflow.training.logbook import Logbook
from robustflow.training.run import Run


class _Update(NamedTuple):
    """One that was made, or suppressed: its step, learning rate, and loss and gradient norm on their way to the CPU."""

    step: Step
    rate: float
    measured: Tensor
    arrived: torch.cuda.Event | None

    def values(self) -> tuple[float, float]:
        """Loss and gradient norm, waiting for them if need be."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, norm = self.measured.tolist()
        return loss, norm


class Guard:
    """Holds the last update until it is settled.

    Args:
        run: What is trained.
        gradients: Computes those of a step again, to find where they fail.
        sentinel: Answers events.
        logbook: Where every settled iteration is noted.
        progress: Of the run.
    """

    def __init__(
        self, run: Run, gradients: Gradients, sentinel: Sentinel, logbook: Logbook, progress: Progress
    ) -> None:
        self._run, self._gradients, self._sentinel = run, gradients, sentinel
        self._logbook, self._progress = logbook, progress
        self._lags = settles_later(run.device)
        self._last: _Update | None = None

    def note(self, step: Step, rate: float, measured: Tensor) -> None:
        """Hold an update; settle it now if the device is not to be waited for, or the step has initialised weights.

        Args:
            step: This process's share of it.
            rate: Learning rate.
            measured: Loss and gradient norm of the whole batch, (2,), on the device.
        """
        arrived = None
        on_cpu = measured.to("cpu", non_blocking=True)
        if measured.is_cuda:
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(measured.device))
        self._last = _Update(step, rate, on_cpu, arrived)
        if not self._lags or self._sentinel.initialising:
            self.settle()

    def settle(self) -> bool:
        """Finish the last update, or answer its failing: then gradients are gone, and weights may be other ones.

        Returns:
            Whether it failed; False if there is nothing to settle.
        """
        if self._last is None:
            return False
        run, step, (loss, norm) = self._run, self._last.step, self._last.values()
        whole = partial(_whole, run, step)
        bad = self._sentinel.bad_step(step.iteration, loss, norm, whole, self._gradients.watched)
        if bad:
            saving.after_event(run, self._logbook, step.iteration, self._progress)
        self._finish(self._last, good=not bad)
        return bad

    def give_up(self) -> None:
        """Finish the last update without a word to other processes; a failed one is left to the run that resumes."""
        if self._last is None:
            return
        if all(map(math.isfinite, self._last.values())):
            self._finish(self._last, good=True)
        else:
            self._progress.iteration = self._last.step.iteration - 1

    def _finish(self, update: _Update, *, good: bool) -> None:
        run, decay = self._run, self._run.options.train.ema
        if good and run.average is not None and decay is not None:
            ema.update(run.average, run.network, decay)
        self._last = None
        loss, norm = update.values()
        self._logbook.iteration(update.step.iteration, loss, update.rate, norm)


def settles_later(device: torch.device) -> bool:
    """Whether the host would have to wait for what the device just began."""
    return device.type == "cuda"


def _whole(run: Run, step: Step) -> Step:
    """The step of all processes together."""
    if run.processes.size == 1:
        return step
    batch = parallel.whole_batch(run.crops, run.options.datasets["train"].batch_size, step.iteration)
    return Step(step.iteration, batch["gt"].to(step.gt), batch["lr"].to(step.lr), step.seed)
