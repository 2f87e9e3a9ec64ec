"""Checkpoints: weights, their moving average, and state, each written atomically; the state last: it proves all."""

import contextlib
import io
import logging
import pickle
import random
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from robustflow.models import Model, weights
from robustflow.options.schema import LoggerOptions, RunOptions
from robustflow.training.optimizer import MovingAverage, load_state
from robustflow.training.run import Progress, Run
from robustflow.utils import checksums
from robustflow.utils.errors import UserError
from robustflow.utils.files import CannotWrite, find_unused, remove_leftovers, write_atomically

log = logging.getLogger(__name__)

SUFFIX = ".state"
# What a run can go on without: a moving average begins anew.
_SPARE = weights.EMA_SUFFIX
# What reading spoilt contents ends in.
_DAMAGED = (RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError, AssertionError)
_FOLDERS = ("training_state", "models", "checksums")
_FILES = r"(\d+)(?:\.state|_G(?:_ema)?(?:\.ood)?\.safetensors|\.sha256)"


class CheckpointError(UserError):
    """A checkpoint that cannot be resumed or written; the message says why and what to do."""


def weights_file(experiment: Path, iteration: int) -> Path:
    """Weights of an iteration."""
    return experiment / "models" / f"{iteration:08d}{weights.SUFFIX}"


def ema_file(experiment: Path, iteration: int) -> Path:
    """Moving average of the weights at an iteration."""
    return experiment / "models" / f"{iteration:08d}{weights.EMA_SUFFIX}"


def state_file(experiment: Path, iteration: int) -> Path:
    """State of optimizer, random generators and progress at an iteration."""
    return experiment / "training_state" / f"{iteration:08d}{SUFFIX}"


def file_to_test(run: Run) -> Path:
    """What tests take of the iteration that a run has come to: its moving average if there is one, else its weights."""
    return (ema_file if run.averages else weights_file)(run.experiment, run.progress.iteration)


def save(run: Run) -> None:
    """Write a checkpoint; remove those that are not to be kept.

    CheckpointError if there is no room; the older ones stay as they are.
    """
    experiment, options, iteration, buffer = run.experiment, run.options, run.progress.iteration, io.BytesIO()
    values = {"optimizer": run.adam.state_dict(), "random": capture_generators()}
    torch.save({**asdict(run.progress), **values}, buffer)
    contents = {}
    if run.averages:
        contents[ema_file(experiment, iteration)] = weights.serialize(run.evaluated, options, iteration)
    contents[weights_file(experiment, iteration)] = weights.serialize(run.model, options, iteration)
    contents[state_file(experiment, iteration)] = buffer.getvalue()
    older = newest(experiment)
    try:
        _write(experiment, iteration, contents)
    except CannotWrite as error:
        left = "There is no older checkpoint." if older is None else f"{older} is intact; go on with --resume auto."
        raise CheckpointError(f"{error}\n  Iteration {iteration} is not saved. {left}") from error
    if run.saves(iteration):
        prune(experiment, options.logger, None if run.progress.best is None else run.progress.best[0])


def _write(experiment: Path, iteration: int, contents: Mapping[Path, bytes]) -> None:
    """Write the files of a checkpoint, or none of a new one.

    The sums come first, so that an unfinished checkpoint is known as one. Written again, it is finished already, and
    each of its files may be the old or the new one: no sums until all are new.
    """
    again, sums = state_file(experiment, iteration).is_file(), checksums.place(experiment, iteration)
    if again:
        sums.unlink(missing_ok=True)
    else:
        checksums.write(experiment, iteration, contents)
    try:
        for file, data in contents.items():
            write_atomically(file, data)
    except CannotWrite:
        # Half a checkpoint would take room, and be moved aside by each attempt to go on.
        with contextlib.suppress(OSError):
            for file in () if again else (*contents, sums):
                file.unlink(missing_ok=True)
        raise
    if again:
        checksums.write(experiment, iteration, contents)


def states(experiment: Path) -> list[Path]:
    """State files of an experiment, newest first."""
    found = [file for file in experiment.glob(f"training_state/*{SUFFIX}") if file.stem.isdecimal()]
    return sorted(found, key=lambda file: int(file.stem), reverse=True)


def newest(experiment: Path) -> Path | None:
    """Newest state file of an experiment, intact or not; None without any."""
    return next(iter(states(experiment)), None)


def find(experiment: Path, resume_state: str | None) -> Path | None:
    """State file to resume: the newest intact one of the experiment for "auto", or of a folder; or the file named.

    None if there is nothing to resume. CheckpointError if there is no such state, or all are damaged.
    """
    if resume_state is None:
        return None
    if resume_state == "auto":
        return _newest_intact(states(experiment))
    state = Path(resume_state)
    if state.is_dir():
        return _newest_in(state)
    if not state.is_file():
        raise CheckpointError(f"{state}: expected a {SUFFIX} file or 'auto' in path.resume_state, no such file")
    _read(state)
    fault = checksums.fault_of_any(state, _SPARE) if state.stem.isdecimal() else None
    if fault is not None:
        raise CheckpointError(f"{state}: damaged checkpoint ({fault}); resume an older {SUFFIX} file")
    return state


