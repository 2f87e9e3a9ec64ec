"""Trained networks, opened to be used."""

from pathlib import Path

import torch
from torch import nn

from robustflow import models
from robustflow.models import Task, weights
from robustflow.options.schema import RunOptions
from robustflow.utils import devices, precision


def opened(
    options: RunOptions, device: torch.device | None = None, file: Path | None = None
) -> tuple[RunOptions, Path, Task, nn.Module]:
    """Options completed from the weights, the weights file, the task and the network in eval mode, on its device.

    From here on this process computes with the precision that the options mean for evaluation.

    Args:
        options: Of the run.
        device: Another device than the options name.
        file: Weights, if they are chosen already.
    """
    file = weights.to_test(options) if file is None else file
    options = weights.fitting(options, file)
    task = models.build(options)
    device = device or devices.choose(options.device)
    precision.use(options.precision, training=False)
    precision.warn_if_slow(options.precision, device)
    network = task.build_network(options.network_G, options.precision)
    weights.load(file, network, options, encoder_suffices=False)
    return options, file, task, network.to(device).eval()
