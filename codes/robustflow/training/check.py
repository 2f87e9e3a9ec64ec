"""Everything that could go wrong in a run, tried before it: `python train.py -opt confs/x.yml --check`."""

import datetime
import logging
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from robustflow import models
from robustflow.evaluation.evaluate import Evaluator
from robustflow.models import data_sets
from robustflow.models.loading import load_model
from robustflow.nn import fused
from robustflow.options import amount
from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint
from robustflow.training.trainer import train
from robustflow.utils import memory
from robustflow.utils.errors import RunFailed, UserError
from robustflow.utils.files import existing_part

log = logging.getLogger(__name__)

# Steps that are timed, after a first one that compiles and initialises; and no more of them after so many seconds.
_STEPS = 4
_IMAGES = 2
# What these say when a run begins is, in a trial, of files that are gone afterwards.
_TELLING = ("preparation", "history")
_MIB, _GIB = 2**20, 2**30


class Estimate(NamedTuple):
    """What a run will take, extrapolated from a few steps.

    Attributes:
        step: Seconds per iteration.
        validation: Seconds per validation, all images of it; 0 without one.
        n_validations: How many there will be.
        memory: Peak, bytes: of the GPU if there is one, else of this process.
        checkpoint: Bytes of one.
        n_checkpoints: How many are kept in the end.
        free: Bytes on the disk of the experiments.
    """

    step: float
    validation: float
    n_validations: int
    memory: int
    checkpoint: int
    n_checkpoints: int
    free: int


def check(options: RunOptions) -> str:
    """Check all data sets; train a few steps, save, resume, validate, elsewhere; return a report for the screen.

    Nothing in the folders of the run is changed. UserError as training and tests would raise it.
    """
    if "train" not in options.datasets:
        raise UserError("datasets.train: expected a training set, got none")
    sets = _counted(options)
    # The trial computes as the whole run would.
    with tempfile.TemporaryDirectory() as folder, fused.expecting(_mapped_elements(options)):
        try:
            estimate = _tried(options, folder)
        except (UserError, RunFailed) as error:
            # What it says of files is of those that are gone now.
            lines = [line for line in str(error).splitlines() if folder not in line and "--resume" not in line]
            raise type(error)("\n".join(lines) or str(error).splitlines()[0]) from error
    return _report(options, sets, estimate)


def _tried(options: RunOptions, folder: str) -> Estimate:
    trial = _trial(options, folder)
    watch, beginnings = _Watch(), [logging.getLogger(f"robustflow.training.{name}") for name in _TELLING]
    logging.getLogger("robustflow").addHandler(watch)
    for telling in beginnings:
        telling.setLevel(logging.ERROR)
    try:
        # Two runs: the second resumes what the first one saved.
        for niter, resume in ((1, False), (1 + _STEPS, True)):
            if not train(_lasting(trial, niter, resume=resume)):
                raise KeyboardInterrupt
    finally:
        logging.getLogger("robustflow").removeHandler(watch)
        for telling in beginnings:
            telling.setLevel(logging.NOTSET)
    experiment = Path(folder) / options.name
    saved = sum(file.stat().st_size for file in experiment.glob("*/*") if file.stem.startswith(f"{1 + _STEPS:08d}"))
    return _estimate(options, watch.step, _validation_time(options, trial), saved)


def _mapped_elements(options: RunOptions) -> int:
    """Elements that the whole run will map."""
    with torch.device("meta"):
        model = models.build(options)
    return model.mapped_elements(amount.training_pixels(options))


def _counted(options: RunOptions) -> dict[str, int]:
    """Images of the training set, items of all others; every set is opened and its files are checked."""
    counts: dict[str, int] = {}
    for key, dataset in options.datasets.items():
        if key == "train":
            counts[key] = len(data_sets.training_crops(options, options.train.manual_seed))
        else:
            counts[key] = len(data_sets.evaluation_set(options, dataset))
    return counts


