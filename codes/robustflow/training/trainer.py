"""The training loop."""

import contextlib
import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from robustflow import data, files, tasks
from robustflow.data.seeds import derive_seed
from robustflow.distributed import ALONE, FailedElsewhere, Processes
from robustflow.errors import UserError
from robustflow.evaluation import ood
from robustflow.evaluation.evaluate import Evaluator
from robustflow.evaluation.sampler import strip
from robustflow.exit_status import own_words
from robustflow.nn import precision
from robustflow.options import load as options_load
from robustflow.options.schema import RunOptions
from robustflow.tasks import Task, data_sets, weights
from robustflow.tasks.base import LossInputs
from robustflow.training import checkpoint, ema, optimizer, parallel
from robustflow.training.checkpoint import CheckpointError, Progress
from robustflow.training.dump import Step
from robustflow.training.interruption import Interruption, leave_signals_to_main
from robustflow.training.logbook import Logbook
from robustflow.training.sentinel import Sentinel

log = logging.getLogger(__name__)


class _Run(NamedTuple):
    """All that a training run is made of."""

    options: RunOptions
    task: Task
    network: nn.Module
    adam: torch.optim.Adam
    average: AveragedModel | None
    crops: data.TrainingCrops
    validation: data.EvaluationSet | None
    experiment: Path
    processes: Processes


def train(options: RunOptions, processes: Processes = ALONE) -> bool:
    """Train as the options say. Return False if a signal ended the run early, after a checkpoint was saved.

    Writes experiments/<name>/: options.yml, models/, training_state/, tensorboard/, train.log; of several processes
    the main one alone.
    """
    run, state = _prepare(options, processes)
    logbook, niter = _logbook(run), run.options.train.niter
    try:
        progress = processes.on_main(_start, run, state)
        parallel.share(processes, run.network, run.adam, run.average)
        sentinel = Sentinel(run.experiment, run.network, run.options, progress, processes)
        if progress.iteration < niter:
            logbook.begin(progress.iteration)
            _iterate(run, logbook, progress, sentinel)
        else:
            log.info("%s: all %d iterations are done; raise train.niter to go on", run.experiment, niter)
            if _validation_is_due(run, progress):
                logbook.begin(progress.iteration)
                _validate(run, logbook, progress, sentinel)
                processes.on_main(_save, run, progress)
    finally:
        logbook.close()
    done = progress.iteration >= niter
    if done:
        processes.on_main(_fit_ood_score, run, progress.iteration)
    return done


def _iterate(run: _Run, logbook: Logbook, progress: Progress, sentinel: Sentinel) -> None:
    """Train up to the last iteration, or until a signal: then a checkpoint is saved."""
    options, task, network, adam, processes = run.options, run.task, run.network, run.adam, run.processes
    o, device = options.train, next(network.parameters()).device
    network.train()
    with Interruption() as interruption, _saving_what_is_learnt(run, interruption, progress):
        if _validation_is_due(run, progress):
            _validate(run, logbook, progress, sentinel)
        for batch in _loader(run, progress.iteration, pin_memory=device.type == "cuda"):
            # Set what learns now, and how fast.
            number = progress.iteration + 1
            rate = optimizer.learning_rate(o, number)
            optimizer.set_learning_rate(adam, rate)
            freeze_encoder(task.encoder(network), options, number)

            # Forward and backward.
            gt, lr = run.crops.finish(batch, device)
            step = Step(number, gt, lr, derive_seed(o.manual_seed, "noise", number), processes.rank * len(gt))
            sentinel.before_step()
            parallel.initialise_actnorms(processes, task, network, run.crops, options, step)
            adam.zero_grad(set_to_none=True)
            loss = parallel.average(processes, network, _gradients_of(run, step))
            grad_norm = _clipped_norm(network, o.max_grad_norm)
            measured, norm = torch.stack([loss, grad_norm]).tolist()

            # Update weights.
            if sentinel.bad_step(measured, norm, partial(_whole, run, step), partial(_gradients_of, run)):
                _after_event(run, logbook, number, progress)
            else:
                _update(run)
            progress.iteration = number

            # Log, validate, save.
            logbook.iteration(number, measured, rate, norm)
            last, leave = number == o.niter, processes.agree(interruption.requested)
            if last or (number % o.val_freq == 0 and not leave):
                _validate(run, logbook, progress, sentinel)
                leave = processes.agree(interruption.requested)
            if _saves_at(options, number) or leave:
                processes.on_main(_save, run, progress)
            if leave and not last:
                log.info("interrupted: saved iteration %d; go on with --resume auto", number)
                return


