"""From options to a run that is ready to train: data checked, network built, weights and state loaded."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from robustflow import models
from robustflow.models import Model, data_sets, weights
from robustflow.nn import fused
from robustflow.options import load as options_load
from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint, optimizer
from robustflow.training.logbook import Logbook
from robustflow.training.run import Progress, Run
from robustflow.utils import devices, distributed, files, locks, memory, precision
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

_ADVICE = "wait until it is done, end it, or give this run another name (--override name=...)"
_KEPT = "options_until_"


@contextlib.contextmanager
def prepare(options: RunOptions) -> Iterator[Run]:
    """Make a run ready, with its experiment kept for it alone, and its logbook open, within the block.

    Nothing is written or moved before the data are checked, the model is built, and weights or state are read.

    Raises:
        UserError: if any of that is not right.
        Locked: if another run of this name is at work.
    """
    experiment = Path(options.path.experiments) / options.name
    with contextlib.ExitStack() as stack:
        distributed.on_main(stack.enter_context, locks.hold(locks.beside(experiment), experiment, _ADVICE))
        run, state = _build(options)
        run.progress, changes = distributed.on_main(_load, run, state)
        distributed.on_main(_archive, run, state)
        run.logbook.open()
        stack.callback(run.logbook.close)
        elements = run.model.mapped_elements(run.options.training_pixels)
        stack.enter_context(fused.expecting(elements))
        distributed.on_main(_start, run, state, changes)
        distributed.share(*run.stateful)
        yield run


def _build(options: RunOptions) -> tuple[Run, Path | None]:
    """The run, its network untrained or with pretrained weights, and the state file to resume, if any."""
    device = devices.choose(options.device)
    if "train" not in options.datasets:
        raise UserError("datasets.train: expected a training set, got none")
    _require_equal_shares(options.datasets["train"].batch_size)
    memory.require_shared(options.datasets["train"].n_workers, "datasets.train.n_workers")
    crops = data_sets.training_crops(options, options.train.manual_seed)
    validation = data_sets.evaluation_set(options, options.datasets["val"]) if "val" in options.datasets else None
    experiment = Path(options.path.experiments) / options.name
    state = distributed.on_main(checkpoint.find, experiment, options.path.resume_state)
    start = distributed.on_main(_locate_start, options, state)
    options = options if start is None else distributed.on_main(weights.fit_options, options, start)
    precision.use(options.precision, training=False)
    # The same model for one seed, whatever the coupling.
    torch.manual_seed(options.train.manual_seed)
    model = models.build(options, options.train.checkpointing).to(device)
    model.options = options
    if state is None:
        distributed.on_main(_load_pretrained, model, options, start)
    adam = optimizer.build(model, options.train)
    ema = None if options.train.ema is None else optimizer.MovingAverage(model, options.train.ema)
    logbook = Logbook(experiment, options.train.niter, options.logger.print_freq, model.loss_name)
    return Run(options, model, adam, ema, crops, validation, logbook), state


def _require_equal_shares(batch_size: int) -> None:
    if batch_size % distributed.size() != 0:
        raise UserError(
            f"datasets.train.batch_size: expected a multiple of the {distributed.size()} processes, among which each "
            f"batch is divided, got {batch_size}; change it or torchrun's --nproc_per_node"
        )


def _locate_start(options: RunOptions, state: Path | None) -> Path | None:
    """The weights that training starts or goes on from, of which sizes that were not given are taken, if any."""
    if state is not None and state.stem.isdecimal():
        file = checkpoint.weights_file(state.parent.parent, int(state.stem))
        return file if file.is_file() else None
    start = options.path.pretrain_model_G
    return None if start is None else weights.locate(start)


def _load_pretrained(model: Model, options: RunOptions, file: Path | None) -> None:
    if file is not None:
        loaded = weights.load(file, model, options, encoder_suffices=True)
        log.info("loaded %s from %s", loaded, file)
    elif options.network_G.train_RRDB_delay > 0 or not options.network_G.train_RRDB:
        raise UserError(
            "network_G.train_RRDB_delay, train_RRDB: the encoder would be frozen with random weights; give "
            "path.pretrain_model_G (an encoder trained with model: RRDB), or train it from the start with "
            "train_RRDB: true and train_RRDB_delay: 0"
        )


def _load(run: Run, state: Path | None) -> tuple[Progress, list[str]]:
    """Resume; return how far the run has come, and in what its options differ from those until then, in lines."""
    if state is None:
        return Progress(), []
    progress = checkpoint.resume(run, state)
    return progress, list_changes_since(state, progress.iteration, run.options)


def _archive(run: Run, state: Path | None) -> None:
    """Unless it is resumed, move an older experiment of this name aside."""
    experiment = run.experiment
    elsewhere = state is not None and state.resolve().parent.parent != experiment.resolve()
    if run.options.path.resume_state is None or elsewhere:
        locks.require_free_below(experiment, _ADVICE)
        with files.explain_faults(experiment):
            archived = checkpoint.archive(experiment)
        if archived is not None:
            log.info("an experiment of this name exists; it is now %s", archived)


def _start(run: Run, state: Path | None, changes: list[str]) -> None:
    """Write the options of the run; set aside what comes after the state that was resumed."""
    experiment, options, iteration = run.experiment, run.options, run.progress.iteration
    checkpoint.clean(experiment)
    if state is not None:
        log.info("resumed %s at iteration %d", state, iteration)
        archived = checkpoint.archive_newer(experiment, iteration)
        if archived is not None:
            log.info("newer checkpoints are now in %s", archived)
    elif options.path.resume_state is not None:
        log.info("%s: no checkpoint to resume; starting at iteration 1", experiment)
    if changes:
        log.warning("\n  ".join(changes))
    _replace_options(experiment, iteration, options)
    if options.train.non_finite == "rollback" and checkpoint.newest(experiment) is None:
        checkpoint.save(run)
    n_parameters = sum(parameter.numel() for parameter in run.model.parameters())
    used = precision.describe(options.precision, run.model.device)
    log.info("%s: %.2f M parameters, %s, precision: %s", experiment, n_parameters / 1e6, run.model.device, used)
    precision.warn_if_slow(options.precision, run.model.device)


# Which options a run has had: told, and kept, when it is resumed with others.


def list_changes_since(state: Path, iteration: int, options: RunOptions) -> list[str]:
    """What differs from the options that a state was reached with, last and before, in lines; none if nothing does."""
    experiment = state.parent.parent
    now = weights.list_changes(weights.read_options_text(checkpoint.weights_file(experiment, iteration)), options)
    lines = ["options differ from those of the run so far:", *now] if now else []
    for file in sorted(experiment.glob(f"{_KEPT}*.yml")):
        match = re.match(rf"{_KEPT}(\d+)_", file.name)
        if match is not None and int(match[1]) < iteration and (then := _changes(file, options)):
            lines += [f"options were others until iteration {int(match[1])} ({file}):", *then]
    return lines


def _replace_options(experiment: Path, iteration: int, options: RunOptions) -> None:
    """Write options.yml; if the run had others until this iteration, keep their file."""
    file = experiment / "options.yml"
    if file.is_file() and _changes(file, options):
        kept = files.find_unused(experiment / f"{_KEPT}{iteration:08d}", ".yml")
        with files.explain_faults(kept):
            file.rename(kept)
        log.info("the options until now are kept in %s", kept)
    options_load.save(options, file)


def _changes(file: Path, options: RunOptions) -> list[str]:
    try:
        return weights.list_changes(file.read_text(encoding="utf-8"), options)
    except (UserError, UnicodeDecodeError):
        return ["not readable any more"]
