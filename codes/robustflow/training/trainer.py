"""The training loop."""

import contextlib
import logging
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from robustflow import data
from robustflow.diagnostics.ood import mahalanobis
from robustflow.nn import fused
from robustflow.options import amount
from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint, ema, optimizer, parallel, saving, validation
from robustflow.training.checkpoint import Progress
from robustflow.training.failures.dump import Step
from robustflow.training.failures.guard import Guard
from robustflow.training.failures.sentinel import Sentinel
from robustflow.training.gradients import Gradients
from robustflow.training.interruption import Interruption, leave_signals_to_main
from robustflow.training.logbook import Logbook
from robustflow.training.preparation import alone, prepare, start
from robustflow.training.run import Run
from robustflow.utils.distributed import ALONE, Processes
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

log = logging.getLogger(__name__)


def train(options: RunOptions, processes: Processes = ALONE) -> bool:
    """Train as the options say. Return False if a signal ended the run early, after a checkpoint was saved.

    Writes experiments/<name>/: options.yml, models/, training_state/, tensorboard/, train.log; of several processes
    the main one alone.
    """
    with alone(options, processes):
        return _train(options, processes)


def _train(options: RunOptions, processes: Processes) -> bool:
    run, beginning = prepare(options, processes)
    progress, logbook, niter = beginning.progress, _logbook(run), run.options.train.niter
    elements = run.model.mapped_elements(amount.training_pixels(run.options))
    with contextlib.closing(logbook), fused.expecting(elements):
        processes.on_main(start, run, beginning)
        parallel.share(processes, run.network, run.adam, run.average)
        sentinel = Sentinel(run.experiment, run.network, run.options, progress, processes)
        if progress.iteration < niter:
            logbook.begin(progress.iteration)
            _iterate(run, logbook, progress, sentinel)
        else:
            log.info("%s: all %d iterations are done; raise train.niter to go on", run.experiment, niter)
            if validation.was_left_out(run, progress):
                logbook.begin(progress.iteration)
                validation.validate(run, logbook, progress, sentinel)
                processes.on_main(saving.save, run, progress)
    done = progress.iteration >= niter
    if done:
        processes.on_main(_fit_ood_score, run, progress.iteration)
    return done


def _iterate(run: Run, logbook: Logbook, progress: Progress, sentinel: Sentinel) -> None:
    """Train up to the last iteration, or until a signal: then a checkpoint is saved."""
    options, network, adam, processes, device = run.options, run.network, run.adam, run.processes, run.device
    o, gradients = options.train, Gradients(run.model, options)
    guard = Guard(run, gradients, sentinel, logbook, progress)
    network.train()
    with (
        Interruption() as interruption,
        saving.saving_what_is_learnt(run, interruption, progress, guard.give_up),
    ):
        if validation.was_left_out(run, progress):
            validation.validate(run, logbook, progress, sentinel)
        for batch in _loader(run, progress.iteration, pin_memory=device.type == "cuda"):
            # Data: on a GPU this is enqueued while the step before is computed, as is all that follows.
            number = progress.iteration + 1
            gt, lr = run.crops.finish(batch, device)
            step = Step(number, gt, lr, derive_seed(o.manual_seed, "noise", number), processes.rank * len(gt))

            # Forward and backward, once more if the step before turns out to have failed only now.
            loss = _forward_and_backward(run, gradients, sentinel, step)
            if guard.settle():
                loss = _forward_and_backward(run, gradients, sentinel, step)

            # Clip, and update weights unless loss or gradients are not finite.
            rate = optimizer.learning_rate(o, number)
            optimizer.set_learning_rate(adam, rate)
            measured = torch.stack([loss, optimizer.clip(network, o.max_grad_norm)])
            optimizer.suppress_unless_finite(adam, measured)
            adam.step()
            progress.iteration = number

            # Log; of this step or, on a GPU, later.
            guard.note(step, rate, measured)

            # Validate, save, leave: all of it with this step settled.
            last, leave = number == o.niter, processes.agree(interruption.requested)
            validates = run.validation is not None and (last or (number % o.val_freq == 0 and not leave))
            if last or leave or validates or saving.is_due(options, number):
                guard.settle()
            if validates:
                gradients.drop()  # their memory may be needed
                validation.validate(run, logbook, progress, sentinel)
                leave = processes.agree(interruption.requested)
            if saving.is_due(options, number) or leave:
                processes.on_main(saving.save, run, progress)
            if leave and not last:
                log.info("interrupted: saved iteration %d; go on with --resume auto", number)
                return


def _forward_and_backward(run: Run, gradients: Gradients, sentinel: Sentinel, step: Step) -> Tensor:
    """Set the gradients of a step of all processes; return its loss."""
    sentinel.before_step()
    parallel.initialise_actnorms(run.processes, run.model, run.crops, run.options, step)
    return parallel.average(run.processes, run.network, gradients(step))


def _loader(run: Run, first: int, pin_memory: bool) -> DataLoader[data.Cut]:
    """This process's shares of the batches after ``first``; which crops they hold depends on the iteration alone."""
    training, processes, o = run.options.datasets["train"], run.processes, run.options.train
    return DataLoader(
        run.crops.cuts,
        processes.share_of(training.batch_size),
        sampler=parallel.share_of_numbers(processes, training.batch_size, first, o.niter),
        num_workers=training.n_workers,
        # The threads of several processes that talk must not be forked: their locks would stay taken.
        multiprocessing_context="forkserver" if processes.size > 1 and training.n_workers > 0 else None,
        collate_fn=data.collate,
        worker_init_fn=leave_signals_to_main,
        # Otherwise a loader takes its processes' seeds from the global generator, once more whenever a run is resumed.
        generator=torch.Generator().manual_seed(derive_seed(o.manual_seed, "loader", first)),
        pin_memory=pin_memory,
    )


def _logbook(run: Run) -> Logbook:
    if not run.processes.main:
        return cast(Logbook, parallel.Silent())
    o = run.options
    return Logbook(run.experiment, o.train.niter, o.logger.print_freq, run.model.loss_name)


def _fit_ood_score(run: Run, iteration: int) -> None:
    """Fit the out-of-distribution score on training patches of the size trained on, beside the last weights.

    Nothing to do if it is there already.
    """
    size, begun = run.options.datasets["train"].GT_size, ema.has_begun(run.average)
    file = (checkpoint.ema_file if begun else checkpoint.weights_file)(run.experiment, iteration)
    if run.options.train.ood_patches == 0 or mahalanobis.file_beside(file).is_file():
        return
    model, n_patches = ema.evaluated(run.model, run.average), run.options.train.ood_patches
    try:
        mahalanobis.fit_and_save(run.options, file, model, n_patches=n_patches, patch=size)
    except UserError as error:
        # The training itself is done and saved.
        log.warning("no out-of-distribution score: %s", error)