def _logbook(run: _Run) -> Logbook:
    if not run.processes.main:
        return cast(Logbook, parallel.Silent())
    o = run.options
    return Logbook(run.experiment, o.train.niter, o.logger.print_freq, run.task.loss_name)


def _gradients_of(run: _Run, step: Step) -> Tensor:
    """Compute the gradients of a step, or of this process's share of it, the same at each call; return its loss."""
    generator = torch.Generator(step.gt.device).manual_seed(step.seed)
    run.task.skip_noise(step.gt, step.lr, generator, step.first)
    with precision.using(run.options.precision, training=True):
        return accumulate_gradients(run.task, run.network, step.gt, step.lr, generator, run.options.train.micro_batch)


def _whole(run: _Run, step: Step) -> Step:
    """The step of all processes together."""
    if run.processes.size == 1:
        return step
    batch = parallel.whole_batch(run.crops, run.options.datasets["train"].batch_size, step.iteration)
    return Step(step.iteration, batch["gt"].to(step.gt), batch["lr"].to(step.lr), step.seed)


def _clipped_norm(network: nn.Module, limit: float | None) -> Tensor:
    """Clip the gradients' L2 norm, if there is a limit; return what it was before."""
    return torch.nn.utils.clip_grad_norm_(network.parameters(), float("inf") if limit is None else limit)


def _update(run: _Run) -> None:
    run.adam.step()
    if run.average is not None:
        run.average.update_parameters(run.network)


def accumulate_gradients(
    task: Task, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator, micro_batch: int | None
) -> Tensor:
    """Add the gradients of a batch's mean loss, piece by piece of at most ``micro_batch`` crops; return that loss."""
    inputs = task.loss_inputs(gt, lr, generator)
    losses = [data_gradients(task, network, inputs, micro_batch)]
    loss = task.weight_loss(network)
    if loss is not None:
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def data_gradients(task: Task, network: nn.Module, inputs: LossInputs, micro_batch: int | None) -> Tensor:
    """Add the gradients of ``data_loss``, piece by piece; return it. Nothing is read back from the device."""
    tensors = [part for part in inputs if part is not None]
    whole = len(tensors[0])
    size, losses = whole if micro_batch is None else micro_batch, []
    for pieces in zip(*(part.split(size) for part in tensors), strict=True):
        rest = iter(pieces)
        loss = (
            len(pieces[0])
            / whole
            * task.data_loss(network, tuple(part if part is None else next(rest) for part in inputs))
        )
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _saves_at(options: RunOptions, iteration: int) -> bool:
    """Whether an iteration's checkpoint is saved, whatever happens."""
    return iteration % options.logger.save_checkpoint_freq == 0 or iteration == options.train.niter


def _save(run: _Run, progress: Progress) -> None:
    checkpoint.save(run.experiment, run.network, run.adam, run.options, progress, run.average)
    if _saves_at(run.options, progress.iteration):
        checkpoint.prune(run.experiment, run.options.logger, None if progress.best is None else progress.best[0])


def _after_event(run: _Run, logbook: Logbook, iteration: int, progress: Progress) -> None:
    """Note an event, and go back to the newest checkpoint if that is the policy; data and iterations go on."""
    logbook.event(iteration, progress.non_finite)
    if run.options.train.non_finite == "rollback":
        progress.went_back = (iteration, run.processes.on_main(_go_back, run, iteration, progress))
        parallel.share(run.processes, run.network, run.adam, run.average)


def _go_back(run: _Run, iteration: int, progress: Progress) -> int:
    """Load an earlier checkpoint; return its iteration."""
    every = run.options.logger.save_checkpoint_freq
    state = checkpoint.to_go_back_to(run.experiment, every, progress, iteration)
    checkpoint.restore(state, run.network, run.adam, run.options, run.average)
    log.warning("  Weights are those of %s again; iterations and data go on.", state)
    return int(state.stem)


