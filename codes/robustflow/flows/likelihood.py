"""The change of variables: log p(x | y) = Σ_l log N(z_l; 0, I) + log|det dz/dx|, z = f(x; g(y)).

x runs through the levels, finest first; each may split a latent off. What depends on the data is here; ActNorms and
1×1 convolutions are linear, and their log-determinant is a number, `ConditionalFlow.mixing_log_det`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from robustflow.flows.condition import Condition, LevelCondition
from robustflow.flows.level import FlowLevel
from robustflow.flows.prior import standard_normal_log_prob
from robustflow.flows.step import Mixing
from robustflow.nn.checkpointing import checkpointed
from robustflow.nn.convolutions import add_shared


@dataclass(frozen=True)
class Encoding:
    """Result of encoding x.

    Attributes:
        latents: Standard normal under the model: those split off, finest level first, then the last one.
        log_det: log|det d latents/dx|, (b,), without any prior term.
    """

    latents: list[Tensor]
    log_det: Tensor

    @property
    def log_prob(self) -> Tensor:
        """log p(x | y) in nats, (b,)."""
        return torch.stack([standard_normal_log_prob(z) for z in self.latents]).sum(0) + self.log_det

    def bits_per_dim(self, dimensions: int) -> Tensor:
        """−log₂ p(x | y) per dimension, (b,), of x with so many numbers."""
        return -self.log_prob / (math.log(2) * dimensions)


def encode(levels: Sequence[FlowLevel], x: Tensor, condition: Condition, checkpoint_levels: bool = False) -> Encoding:
    """Data to latents, log-determinant without that of ActNorms and 1×1 convolutions."""
    latents, log_dets = [], []
    for level, given in zip(levels, condition.levels, strict=True):
        through = checkpointed(partial(_through, level, given, checkpoint_levels), checkpoint_levels)
        x, latent, log_det = through(x)
        log_dets.append(log_det)
        if latent is not None:
            latents.append(latent)
    last = x if condition.mean is None else x - condition.mean
    return Encoding([*latents, last], torch.stack(log_dets).sum(0))


def _through(level: FlowLevel, given: LevelCondition, anew: bool, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    # Projected anew in each call, checkpointing need not keep the projections.
    given = given.with_weights(given.weights) if anew else given
    return level.encode(x, None if given.weights is None else given.weights.mixings, given.steps())


def decode(
    levels: Sequence[FlowLevel], latents: Sequence[Tensor], condition: Condition, unmixings: Sequence[list[Mixing]]
) -> tuple[Tensor, Tensor]:
    """Latents to data: undo ``encode``; return x and log|det dx/d latents|, (n·b,), likewise."""
    rest, log_dets = list(latents), []
    z = rest.pop() if condition.mean is None else add_shared(rest.pop(), condition.mean)
    for level, given, unmixing in zip(levels[::-1], condition.levels[::-1], unmixings[::-1], strict=True):
        latent = rest.pop() if level.split_prior is not None else None
        z, log_det = level.decode(z, latent, unmixing, given.steps(backwards=True))
        log_dets.append(log_det)
    return z, torch.stack(log_dets).sum(0)
