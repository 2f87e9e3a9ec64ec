"""When checkpoints are written, and when training goes back to one."""

import contextlib
import logging
from collections.abc import Callable, Iterator

from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint, parallel
from robustflow.training.checkpoint import CheckpointError, Progress
from robustflow.training.interruption import Interruption
from robustflow.training.logbook import Logbook
from robustflow.training.run import Run
from robustflow.utils import files
from robustflow.utils.distributed import FailedElsewhere
from robustflow.utils.errors import UserError
from robustflow.utils.exit_status import own_words

log = logging.getLogger(__name__)


def is_due(options: RunOptions, iteration: int) -> bool:
    """Whether an iteration's checkpoint is saved, whatever happens."""
    return iteration % options.logger.save_checkpoint_freq == 0 or iteration == options.train.niter


def save(run: Run, progress: Progress) -> None:
    """Save a checkpoint; remove those that are not to be kept."""
    checkpoint.save(run.experiment, run.model, run.adam, run.options, progress, run.average)
    if is_due(run.options, progress.iteration):
        checkpoint.prune(run.experiment, run.options.logger, None if progress.best is None else progress.best[0])


def after_event(run: Run, logbook: Logbook, iteration: int, progress: Progress) -> None:
    """Note an event, and go back to the newest checkpoint if that is the policy; data and iterations go on."""
    logbook.event(iteration, progress.non_finite)
    if run.options.train.non_finite == "rollback":
        progress.went_back = (iteration, run.processes.on_main(_go_back, run, iteration, progress))
        parallel.share(run.processes, run.network, run.adam, run.average)


def _go_back(run: Run, iteration: int, progress: Progress) -> int:
    """Load an earlier checkpoint; return its iteration."""
    every = run.options.logger.save_checkpoint_freq
    state = checkpoint.to_go_back_to(run.experiment, every, progress, iteration)
    checkpoint.restore(state, run.model, run.adam, run.options, run.average)
    log.warning("  Weights are those of %s again; iterations and data go on.", state)
    return int(state.stem)


@contextlib.contextmanager
def saving_what_is_learnt(
    run: Run, interruption: Interruption, progress: Progress, give_up: Callable[[], None]
) -> Iterator[None]:
    """Save when training ends without a fault of its own.

    That is: an image turns out unreadable, a signal to all processes ended a loader process, another of the processes
    that train together failed.

    Args:
        run: What is saved.
        interruption: Whether there was a signal.
        progress: How far it has come.
        give_up: Called before; leaves out what cannot be finished.
    """

    def save_last() -> None:
        give_up()
        if progress.iteration > 0 and run.processes.main:
            save(run, progress)

    try:
        yield
    except (CheckpointError, files.CannotWrite):
        raise
    except UserError as error:
        run.processes.announce(error)
        message, saved = own_words(error), ""
        save_last()
        if progress.iteration > 0:
            saved = f"\n  Saved iteration {progress.iteration}; go on with --resume auto."
        raise UserError(f"{message}{saved}") from error
    except RuntimeError as error:
        interrupted = interruption.requested and "DataLoader worker" in str(error)
        if not interrupted and not isinstance(error, FailedElsewhere):
            raise
        run.processes.announce(error)
        save_last()
        if not interrupted:
            if progress.iteration > 0:
                log.info("saved iteration %d; go on with --resume auto", progress.iteration)
            raise
        log.info("interrupted: saved iteration %d; go on with --resume auto", progress.iteration)