def _newest_in(folder: Path) -> Path:
    """Newest intact state of an experiment's folder, or of the experiment that a sub-folder belongs to."""
    experiment = folder.resolve().parent if folder.resolve().name in _FOLDERS else folder
    state = _newest_intact(states(experiment))
    if state is None:
        raise CheckpointError(
            f"{folder}: expected a {SUFFIX} file, or the folder of an experiment with {_FOLDERS[0]}/*{SUFFIX}, got one "
            "without"
        )
    return state


def roll_back(run: Run, iteration: int) -> int:
    """Load an earlier checkpoint after an event in an iteration; return that of the checkpoint.

    It is the newest intact one of those saved regularly, else of all: which one then does not depend on interruptions.
    An older one if the last one led to this event at once.
    """
    experiment, last = run.experiment, run.progress.rollback
    found = [state for state in states(experiment) if int(state.stem) < iteration] or states(experiment)
    if last is not None and iteration - last[0] <= 1:
        found = [state for state in found if int(state.stem) < last[1]] or found
    regular = [state for state in found if int(state.stem) % run.options.logger.save_checkpoint_freq == 0]
    state = _newest_intact(regular or found)
    if state is None:
        raise CheckpointError(f"{experiment}: expected a checkpoint to roll back to, found none; start the run anew")
    restore(run, state)
    log.warning("  Weights are those of %s again; iterations and data go on.", state)
    return int(state.stem)


def _newest_intact(found: list[Path]) -> Path | None:
    faults: list[str] = []
    for state in found:
        fault = fault_of(state, _SPARE)
        if fault is None:
            if faults:
                log.warning("%s\n  The checkpoint before is used: %s", "\n".join(faults), state)
            return state
        faults.append(fault)
    if faults:
        raise CheckpointError("\n".join([*faults, "  No checkpoint is intact; train anew, without --resume."]))
    return None


def fault_of(state: Path, spare: str | None = None) -> str | None:
    """What is wrong with a checkpoint: a file that is missing, truncated or changed; None if nothing is.

    Files whose names end in ``spare`` do not count.
    """
    fault = checksums.fault_of_any(state, spare)
    if fault is not None or checksums.place(state.parent.parent, int(state.stem)).is_file():
        return fault
    # An older checkpoint, without checksums.
    try:
        weights.read(_weights_of(state, int(_read(state)["iteration"])))
    except UserError as error:
        return str(error)
    return None


def resume(run: Run, state: Path) -> Progress:
    """Load a checkpoint: weights, moving average, optimizer and random states; return how far it had come."""
    saved = restore(run, state)
    try:
        if "random" in saved:
            restore_generators(saved["random"])
    except _DAMAGED as error:
        raise _damage_error(state, error) from error
    return _progress(state, saved)


def read_progress(state: Path) -> Progress:
    """How far a checkpoint had come."""
    return _progress(state, _read(state))


def _progress(state: Path, saved: Mapping[str, Any]) -> Progress:
    try:
        # Older checkpoints say nothing but the iteration (there a validation was never left out), or another word.
        known = {"validated": saved["iteration"], "rollback": saved.get("went_back"), **saved}
        return Progress(**{field.name: known[field.name] for field in fields(Progress) if field.name in known})
    except _DAMAGED as error:
        raise _damage_error(state, error) from error


def restore(run: Run, state: Path) -> Mapping[str, Any]:
    """Load weights, moving average and optimizer state of a checkpoint; return all its state."""
    saved = _read(state)
    try:
        iteration = int(saved["iteration"])
        weights.load(_weights_of(state, iteration), run.model, run.options, encoder_suffices=False)
        if run.ema is not None:
            _restore_ema(ema_file(state.parent.parent, iteration), run.ema, run.options, iteration)
        configured = [{key: group[key] for key in ("lr", "betas")} for group in run.adam.param_groups]
        load_state(run.adam, saved["optimizer"])
        for group, values in zip(run.adam.param_groups, configured, strict=True):
            group.update(values)
    except UserError:
        raise
    except _DAMAGED as error:
        raise _damage_error(state, error) from error
    return saved


def _restore_ema(file: Path, ema: MovingAverage, options: RunOptions, iteration: int) -> None:
    ema.n_averaged.zero_()
    fault = _fault_of_ema(file)
    if fault is None:
        weights.load(file, cast(Model, ema.module), options, encoder_suffices=False)
        ema.n_averaged.fill_(iteration)
    elif iteration > 0:
        log.warning("%s; the moving average begins with the next update", fault)


