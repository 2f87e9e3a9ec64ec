"""Run a dumped training step again: python -m robustflow.training.replay DUMP.

DUMP is a file of experiments/<name>/non_finite. Prints loss, gradient norm and the first module or gradient that is
not finite, as recorded and as found now.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from robustflow import models
from robustflow.options import load as options_load
from robustflow.options.arguments import Parser
from robustflow.training.failures import dump
from robustflow.training.failures.diagnosis import Diagnosis, diagnose, is_finite
from robustflow.training.gradients import Gradients
from robustflow.utils import devices, exit_status, paths
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)


def replay(recorded: dump.Dump) -> Diagnosis:
    """Build the network, load the weights and run the step; on the kind of device it ran on, if there is one here."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "options.yml"
        file.write_text(recorded.options, encoding="utf-8")
        options = options_load.load(file)
    device = devices.choose("auto" if recorded.device == "cuda" else "cpu")
    model = models.build(options, options.train.checkpointing)
    try:
        model.network.load_state_dict(recorded.weights)
    except RuntimeError as error:
        raise UserError(f"expected weights of the network that the dump's options describe: {error}") from error
    model.to(device).train()
    step = recorded.step._replace(gt=recorded.step.gt.to(device), lr=recorded.step.lr.to(device))
    return diagnose(model.network, lambda: Gradients(model, options).uncaptured(step))


def report(recorded: dump.Dump, found: Diagnosis) -> str:
    """What was recorded, what came now, and whether that is the same."""
    if found.finite:
        verdict = "not reproduced: the step is finite here"
    elif (found.module, found.gradient) == (recorded.found.module, recorded.found.gradient):
        verdict = "reproduced"
    else:
        verdict = "reproduced, though it begins elsewhere"
    batch = "" if is_finite(recorded.step.gt) and is_finite(recorded.step.lr) else "the batch itself is not finite\n"
    return f"{batch}recorded: {recorded.found.describe()}\nnow:      {found.describe()}\n{verdict}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 reproduced, 1 not, 2 mistake (message on stderr)."""
    parser = Parser(
        prog="python -m robustflow.training.replay", description="Run a training step that was not finite again."
    )
    parser.add_argument("dump", metavar="DUMP", type=paths.of_flag, help="file of experiments/<name>/non_finite")
    chosen = parser.parse_args(arguments)
    return exit_status.answered(lambda: _answer(chosen.dump))


def _answer(file: Path) -> int:
    recorded = dump.read(file)
    found = replay(recorded)
    if recorded.device != "cpu" and not torch.cuda.is_available():
        log.warning("recorded on %s: the noise differs here, on the CPU", recorded.device)
    print(f"iteration {recorded.step.iteration}\n{report(recorded, found)}")  # noqa: T201
    return exit_status.FAILED if found.finite else exit_status.DONE
