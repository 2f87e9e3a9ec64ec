"""From options to a run that is ready to train: data checked, network built, weights and state loaded."""

import logging
from pathlib import Path

import torch
from torch import nn

from robustflow import files, precision, tasks
from robustflow.distributed import Processes
from robustflow.errors import UserError
from robustflow.options import load as options_load
from robustflow.options.schema import RunOptions
from robustflow.tasks import data_sets, weights
from robustflow.training import checkpoint, ema, optimizer
from robustflow.training.checkpoint import Progress
from robustflow.training.run import Run
from robustflow.training.saving import save

log = logging.getLogger(__name__)


def prepare(options: RunOptions, processes: Processes) -> tuple[Run, Path | None]:
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
    return Run(options, task, network, adam, average, crops, validation, experiment, processes), state


def start(run: Run, state: Path | None) -> Progress:
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
        save(run, progress)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    log.info("%s: %.2f M parameters, %s", experiment, n_parameters / 1e6, run.device)
    log.info("precision: %s", precision.described(options.precision, run.device))
    precision.warn_if_slow(options.precision, run.device)
    return progress


def _fitting(options: RunOptions, state: Path | None) -> RunOptions:
    """The options with sizes that were not given taken from the weights that training starts or goes on from."""
    if state is not None and state.stem.isdigit():
        file = checkpoint.weights_file(state.parent.parent, int(state.stem))
        return weights.fitting(options, file) if file.is_file() else options
    start = options.path.pretrain_model_G
    return options if start is None else weights.fitting(options, weights.locate(start))


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