def _fault_of_ema(file: Path) -> str | None:
    if not file.is_file():
        return f"{file}: not there"
    try:
        weights.read(file)
    except weights.WeightsError as error:
        return str(error)
    return checksums.fault(file)


def capture_generators() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's global random generators, plain values and tensors.

    They are for what takes its numbers from there (a plugin's dropout, say). Data order, crops and training noise do
    not: they derive from seed and iteration.
    """
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_generators(states: Mapping[str, Any]) -> None:
    """Set all generators to captured states; those of CUDA devices that are not here are left out."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_initialized():
        for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)


def _read(state: Path) -> Mapping[str, Any]:
    if state.suffix == ".safetensors":
        raise _no_state(state, "weights")
    try:
        saved = torch.load(state, map_location="cpu", weights_only=True)
        if isinstance(saved, Mapping) and "iteration" not in saved:
            raise _no_state(state, "weights" if _holds_weights(saved) else f"one with {', '.join(map(str, saved))}")
        int(saved["iteration"])
    except CheckpointError:
        raise
    except (*_DAMAGED, EOFError, OSError, pickle.UnpicklingError) as error:
        raise _damage_error(state, error) from error
    return saved


def _holds_weights(saved: Mapping[Any, Any]) -> bool:
    """Whether there are tensors by name, at the top or, as others save them, one level below."""
    below = [value.values() for value in saved.values() if isinstance(value, Mapping)]
    return any(isinstance(value, torch.Tensor) for values in (saved.values(), *below) for value in values)


def _no_state(file: Path, what: str) -> CheckpointError:
    """What to say of a file that is none of ours, or not this one of a checkpoint."""
    number = re.match(r"\d+(?=_)", file.name)
    state = None if number is None else state_file(file.parent.parent, int(number[0]))
    which = "a file of training_state/" if state is None or not state.is_file() else str(state)
    return CheckpointError(
        f"{file}: expected the {SUFFIX} file of a checkpoint, got {what}; resume {which} or 'auto'. To begin a new run "
        "from weights, set path.pretrain_model_G"
    )


def _weights_of(state: Path, iteration: int) -> Path:
    file = weights_file(state.parent.parent, iteration)
    if not file.is_file():
        raise CheckpointError(f"{state}: its weights {file} are missing")
    return file


def _damage_error(state: Path, error: Exception) -> CheckpointError:
    reason = next(iter(str(error).splitlines()), "it ends too early")
    if isinstance(error, pickle.UnpicklingError):  # which torch explains by its own settings
        reason = "it is no pickle of tensors and plain values"
    return CheckpointError(
        f"{state}: damaged checkpoint, or no {SUFFIX} file of this program ({reason}); resume an older one, or 'auto'"
    )


def clean(experiment: Path) -> None:
    """Remove what a killed process left half-written."""
    for folder in (experiment, *(experiment / name for name in (*_FOLDERS, "non_finite"))):
        for file in remove_leftovers(folder, rf"{_FILES}|\d+\.safetensors|options\.yml"):
            log.info("%s: removed, half a file that a killed process left", file)


def prune(experiment: Path, options: LoggerOptions, best: int | None) -> None:
    """Remove all checkpoints but the newest ``keep_last``, those of ``keep_every`` and the best.

    Unless the newest is damaged: then nothing is removed.
    """
    found = [int(state.stem) for state in states(experiment)]
    if options.keep_last is None or not found or fault_of(state_file(experiment, found[0])) is not None:
        return
    every = options.keep_every
    regular = () if every is None else (number for number in found if number > 0 and number % every == 0)
    kept = {*found[: options.keep_last], best, *regular}
    for number, file in _files(experiment):
        if number < found[0] and number not in kept:
            file.unlink(missing_ok=True)


def _files(experiment: Path) -> list[tuple[int, Path]]:
    """Files of all checkpoints, with their iterations; states first: without one there is no checkpoint."""
    files = [file for name in _FOLDERS for file in sorted((experiment / name).glob("*"))]
    matches = ((re.fullmatch(_FILES, file.name), file) for file in files)
    return [(int(match[1]), file) for match, file in matches if match is not None]


def archive(experiment: Path) -> Path | None:
    """Move an older experiment of the same name aside, so that nothing of it is lost; return where it went."""
    if not experiment.exists():
        return None
    return experiment.rename(find_unused(experiment.with_name(f"{experiment.name}_archived")))


def archive_newer(experiment: Path, iteration: int) -> Path | None:
    """Move checkpoints after an iteration into a folder of their own, when training goes on from that iteration.

    Otherwise weights of two histories would stand side by side, and the newest be the wrong ones.
    """
    newer = [file for number, file in _files(experiment) if number > iteration]
    if not newer:
        return None
    aside = find_unused(experiment / "superseded")
    for file in newer:
        (aside / file.parent.name).mkdir(parents=True, exist_ok=True)
        file.rename(aside / file.parent.name / file.name)
    return aside
