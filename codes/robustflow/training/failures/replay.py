"""A dumped training step, run again."""

import logging
import tempfile
from pathlib import Path

import torch

from robustflow import models
from robustflow.options import load as options_load
from robustflow.training.failures import dump
from robustflow.training.failures.diagnosis import Diagnosis, diagnose, is_finite
from robustflow.training.gradients import Gradients
from robustflow.utils import devices
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)


def replay(recorded: dump.Dump) -> Diagnosis:
    """Build the network, load the weights and run the step; on the kind of device it ran on, if there is one here."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "options.yml"
        file.write_text(recorded.options, encoding="utf-8")
        options = options_load.load(file)
    if recorded.device != "cpu" and not torch.cuda.is_available():
        log.warning("recorded on %s: the noise differs here, on the CPU", recorded.device)
    device = devices.choose("auto" if recorded.device == "cuda" else "cpu")
    model = models.build(options, options.train.checkpointing)
    try:
        model.network.load_state_dict(recorded.weights)
    except RuntimeError as error:
        raise UserError(f"expected weights of the network that the dump's options describe: {error}") from error
    model.to(device).train()
    step = recorded.step._replace(gt=recorded.step.gt.to(device), lr=recorded.step.lr.to(device))
    return diagnose(model.network, lambda: Gradients(model, options).compute_uncaptured(step))


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