def _trial(options: RunOptions, folder: str) -> RunOptions:
    """The run in a folder of its own, without validation, at its most expensive: the encoder learns."""
    start = options.path.pretrain_model_G
    state = checkpoint.find(Path(options.path.experiments) / options.name, options.path.resume_state)
    if state is not None and state.stem.isdigit():
        start = str(checkpoint.weights_file(state.parent.parent, int(state.stem)))
    changes = {"experiments": folder, "resume_state": None, "model_path": None, "pretrain_model_G": start}
    network = options.network_G
    # Without pretrained weights a frozen encoder is a mistake, which training is to name.
    if start is not None:
        network = network.model_copy(update={"train_RRDB_delay": 0.0})
    return options.model_copy(
        update={
            "path": options.path.model_copy(update=changes),
            "network_G": network,
            "datasets": {key: dataset for key, dataset in options.datasets.items() if key != "val"},
        }
    )


def _lasting(trial: RunOptions, niter: int, *, resume: bool) -> RunOptions:
    patches = min(trial.train.ood_patches, 10) if resume else 0
    train_options = trial.train.model_copy(update={"niter": niter, "ood_patches": patches})
    logger = trial.logger.model_copy(update={"print_freq": 1, "save_checkpoint_freq": niter})
    path = trial.path.model_copy(update={"resume_state": "auto"}) if resume else trial.path
    return trial.model_copy(update={"train": train_options, "logger": logger, "path": path})


class _Watch(logging.Handler):
    """Notes when iterations were logged."""

    def __init__(self) -> None:
        super().__init__()
        self._times: dict[int, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("iteration %d/%d") and isinstance(record.args, tuple):
            self._times[int(str(record.args[0]))] = record.created

    @property
    def step(self) -> float:
        """Median seconds between iterations, without the first of either run."""
        return statistics.median(self._times[k] - self._times[k - 1] for k in range(3, 2 + _STEPS))


def _validation_time(options: RunOptions, trial: RunOptions) -> float:
    """Seconds of a whole validation, from its first images, by the weights that were saved; 0 without one."""
    if "val" not in options.datasets:
        return 0.0
    model = load_model(trial)
    items = data_sets.evaluation_set(options, options.datasets["val"])
    first = items[: min(_IMAGES, len(items))]
    begun = time.perf_counter()
    Evaluator(model, options.val, None).evaluate("val", first)
    return (time.perf_counter() - begun) * len(items) / len(first)


def _estimate(options: RunOptions, step: float, validation: float, checkpoint: int) -> Estimate:
    o, logger = options.train, options.logger
    saves = math.ceil(o.niter / logger.save_checkpoint_freq)
    kept = saves if logger.keep_last is None else min(saves, logger.keep_last + 1)
    if logger.keep_last is not None and logger.keep_every is not None:
        kept = min(saves, kept + o.niter // logger.keep_every)
    return Estimate(
        step=step,
        validation=validation,
        n_validations=math.ceil(o.niter / o.val_freq) if "val" in options.datasets else 0,
        memory=memory.peak(),
        checkpoint=checkpoint,
        n_checkpoints=kept,
        free=shutil.disk_usage(existing_part(options.path.experiments)).free,
    )


def _report(options: RunOptions, sets: dict[str, int], e: Estimate) -> str:
    training = options.datasets["train"]
    counts = ", ".join(f"{key} {n}" for key, n in sets.items())
    total = options.train.niter * e.step + e.n_validations * e.validation
    where = "of the GPU" if torch.cuda.is_available() and options.device != "cpu" else "of this process"
    disk = e.checkpoint * e.n_checkpoints
    rest = ", resume and validation" if "val" in sets else " and resume"
    lines = [
        f"{options.name}: options, data, {1 + _STEPS} steps, save{rest} are right.",
        f"  images      {counts}",
        f"  step        {e.step:.3g} s ({training.batch_size} crops of {training.GT_size}x{training.GT_size})",
        f"  validation  {e.validation:.3g} s, {e.n_validations} times",
        f"  whole run   {_duration(total)} ({options.train.niter} iterations), as fast as here and now",
        f"  memory      {e.memory / _GIB:.2f} GiB {where} at its peak; loader processes come on top",
        f"  disk        {disk / _MIB:.3g} MiB ({e.n_checkpoints} checkpoints); {e.free / _GIB:.3g} GiB are free",
    ]
    if disk > e.free:
        lines.append("  The checkpoints will not fit: set logger.keep_last, or path.experiments to a larger disk.")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
