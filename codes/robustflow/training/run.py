"""What a training run is made of."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import nn

from robustflow import data
from robustflow.models import Model
from robustflow.options.schema import RunOptions
from robustflow.training.logbook import Logbook
from robustflow.training.optimizer import MovingAverage


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        iteration: Iterations done.
        non_finite: Events in which loss, gradients or most samples of a validation were not finite.
        validated: Iteration of the last validation.
        best: Iteration and bits per dimension of the best validation among those with a checkpoint.
        rollback: Iteration of the last event that was answered by a rollback, and that of the checkpoint.
    """

    iteration: int = 0
    non_finite: int = 0
    validated: int = 0
    best: tuple[int, float] | None = None
    rollback: tuple[int, int] | None = None


@dataclass
class Run:
    """All of it.

    Attributes:
        options: Of the run, sizes fitted to the weights it starts from.
        model: What is trained, on its device.
        adam: Updates it.
        ema: Moving average of its weights, or None.
        crops: What it is trained on.
        validation: What it is measured on, or None.
        logbook: Where its numbers go.
        progress: How far it has come.
    """

    options: RunOptions
    model: Model
    adam: torch.optim.Adam
    ema: MovingAverage | None
    crops: data.TrainingCrops
    validation: data.EvaluationSet | None
    logbook: Logbook
    progress: Progress = field(default_factory=Progress)

    @property
    def experiment(self) -> Path:
        """Folder of all files."""
        return Path(self.options.path.experiments) / self.options.name

    @property
    def stateful(self) -> list[nn.Module | torch.optim.Optimizer]:
        """All that an update changes."""
        return [part for part in (self.model, self.adam, self.ema) if part is not None]

    @property
    def averages(self) -> bool:
        """Whether there is a moving average of anything: it begins with the first update."""
        return self.ema is not None and bool(self.ema.n_averaged > 0)

    @property
    def evaluated(self) -> Model:
        """What to draw samples from: the moving average once it has begun, else the model itself."""
        return cast(Model, self.ema.module) if self.ema is not None and self.averages else self.model

    def saves(self, iteration: int) -> bool:
        """Whether an iteration's checkpoint is saved, whatever happens."""
        return iteration % self.options.logger.save_checkpoint_freq == 0 or iteration == self.options.train.niter

    def validates(self, iteration: int) -> bool:
        """Whether an iteration is validated."""
        o = self.options.train
        return self.validation is not None and iteration > 0 and (iteration % o.val_freq == 0 or iteration == o.niter)

    @property
    def misses_validation(self) -> bool:
        """Whether a signal or a fault left out the validation of the iteration that the run goes on from."""
        return self.validates(self.progress.iteration) and self.progress.validated < self.progress.iteration