def _fit_ood_score(run: _Run, iteration: int) -> None:
    """Fit the out-of-distribution score on training patches of the size trained on, beside the last weights.

    Nothing to do if it is there already.
    """
    size, begun = run.options.datasets["train"].GT_size, ema.has_begun(run.average)
    file = (checkpoint.ema_file if begun else checkpoint.weights_file)(run.experiment, iteration)
    if run.options.train.ood_patches == 0 or ood.file_beside(file).is_file():
        return
    network, n_patches = ema.evaluated(run.network, run.average), run.options.train.ood_patches
    try:
        ood.fit_and_save(run.options, file, run.task, network, n_patches=n_patches, patch=size)
    except UserError as error:
        # The training itself is done and saved.
        log.warning("no out-of-distribution score: %s", error)


def _prepare(options: RunOptions, processes: Processes) -> tuple[_Run, Path | None]:
    """Check the data, build the model, find the state to resume; nothing is written before all of it is right."""
    device = processes.device(options.device)
    if "train" not in options.datasets:
        raise UserError("datasets.train: expected a training set, got none")
    processes.share_of(options.datasets["train"].batch_size)
    crops = data_sets.training_crops(options, options.train.manual_seed)
    validation = data_sets.evaluation_set(options, options.datasets["val"]) if "val" in options.datasets else None
    experiment = Path(options.path.experiments) / options.name
    state = processes.on_main(checkpoint.find, experiment, options.path.resume_state)
    options = processes.on_main(_fitting, options, state)
    precision.use(options.precision, training=False)
    # The same model for one seed, whatever the coupling.
    torch.manual_seed(options.train.manual_seed)
    task = tasks.build(options)
    network = task.build_network(options.network_G, options.precision, options.train.checkpointing).to(device)
    processes.on_main(_make_ready, experiment, network, options, state)
    adam, average = optimizer.build(network, options.train), ema.build(network, options.train.ema)
    return _Run(options, task, network, adam, average, crops, validation, experiment, processes), state


def _fitting(options: RunOptions, state: Path | None) -> RunOptions:
    """The options with sizes that were not given taken from the weights that training starts or goes on from."""
    if state is not None and state.stem.isdigit():
        file = checkpoint.weights_file(state.parent.parent, int(state.stem))
        return weights.fitting(options, file) if file.is_file() else options
    start = options.path.pretrain_model_G
    return options if start is None else weights.fitting(options, weights.locate(start))


@contextlib.contextmanager
def _saving_what_is_learnt(run: _Run, interruption: Interruption, progress: Progress) -> Iterator[None]:
    """Save when training ends without a fault of its own.

    That is: an image turns out unreadable, a signal to all processes ended a loader process, another of the processes
    that train together failed.
    """

    def save() -> None:
        if progress.iteration > 0 and run.processes.main:
            _save(run, progress)

    try:
        yield
    except (CheckpointError, files.CannotWrite):
        raise
    except UserError as error:
        run.processes.announce(error)
        message, saved = own_words(error), ""
        save()
        if progress.iteration > 0:
            saved = f"\n  Saved iteration {progress.iteration}; go on with --resume auto."
        raise UserError(f"{message}{saved}") from error
    except RuntimeError as error:
        interrupted = interruption.requested and "DataLoader worker" in str(error)
        if not interrupted and not isinstance(error, FailedElsewhere):
            raise
        run.processes.announce(error)
        save()
        if not interrupted:
            if progress.iteration > 0:
                log.info("saved iteration %d; go on with --resume auto", progress.iteration)
            raise
        log.info("interrupted: saved iteration %d; go on with --resume auto", progress.iteration)


def _loader(run: _Run, first: int, pin_memory: bool) -> DataLoader[data.Cut]:
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


def _make_ready(experiment: Path, network: nn.Module, options: RunOptions, state: Path | None) -> None:
    """Unless there is a state to resume, load the weights to start from; move an older experiment aside."""
    if state is None:
        _load_pretrained(network, options)
    elsewhere = state is not None and state.resolve().parent.parent != experiment.resolve()
    if options.path.resume_state is None or elsewhere:
        with files.answering(experiment):
            archived = checkpoint.make_room(experiment)
        if archived is not None:
            log.info("an experiment of this name exists; it is now %s", archived)


