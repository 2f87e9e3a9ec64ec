"""What happens when loss, gradients or validation samples are not finite."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint
from robustflow.training.checkpoint import Progress
from robustflow.training.failures import dump
from robustflow.training.failures.diagnosis import diagnose, finite
from robustflow.training.failures.dump import Step
from robustflow.utils.distributed import ALONE, Processes
from robustflow.utils.errors import RunFailed, UserError
from robustflow.utils.exit_status import is_of_memory

log = logging.getLogger(__name__)

# Events of a run that leave a dump.
N_DUMPS = 3
# Share of a validation's samples that may be non-finite before it counts as an event: an affine flow explodes now and
# then, which is measured, not mended.
TOLERATED = 0.5


class TrainingStopped(RunFailed):
    """Training cannot go on; the message says why and what to do."""


class Sentinel:
    """Counts the events of a run, dumps the first ones and ends the run when it must.

    Args:
        experiment: Folder of the run.
        network: What is trained.
        options: Policy and budget; part of the dumps.
        progress: Of the run; its count of events is kept here.
        processes: Those that train together, all with a sentinel; the main one looks for the reason and dumps.
    """

    def __init__(
        self,
        experiment: Path,
        network: nn.Module,
        options: RunOptions,
        progress: Progress,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.experiment, self.network, self.options, self.progress = experiment, network, options, progress
        self._norms = [module for module in network.modules() if isinstance(module, ActNorm)]
        self._before: dict[str, Tensor] | None = None

    def before_step(self) -> None:
        """Remember the weights if the step changes them before its loss is known: ActNorms initialise themselves."""
        self._before = None
        if not all(norm.is_initialized() for norm in self._norms):
            self._before = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    @property
    def initialising(self) -> bool:
        """Whether the step under way changes weights before its loss is known."""
        return self._before is not None

    def bad_step(
        self,
        iteration: int,
        loss: float,
        grad_norm: float,
        step: Callable[[], Step],
        gradients_of: Callable[[Step], Tensor],
    ) -> bool:
        """Whether a step was not finite, so that there was no update; the weights are then as before it.

        Args:
            iteration: Its number.
            loss: Its loss, of the whole batch.
            grad_norm: Norm of its gradients.
            step: Gives what the step was given, the whole batch.
            gradients_of: Computes loss and gradients of it once more, in one process, to find where they fail.

        Raises:
            TrainingStopped: if the policy is to raise, or the budget is used up.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return False
        self._undo()
        self.progress.non_finite += 1
        dumps = self.progress.non_finite <= N_DUMPS
        where = self.processes.on_main(self._dump, step, gradients_of) if dumps else ""
        what = f"loss {loss:g}, gradient norm {grad_norm:g}; weights were not updated.{where}"
        self._act(f"iteration {iteration}: {what}")
        return True

    def bad_validation(self, iteration: int, failed: int, drawn: int, save: Callable[[], None]) -> bool:
        """Whether too many of a validation's samples are not finite.

        Args:
            iteration: Where it took place.
            failed: Samples that are not finite.
            drawn: Samples in all.
            save: Saves a checkpoint; called before the run ends, for the weights themselves are finite.

        Raises:
            TrainingStopped: if the policy is to raise, or the budget is used up.
        """
        if failed == 0:
            return False
        log.warning("iteration %d: %d of %d validation samples are not finite", iteration, failed, drawn)
        if failed <= TOLERATED * drawn:
            return False
        self.progress.non_finite += 1
        self._act(f"iteration {iteration}: {failed} of {drawn} validation samples are not finite.", save)
        return True

    def _undo(self) -> None:
        if self._before is not None:
            self.network.load_state_dict(self._before)

    def _dump(self, make_step: Callable[[], Step], gradients_of: Callable[[Step], Tensor]) -> str:
        step = make_step()
        file = dump.file_for(self.experiment, step.iteration)
        try:
            found = diagnose(self.network, lambda: gradients_of(step))
        except (MemoryError, RuntimeError) as error:
            if not is_of_memory(error):
                raise
            self._undo()
            return "\n  Too little memory to run the whole step again and find where."
        self._undo()
        batch = "" if finite(step.gt) and finite(step.lr) else " The batch itself is not finite."
        text = f"\n  Once more: {found.described()}.{batch}"
        try:
            dump.write(file, self.network, self.options, step, found)
        except UserError as error:
            return f"{text}\n  {error}"
        return f"{text}\n  To run it again: python -m robustflow.training.replay {file}"

    def _act(self, message: str, save: Callable[[], None] | None = None) -> None:
        count, budget = self.progress.non_finite, self.options.train.non_finite_budget
        raises = self.options.train.non_finite == "raise"
        if not raises and count <= budget:
            log.warning("%s\n  Event %d of at most %d (train.non_finite_budget).", message, count, budget)
            return
        if save is not None:
            save()
        newest = checkpoint.newest(self.experiment)
        policy = "train.non_finite (skip or rollback)"
        other = policy if raises else f"train.non_finite_budget (more than {budget} events)"
        raise TrainingStopped(
            f"{message}\n"
            "  Look at: train.lr_G (lower it), train.warmup_iter (lengthen it), train.max_grad_norm (set it), "
            f"network_G.flow.coupling (rq_spline is the stable one), the training images, and {other}.\n"
            f"  Newest checkpoint: {newest or 'none yet'}; go on from it with --resume auto."
        )
