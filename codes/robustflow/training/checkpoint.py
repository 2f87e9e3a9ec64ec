"""Checkpoints: weights and optimizer state, each written atomically; the state last, so that it proves both."""

import io
import pickle
import time
from pathlib import Path

import torch
from torch import nn

from robustflow.errors import UserError
from robustflow.files import write_atomically
from robustflow.options.schema import RunOptions
from robustflow.tasks import weights

SUFFIX = ".state"


class CheckpointError(UserError):
    """A checkpoint that cannot be resumed; the message says why and what to do."""


def weights_file(experiment: Path, iteration: int) -> Path:
    """Weights of an iteration."""
    return experiment / "models" / f"{iteration:08d}{weights.SUFFIX}"


def state_file(experiment: Path, iteration: int) -> Path:
    """Optimizer state of an iteration."""
    return experiment / "training_state" / f"{iteration:08d}{SUFFIX}"


def save(
    experiment: Path, network: nn.Module, optimizer: torch.optim.Optimizer, options: RunOptions, iteration: int
) -> None:
    """Write the checkpoint of an iteration."""
    weights.save(weights_file(experiment, iteration), network, options, iteration)
    buffer = io.BytesIO()
    torch.save({"iteration": iteration, "optimizer": optimizer.state_dict()}, buffer)
    write_atomically(state_file(experiment, iteration), buffer.getvalue())


def find(experiment: Path, resume_state: str | None) -> Path | None:
    """State file to resume: the newest of the experiment for "auto" (None if it has none), or the file named."""
    if resume_state is None:
        return None
    if resume_state == "auto":
        states = [file for file in experiment.glob(f"training_state/*{SUFFIX}") if file.stem.isdigit()]
        return max(states, key=lambda file: int(file.stem), default=None)
    if not Path(resume_state).is_file():
        raise CheckpointError(f"{resume_state}: expected a {SUFFIX} file or 'auto' in path.resume_state, no such file")
    return Path(resume_state)


def resume(state: Path, network: nn.Module, optimizer: torch.optim.Optimizer, options: RunOptions) -> int:
    """Load weights and optimizer state; return the iteration they were saved at."""
    try:
        saved = torch.load(state, map_location="cpu", weights_only=True)
        iteration = int(saved["iteration"])
        file = weights_file(state.parent.parent, iteration)
        if not file.is_file():
            raise CheckpointError(f"{state}: its weights {file} are missing")
        weights.load(file, network, options, encoder_suffices=False)
        configured = [{key: group[key] for key in ("lr", "betas")} for group in optimizer.param_groups]
        optimizer.load_state_dict(saved["optimizer"])
        for group, values in zip(optimizer.param_groups, configured, strict=True):
            group.update(values)
    except UserError:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{state}: damaged checkpoint ({error}); resume an older .state file") from error
    return iteration


def _unused(path: Path) -> Path:
    """The path, with the time and if need be a number appended, such that nothing is there yet."""
    stamped = path.with_name(f"{path.name}_{time.strftime('%Y%m%d_%H%M%S')}")
    candidates = (stamped.with_name(f"{stamped.name}{suffix}") for suffix in ("", *(f"_{n}" for n in range(2, 1000))))
    return next(candidate for candidate in candidates if not candidate.exists())


def make_room(experiment: Path) -> Path | None:
    """Move an older experiment of the same name aside, so that nothing of it is lost; return where it went."""
    if not experiment.exists():
        return None
    return experiment.rename(_unused(experiment.with_name(f"{experiment.name}_archived")))


def set_aside_newer(experiment: Path, iteration: int) -> Path | None:
    """Move checkpoints after an iteration into a folder of their own, when training goes on from that iteration.

    Otherwise weights of two histories would stand side by side, and the newest be the wrong ones.
    """
    files = [*experiment.glob(f"models/*{weights.SUFFIX}"), *experiment.glob(f"training_state/*{SUFFIX}")]
    numbers = {file: file.name.removesuffix(weights.SUFFIX).removesuffix(SUFFIX) for file in files}
    newer = [file for file, number in numbers.items() if number.isdigit() and int(number) > iteration]
    if not newer:
        return None
    aside = _unused(experiment / "superseded")
    for file in newer:
        (aside / file.parent.name).mkdir(parents=True, exist_ok=True)
        file.rename(aside / file.parent.name / file.name)
    return aside