def _start(run: _Run, state: Path | None) -> Progress:
    """Resume if there is a state; return how far the run has come."""
    experiment, options, network, progress = run.experiment, run.options, run.network, Progress()
    checkpoint.clean(experiment)
    if state is not None:
        progress = checkpoint.resume(state, network, run.adam, options, run.average)
        log.info("resumed %s at iteration %d", state, progress.iteration)
        aside = checkpoint.set_aside_newer(experiment, progress.iteration)
        if aside is not None:
            log.info("newer checkpoints are now in %s", aside)
    elif options.path.resume_state is not None:
        log.info("%s: no checkpoint to resume; starting at iteration 1", experiment)
    options_load.save(options, experiment / "options.yml")
    if options.train.non_finite == "rollback" and checkpoint.newest(experiment) is None:
        _save(run, progress)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    log.info("%s: %.2f M parameters, %s", experiment, n_parameters / 1e6, next(network.parameters()).device)
    log.info("precision: %s", precision.described(options.precision, next(network.parameters()).device))
    return progress


def _load_pretrained(network: nn.Module, options: RunOptions) -> None:
    path = options.path.pretrain_model_G
    if path is not None:
        file = weights.locate(path)
        loaded = weights.load(file, network, options, encoder_suffices=True)
        log.info("loaded %s from %s", loaded, file)
    elif options.network_G.train_RRDB_delay > 0 or not options.network_G.train_RRDB:
        raise UserError(
            "network_G.train_RRDB_delay, train_RRDB: the encoder would be frozen with random weights; give "
            "path.pretrain_model_G (an encoder trained with model: RRDB), or train it from the start with "
            "train_RRDB: true and train_RRDB_delay: 0"
        )


def freeze_encoder(encoder: nn.Module, options: RunOptions, iteration: int) -> None:
    """Let the encoder learn from train_RRDB_delay·niter on; frozen, it runs without autograd."""
    network = options.network_G
    learns = network.train_RRDB and iteration > network.train_RRDB_delay * options.train.niter
    encoder.requires_grad_(learns)


def _validation_is_due(run: _Run, progress: Progress) -> bool:
    """Whether a signal or a fault left out the validation of the iteration that the run goes on from."""
    iteration, o = progress.iteration, run.options.train
    planned = iteration > 0 and (iteration % o.val_freq == 0 or iteration == o.niter)
    return run.validation is not None and planned and progress.validated < iteration


def _validate(run: _Run, logbook: Logbook, progress: Progress, sentinel: Sentinel) -> None:
    """Evaluate the validation set and note its figures and, of the first image, input, sample and ground truth.

    It comes before the checkpoint is saved, so that this holds the best validation so far, and is not what training
    goes back to if its samples are not finite.
    """
    task, options, items, iteration = run.task, run.options, run.validation, progress.iteration
    if items is None:
        return
    network = ema.evaluated(run.network, run.average).eval()
    try:
        evaluator = Evaluator(task, network, options.scale, options.val, None, processes=run.processes)
        summary, _ = evaluator.evaluate("val", items)
    except torch.OutOfMemoryError:
        # The training itself is sound.
        if run.processes.main:
            _save(run, progress)
        raise
    drawn, finite = (sum(of_heat[key] for of_heat in summary["heats"].values()) for key in ("n_samples", "n_finite"))
    scalars = {"bits_per_dim": summary["bits_per_dim"], "non_finite_samples": drawn - finite}
    for heat, values in summary["heats"].items():
        figures = ("psnr", "psnr_gtmean", "lr_psnr_mean", "pixel_error_pct", "inf_pct")
        scalars |= {f"{key}_t{heat}": values.get(key) for key in figures}
    if run.processes.main:
        logbook.validation(iteration, scalars, strip(task, network, items[0], options.scale, options.val))
    run.network.train()
    progress.validated = iteration
    if sentinel.bad_validation(iteration, drawn - finite, drawn, partial(run.processes.on_main, _save, run, progress)):
        _after_event(run, logbook, iteration, progress)
    elif _saves_at(options, iteration):
        _note_best(progress, summary["bits_per_dim"])


def _note_best(progress: Progress, bits_per_dim: float | None) -> None:
    if bits_per_dim is None or not math.isfinite(bits_per_dim):
        return
    if progress.best is None or bits_per_dim < progress.best[1]:
        progress.best = (progress.iteration, bits_per_dim)
    log.info("best validation with a checkpoint: iteration %d, bits_per_dim %.4f", *progress.best)
