"""What happens when loss, gradients or validation samples are not finite.

The device itself suppresses the update of a step whose loss or gradients are not finite. So the weights stay those
before it, and the event can be answered later: on GPUs when the next step is already under way, the gradients of which
are then computed once more. So the host need not wait for the device.
"""

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustflow.training import checkpoint
from robustflow.training.failures import dump
from robustflow.training.failures.diagnosis import diagnose, is_finite
from robustflow.training.gradients import Gradients, Step
from robustflow.training.run import Run
from robustflow.utils import distributed
from robustflow.utils.answer import is_of_memory
from robustflow.utils.errors import RunFailed, UserError

log = logging.getLogger(__name__)

# Events of a run that leave a dump.
N_DUMPS = 3
# Share of a validation's samples that may be non-finite before it counts as an event: an affine flow explodes now and
# then, which is measured, not mended.
TOLERATED = 0.5


class TrainingStopped(RunFailed):
    """Training cannot go on; the message says why and what to do."""


class NonFiniteGuard:
    """Holds the last update until it is settled; counts events, dumps the first ones, and ends the run when it must.

    Args:
        run: What is trained.
        gradients: Computes those of a step again, to find where they fail.
        finish: Called for every update that is settled: iteration, learning rate, loss, gradient norm, and whether the
            update was made.
    """

    def __init__(
        self, run: Run, gradients: Gradients, finish: Callable[[int, float, float, float, bool], None]
    ) -> None:
        self._run, self._gradients, self._finish = run, gradients, finish
        self._lags = settles_later(run.model.device)
        # Made or suppressed: its step, learning rate, and what waits for its loss and gradient norm.
        self._last: tuple[Step, float, Callable[[], list[float]]] | None = None

    def note(self, step: Step, rate: float, measured: Tensor) -> None:
        """Hold an update; settle it now if the device is not to be waited for, or the step has initialised weights.

        Args:
            step: This process's share of it.
            rate: Learning rate.
            measured: Loss and gradient norm of the whole batch, (2,), on the device.
        """
        self._last = step, rate, send_to_cpu(measured)
        if not self._lags or self._gradients.initialised:
            self.settle()

    def settle(self) -> bool:
        """Finish the last update, or answer its failing: then gradients are gone, and weights may be other ones.

        Returns:
            Whether it failed; False if there is nothing to settle.

        Raises:
            TrainingStopped: if the policy is to raise, or the budget is used up.
        """
        if self._last is None:
            return False
        step, rate, receive = self._last
        loss, norm = receive()
        made = math.isfinite(loss) and math.isfinite(norm)
        if not made:
            self._answer_step(step, f"loss {loss:g}, gradient norm {norm:g}")
        self._last = None
        self._finish(step.iteration, rate, loss, norm, made)
        return not made

    def abandon(self) -> None:
        """Finish the last update without a word to other processes; a failed one is left to the run that resumes."""
        if self._last is None:
            return
        step, rate, receive = self._last
        loss, norm = receive()
        self._last = None
        if math.isfinite(loss) and math.isfinite(norm):
            self._finish(step.iteration, rate, loss, norm, True)
        else:
            self._run.progress.iteration = step.iteration - 1

    def bad_validation(self, failed: int, drawn: int) -> bool:
        """Whether too many of a validation's samples are not finite; that is answered as a failing step is.

        Args:
            failed: Samples that are not finite.
            drawn: Samples in all.

        Raises:
            TrainingStopped: as in `settle`; a checkpoint is saved before, for the weights themselves are finite.
        """
        run, iteration = self._run, self._run.progress.iteration
        if failed == 0:
            return False
        log.warning("iteration %d: %d of %d validation samples are not finite", iteration, failed, drawn)
        if failed <= TOLERATED * drawn:
            return False
        run.progress.non_finite += 1
        if self._ends:
            distributed.on_main(checkpoint.save, run)
        self._act(iteration, f"iteration {iteration}: {failed} of {drawn} validation samples are not finite.")
        return True

    def _answer_step(self, step: Step, measured: str) -> None:
        self._gradients.undo()
        self._run.progress.non_finite += 1
        where = ""
        if self._run.progress.non_finite <= N_DUMPS:
            where = distributed.on_main(self._dump, step.gather())
        self._act(step.iteration, f"iteration {step.iteration}: {measured}; weights were not updated.{where}")

    def _dump(self, step: Step) -> str:
        """Find where a step fails, write it to disk, and say so."""
        run, file = self._run, dump.file_for(self._run.experiment, step.iteration)
        try:
            found = diagnose(run.model.network, lambda: self._gradients.compute_uncaptured(step))
        except (MemoryError, RuntimeError) as error:
            if not is_of_memory(error):
                raise
            return "\n  Too little memory to run the whole step again and find where."
        finally:
            self._gradients.undo()
        batch = "" if is_finite(step.gt) and is_finite(step.lr) else " The batch itself is not finite."
        text = f"\n  Once more: {found.describe()}.{batch}"
        try:
            dump.write(file, run.model.network, run.options, step, found)
        except UserError as error:
            return f"{text}\n  {error}"
        return f"{text}\n  To run it again: robustflow replay {file}"

    @property
    def _ends(self) -> bool:
        """Whether the policy ends the run after the events so far."""
        o = self._run.options.train
        return o.non_finite == "raise" or self._run.progress.non_finite > o.non_finite_budget

    def _act(self, iteration: int, message: str) -> None:
        """Go on after an event as the policy says; data and iterations go on in any case."""
        run, o, count = self._run, self._run.options.train, self._run.progress.non_finite
        if self._ends:
            raise TrainingStopped(f"{message}\n{_advice(run)}")
        log.warning("%s\n  Event %d of at most %d (train.non_finite_budget).", message, count, o.non_finite_budget)
        run.logbook.event(iteration, count)
        if o.non_finite == "rollback":
            run.progress.rollback = (iteration, distributed.on_main(checkpoint.roll_back, run, iteration))
            distributed.share(*run.stateful)


def send_to_cpu(measured: Tensor) -> Callable[[], list[float]]:
    """Begin to copy values to the CPU; return a function that waits for them, if need be, and gives them."""
    on_cpu = measured.to("cpu", non_blocking=True)
    if not measured.is_cuda:
        return on_cpu.tolist
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(measured.device))

    def receive() -> list[float]:
        arrived.synchronize()
        return on_cpu.tolist()

    return receive


def settles_later(device: torch.device) -> bool:
    """Whether the host would have to wait for what the device just began."""
    return device.type == "cuda"


def _advice(run: Run) -> str:
    o = run.options.train
    policy = "train.non_finite (skip or rollback)"
    other = policy if o.non_finite == "raise" else f"train.non_finite_budget (more than {o.non_finite_budget} events)"
    return (
        "  Look at: train.lr_G (lower it), train.warmup_iter (lengthen it), train.max_grad_norm (set it), "
        f"network_G.flow.coupling (rq_spline and soft_affine are the stable ones), the training images, and {other}.\n"
        f"  Newest checkpoint: {checkpoint.newest(run.experiment) or 'none yet'}; go on from it with --resume auto."
    )
