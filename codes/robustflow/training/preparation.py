"""From options to a run that is ready to train: data checked, network built, weights and state loaded."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from robustflow import models
from robustflow.models import Model, data_sets, weights
from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint, ema, history, optimizer
from robustflow.training.checkpoint import Progress
from robustflow.training.run import Run
from robustflow.training.saving import save
from robustflow.utils import files, locks, precision
from robustflow.utils.distributed import Processes
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

_ADVICE = "wait until it is done, end it, or give this run another name (--override name=...)"


@contextlib.contextmanager
def alone(options: RunOptions, processes: Processes) -> Iterator[None]:
    """Keep the experiment for this run. Locked if another one of its name is at work."""
    experiment = Path(options.path.experiments) / options.name
    with locks.held(locks.beside(experiment), experiment, _ADVICE, processes):
        yield


class Beginning(NamedTuple):
    """Where a run begins.

    Attributes:
        progress: How far it has come.
        state: File that was resumed, or None.
        changes: In what its options differ from those until then, in lines.
    """

    progress: Progress
    state: Path | None
    changes: list[str]


def prepare(options: RunOptions, processes: Processes) -> tuple[Run, Beginning]:
    """Check the data, build the model, read weights or state; nothing is written or moved before all of it is right."""
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
    model = models.build(options, options.train.checkpointing).to(device)
    model.options = options
    if state is None:
        processes.on_main(_load_pretrained, model, options)
    adam, average = optimizer.build(model.network, options.train), ema.build(model, options.train.ema)
    run = Run(options, model, adam, average, crops, validation, experiment, processes)
    beginning = processes.on_main(_begin, run, state)
    processes.on_main(_make_room, run, state)
    return run, beginning


def start(run: Run, beginning: Beginning) -> None:
    """Write the options of the run; set aside what comes after the state that was resumed."""
    experiment, options, network = run.experiment, run.options, run.network
    progress, state, changes = beginning
    checkpoint.clean(experiment)
    if state is not None:
        log.info("resumed %s at iteration %d", state, progress.iteration)
        aside = checkpoint.set_aside_newer(experiment, progress.iteration)
        if aside is not None:
            log.info("newer checkpoints are now in %s", aside)
    elif options.path.resume_state is not None:
        log.info("%s: no checkpoint to resume; starting at iteration 1", experiment)
    if changes:
        log.warning("\n  ".join(changes))
    history.replace_options(experiment, progress.iteration, options)
    if options.train.non_finite == "rollback" and checkpoint.newest(experiment) is None:
        save(run, progress)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    used = precision.described(options.precision, run.device)
    log.info("%s: %.2f M parameters, %s, precision: %s", experiment, n_parameters / 1e6, run.device, used)
    precision.warn_if_slow(options.precision, run.device)


def _begin(run: Run, state: Path | None) -> Beginning:
    if state is None:
        return Beginning(Progress(), None, [])
    progress = checkpoint.resume(state, run.model, run.adam, run.options, run.average)
    return Beginning(progress, state, history.changes(state, progress.iteration, run.options))


def _fitting(options: RunOptions, state: Path | None) -> RunOptions:
    """The options with sizes that were not given taken from the weights that training starts or goes on from."""
    if state is not None and state.stem.isdigit():
        file = checkpoint.weights_file(state.parent.parent, int(state.stem))
        return weights.fitting(options, file) if file.is_file() else options
    start = options.path.pretrain_model_G
    return options if start is None else weights.fitting(options, weights.locate(start))


def _make_room(run: Run, state: Path | None) -> None:
    """Unless it is resumed, move an older experiment of this name aside."""
    experiment = run.experiment
    elsewhere = state is not None and state.resolve().parent.parent != experiment.resolve()
    if run.options.path.resume_state is None or elsewhere:
        locks.require_free_below(experiment, _ADVICE)
        with files.answering(experiment):
            archived = checkpoint.make_room(experiment)
        if archived is not None:
            log.info("an experiment of this name exists; it is now %s", archived)


def _load_pretrained(model: Model, options: RunOptions) -> None:
    path = options.path.pretrain_model_G
    if path is not None:
        file = weights.locate(path)
        loaded = weights.load(file, model, options, encoder_suffices=True)
        log.info("loaded %s from %s", loaded, file)
    elif options.network_G.train_RRDB_delay > 0 or not options.network_G.train_RRDB:
        raise UserError(
            "network_G.train_RRDB_delay, train_RRDB: the encoder would be frozen with random weights; give "
            "path.pretrain_model_G (an encoder trained with model: RRDB), or train it from the start with "
            "train_RRDB: true and train_RRDB_delay: 0"
        )
