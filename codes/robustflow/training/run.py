"""What a training run is made of."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from robustflow import data
from robustflow.models import Model
from robustflow.options.schema import RunOptions
from robustflow.utils.distributed import Processes


class Run(NamedTuple):
    """All of it.

    Attributes:
        options: Of the run, sizes fitted to the weights it starts from.
        model: What is trained, on its device.
        adam: Updates the network.
        average: Moving average of its weights, or None.
        crops: What it is trained on.
        validation: What it is measured on, or None.
        experiment: Folder of all files.
        processes: Those that train together.
    """

    options: RunOptions
    model: Model
    adam: torch.optim.Adam
    average: AveragedModel | None
    crops: data.TrainingCrops
    validation: data.EvaluationSet | None
    experiment: Path
    processes: Processes

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def network(self) -> nn.Module:
        """The model's network: all that is learnt."""
        return self.model.network
