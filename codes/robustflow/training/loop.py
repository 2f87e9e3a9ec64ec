"""The training loop."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from robustflow import data
from robustflow.diagnostics.ood import mahalanobis
from robustflow.models import weights
from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint, optimizer
from robustflow.training.failures.guard import NonFiniteGuard
from robustflow.training.gradients import Gradients, Step
from robustflow.training.interruption import Interruption, leave_signals_to_main, save_on_failure
from robustflow.training.preparation import list_changes_since, prepare
from robustflow.training.run import Run
from robustflow.training.validation import validate
from robustflow.utils import distributed
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

log = logging.getLogger(__name__)

_LEFT = "interrupted: saved iteration %d; go on with --resume auto"


def train(options: RunOptions) -> bool:
    """Train as the options say. Return False if a signal ended the run early, after a checkpoint was saved.

    Writes experiments/<name>/: options.yml, models/, training_state/, tensorboard/, train.log; of several processes
    the main one alone.
    """
    with prepare(options) as run:
        iterate(run)
        return finish(run)


def is_done(options: RunOptions) -> bool:
    """Whether `train`, with path.resume_state: auto, would find nothing to do: by the files of the experiment alone."""
    experiment, last = Path(options.path.experiments) / options.name, options.train.niter
    state, file = checkpoint.state_file(experiment, last), checkpoint.weights_file(experiment, last)
    averages = checkpoint.ema_file(experiment, last)
    if checkpoint.newest(experiment) != state or checkpoint.fault_of(state) is not None:
        return False
    if "val" in options.datasets and checkpoint.read_progress(state).validated < last:
        return False
    if _lacks_score(options, averages if averages.is_file() else file):
        return False
    return not list_changes_since(state, last, weights.fit_options(options, file))


def iterate(run: Run) -> None:
    """Train up to the last iteration, or until a signal: then a checkpoint is saved."""
    o, progress = run.options.train, run.progress
    if progress.iteration >= o.niter:
        log.info("%s: all %d iterations are done; raise train.niter to go on", run.experiment, o.niter)
        if not run.misses_validation:
            return
    gradients = Gradients(run.model, run.options)
    guard = NonFiniteGuard(run, gradients, partial(_take_in, run))
    run.logbook.begin(progress.iteration)
    run.model.train()
    with Interruption() as interruption, save_on_failure(run, guard, interruption):
        if run.misses_validation:
            validate(run, guard, interruption)
            distributed.on_main(checkpoint.save, run)
            if run.misses_validation:
                log.info(_LEFT, progress.iteration)
                return
        for batch in load_batches(run):
            # Data: on a GPU this is enqueued while the step before is computed, as is all that follows.
            number = progress.iteration + 1
            gt, lr = run.crops.assemble(batch, run.model.device)
            step = Step(number, gt, lr, derive_seed(o.manual_seed, "noise", number), distributed.rank() * len(gt))

            # Forward and backward, once more if the step before turns out to have failed only now.
            loss = gradients(step)
            if guard.settle():
                loss = gradients(step)
            distributed.average([loss, *gradients.tensors()])

            # Clip, and update weights unless loss or gradients are not finite.
            rate = optimizer.learning_rate(o, number)
            optimizer.set_learning_rate(run.adam, rate)
            measured = torch.stack([loss, optimizer.clip(run.adam, o.max_grad_norm)])
            optimizer.suppress_unless_finite(run.adam, measured)
            run.adam.step()
            progress.iteration = number

            # Log, and update the moving average: see _take_in; of this step or, on a GPU, later.
            guard.note(step, rate, measured)

            # Validate, save, leave: all of it with this step settled.
            leave = any(distributed.gather(interruption.requested))
            validates = run.validates(number) and not leave
            if leave or validates or run.saves(number):
                guard.settle()
            if validates:
                gradients.drop()  # their memory may be needed
                validate(run, guard, interruption)
                leave = any(distributed.gather(interruption.requested))
            if leave or run.saves(number):
                distributed.on_main(checkpoint.save, run)
            if leave and (number < o.niter or run.misses_validation):
                log.info(_LEFT, number)
                return


def finish(run: Run) -> bool:
    """Close the logs and, if all iterations are done, fit the out-of-distribution score; return whether they are."""
    run.logbook.close()
    done = run.progress.iteration >= run.options.train.niter and not run.misses_validation
    if done:
        distributed.on_main(fit_ood_score, run)
    return done


def _take_in(run: Run, iteration: int, rate: float, loss: float, norm: float, made: bool) -> None:
    """Log an update, and let the moving average take it in, once it is known whether it was made."""
    if made and run.ema is not None:
        run.ema.update()
    run.logbook.iteration(iteration, loss, rate, norm)


def load_batches(run: Run) -> DataLoader[data.RawCrop]:
    """This process's shares of the batches to come; which crops they hold depends on the iteration alone."""
    training, o, first = run.options.datasets["train"], run.options.train, run.progress.iteration
    forks = distributed.size() == 1 or training.n_workers == 0
    return DataLoader(
        run.crops.raw,
        training.batch_size // distributed.size(),
        sampler=crop_numbers(training.batch_size, first, o.niter),
        num_workers=training.n_workers,
        # The threads of several processes that talk must not be forked: their locks would stay taken.
        multiprocessing_context=None if forks else "forkserver",
        collate_fn=data.collate,
        worker_init_fn=leave_signals_to_main,
        # Otherwise a loader takes its processes' seeds from the global generator, once more whenever a run is resumed.
        generator=torch.Generator().manual_seed(derive_seed(o.manual_seed, "loader", first)),
        pin_memory=run.model.device.type == "cuda",
    )


def crop_numbers(batch_size: int, first: int, last: int) -> Iterator[int]:
    """Numbers of the crops of this process in iterations ``first`` + 1 to ``last``."""
    own = batch_size // distributed.size()
    for start in range(first * batch_size + distributed.rank() * own, last * batch_size, batch_size):
        yield from range(start, start + own)


def fit_ood_score(run: Run) -> None:
    """Fit the out-of-distribution score on training patches of the size trained on, beside the last weights.

    Nothing to do if it is there already.
    """
    size, o = run.options.datasets["train"].GT_size, run.options.train
    file = checkpoint.file_to_test(run)
    if not _lacks_score(run.options, file):
        return
    try:
        mahalanobis.fit_and_save(
            *(run.options, file, run.evaluated),
            n_patches=o.ood_patches,
            patch=size,
            shrinkage=0.0 if o.ood_covariance == "empirical" else None,
        )
    except UserError as error:
        # The training itself is done and saved.
        log.warning("no out-of-distribution score: %s", error)


def _lacks_score(options: RunOptions, file: Path) -> bool:
    return options.train.ood_patches > 0 and not mahalanobis.file_beside(file).is_file()
