"""The training step in which something was not finite, on disk: batch, weights, options, seed and what was found."""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from robustflow.models import weights
from robustflow.options import load as options_load
from robustflow.options.schema import RunOptions
from robustflow.training.failures.diagnosis import Diagnosis
from robustflow.training.gradients import Step
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

_FORMAT = "robustflow non-finite step 1"
_WEIGHTS = "network."


@dataclass(frozen=True)
class Dump:
    """A training step with all that it takes.

    Attributes:
        step: Its number, batch and seed.
        weights: The network's tensors before it.
        options: Options of the run, YAML.
        device: Type of the device that it ran on.
        found: What it gave.
    """

    step: Step
    weights: dict[str, Tensor]
    options: str
    device: str
    found: Diagnosis


def file_for(experiment: Path, iteration: int) -> Path:
    """Where the dump of an iteration lies."""
    return experiment / "non_finite" / f"{iteration:08d}.safetensors"


def write(path: Path, network: nn.Module, options: RunOptions, step: Step, found: Diagnosis) -> None:
    """Write a step atomically."""
    tensors = {f"{_WEIGHTS}{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {"gt": step.gt, "lr": step.lr}
    values = {"iteration": step.iteration, "seed": step.seed, "device": step.gt.device.type, **found._asdict()}
    metadata = {"format": _FORMAT, "options": options_load.dump(options), "values": json.dumps(values)}
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(on_cpu, metadata))


def read(path: Path) -> Dump:
    """Read a step. UserError if the file is missing, damaged or none of ours."""
    if not path.is_file():
        raise UserError(f"{path}: expected a file of experiments/<name>/non_finite, no such file")
    tensors, metadata = weights.read(path)
    if metadata.get("format") != _FORMAT or not {"gt", "lr"} <= tensors.keys():
        raise UserError(f"{path}: expected a dump of a training step ({_FORMAT}), got another file")
    try:
        values = json.loads(metadata["values"])
        return Dump(
            Step(int(values["iteration"]), tensors["gt"], tensors["lr"], int(values["seed"])),
            {name.removeprefix(_WEIGHTS): tensor for name, tensor in tensors.items() if name.startswith(_WEIGHTS)},
            metadata["options"],
            str(values["device"]),
            Diagnosis(*(values[field] for field in Diagnosis._fields)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged dump ({error!r}); use another one") from error
