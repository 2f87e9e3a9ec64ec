"""Everything that could go wrong in a run, tried before it: `python train.py -opt confs/x.yml --check`."""

import datetime
import logging
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from robustflow import models
from robustflow.evaluation.evaluator import Evaluator
from robustflow.models import data_sets
from robustflow.models.loading import load_model
from robustflow.nn import fused
from robustflow.options.schema import RunOptions
from robustflow.training import checkpoint
from robustflow.training.loop import fit_ood_score, iterate
from robustflow.training.preparation import prepare
from robustflow.utils import memory
from robustflow.utils.errors import RunFailed, UserError, describe_error
from robustflow.utils.files import CannotWrite, find_existing_part, require_writable

log = logging.getLogger(__name__)

# Steps that are timed, after a first one that compiles and initialises; and no more of them after so many seconds.
_STEPS = 4
_IMAGES = 2
_MIB, _GIB = 2**20, 2**30


def check(options: RunOptions) -> str:
    """The report of `estimate`."""
    return estimate(options)[0]


def estimate(options: RunOptions) -> tuple[str, float]:
    """Check all data sets; train a few steps, save, resume, validate, elsewhere.

    Returns a report for the screen, and the seconds that the whole run will take.

    Nothing in the folders of the run is changed. UserError as training and tests would raise it.
    """
    if "train" not in options.datasets:
        raise UserError("datasets.train: expected a training set, got none")
    sets = _count(options)
    experiment = Path(options.path.experiments) / options.name
    require_writable(experiment, str(experiment), "set path.experiments")
    # The trial computes as the whole run would.
    with tempfile.TemporaryDirectory() as folder, fused.expecting(_mapped_elements(options)):
        try:
            lines, seconds = _try(options, folder)
        except (UserError, RunFailed) as error:
            unwritten = error if isinstance(error, CannotWrite) else error.__cause__
            if isinstance(unwritten, CannotWrite):
                place, reason = Path(folder).parent, describe_error(unwritten.__cause__ or error)
                raise UserError(f"{place}: expected room to try the run in, got: {reason}; set TMPDIR") from error
            # What it says of files is of those that are gone now.
            lines = [line for line in str(error).splitlines() if folder not in line and "--resume" not in line]
            raise type(error)("\n".join(lines) or str(error).splitlines()[0]) from error
    rest = ", resume and validation" if "val" in sets else " and resume"
    counts = ", ".join(f"{key} {n}" for key, n in sets.items())
    right = f"{options.name}: options, data, {1 + _STEPS} steps, save{rest} are right."
    return "\n".join([right, f"  images      {counts}", *lines]), seconds


def _try(options: RunOptions, folder: str) -> tuple[list[str], float]:
    """What a run will take, extrapolated from a few steps, in lines; and its seconds."""
    trial = _trial(options, folder)
    # What it says when a run begins is, in a trial, of files that are gone afterwards.
    beginning = logging.getLogger("robustflow.training.preparation")
    beginning.setLevel(logging.ERROR)
    try:
        # Two runs: the second resumes what the first one saved.
        _train(_shorten(trial, 1, resume=False))
        step = _train(_shorten(trial, 1 + _STEPS, resume=True))
    finally:
        beginning.setLevel(logging.NOTSET)
    experiment = Path(folder) / options.name
    saved = sum(file.stat().st_size for file in experiment.glob("*/*") if file.stem.startswith(f"{1 + _STEPS:08d}"))
    lines, seconds = _estimate_time(options, step, _validation_time(options, trial))
    return [*lines, *_estimate_room(options, saved)], seconds


def _train(trial: RunOptions) -> float:
    """Train, and return the median of seconds per iteration without the first; KeyboardInterrupt after a signal."""
    with prepare(trial) as run:
        iterate(run)
        if run.progress.iteration < trial.train.niter:
            raise KeyboardInterrupt
        fit_ood_score(run)
    first, *others = run.logbook.seconds
    return statistics.median(others or [first])


def _mapped_elements(options: RunOptions) -> int:
    """Elements that the whole run will map."""
    with torch.device("meta"):
        model = models.build(options)
    return model.mapped_elements(options.training_pixels)


def _count(options: RunOptions) -> dict[str, int]:
    """Images of the training set, items of all others; every set is opened and its files are checked."""
    seed, sets = options.train.manual_seed, options.datasets
    return {
        key: len(data_sets.training_crops(options, seed) if key == "train" else data_sets.evaluation_set(options, each))
        for key, each in sets.items()
    }


def _trial(options: RunOptions, folder: str) -> RunOptions:
    """The run in a folder of its own, without validation, at its most expensive: the encoder learns."""
    start = options.path.pretrain_model_G
    state = checkpoint.find(Path(options.path.experiments) / options.name, options.path.resume_state)
    if state is not None and state.stem.isdecimal():
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


def _shorten(trial: RunOptions, niter: int, *, resume: bool) -> RunOptions:
    patches = min(trial.train.ood_patches, 10) if resume else 0
    # Ten patches have no empirical covariance.
    fit = {"ood_patches": patches, "ood_covariance": "shrunk"}
    train_options = trial.train.model_copy(update={"niter": niter, **fit})
    logger = trial.logger.model_copy(update={"print_freq": 1, "save_checkpoint_freq": niter})
    path = trial.path.model_copy(update={"resume_state": "auto"}) if resume else trial.path
    return trial.model_copy(update={"train": train_options, "logger": logger, "path": path})


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


def _estimate_time(options: RunOptions, step: float, validation: float) -> tuple[list[str], float]:
    """Lines on seconds per iteration and per validation, and on the whole run; and its seconds."""
    o, training = options.train, options.datasets["train"]
    n_validations = math.ceil(o.niter / o.val_freq) if "val" in options.datasets else 0
    seconds = o.niter * step + n_validations * validation
    total = datetime.timedelta(seconds=round(seconds))
    lines = [
        f"  step        {step:.3g} s ({training.batch_size} crops of {training.GT_size}x{training.GT_size})",
        f"  validation  {validation:.3g} s, {n_validations} times",
        f"  whole run   {total} ({o.niter} iterations), as fast as here and now",
    ]
    return lines, seconds


def _estimate_room(options: RunOptions, checkpoint_bytes: int) -> list[str]:
    """Lines on memory, of the GPU if there is one, else of this process, and on the disk of the experiments."""
    where = "of the GPU" if torch.cuda.is_available() and options.device != "cpu" else "of this process"
    n, free = count_checkpoints(options), shutil.disk_usage(find_existing_part(options.path.experiments)).free
    disk = checkpoint_bytes * n
    peak = memory.peak()
    taken = "not known" if peak is None else f"{peak / _GIB:.2f} GiB"
    lines = [
        f"  memory      {taken} {where} at its peak; loader processes come on top",
        f"  disk        {disk / _MIB:.3g} MiB ({n} checkpoints); {free / _GIB:.3g} GiB are free",
    ]
    if disk > free:
        lines.append("  The checkpoints will not fit: set logger.keep_last, or path.experiments to a larger disk.")
    return lines


def count_checkpoints(options: RunOptions) -> int:
    """Checkpoints of a run that are kept in the end."""
    niter, logger = options.train.niter, options.logger
    saved = math.ceil(niter / logger.save_checkpoint_freq)
    if logger.keep_last is None:
        return saved
    regular = 0 if logger.keep_every is None else niter // logger.keep_every
    return min(saved, logger.keep_last + 1 + regular)
