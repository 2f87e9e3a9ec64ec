"""One level of the multi-scale flow, and what it needs of a condition."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.bijections.coupling import Coupling
from robustflow.bijections.injector import Injector
from robustflow.bijections.networks import conv, for_convolution, glow_kernel, scaled
from robustflow.bijections.squeeze import Squeeze
from robustflow.checkpointing import checkpointed
from robustflow.encoders.base import FeaturePyramid
from robustflow.encoders.nearest import Resized
from robustflow.flows.prior import SplitPrior
from robustflow.flows.projection import FeatureProjection
from robustflow.flows.step import FlowStep, StepCondition, TransitionStep


class FlowLevel(nn.Module):
    """Squeeze → transition steps → K full steps → split prior (if any).

    Args:
        transitions: Steps without couplings.
        steps: Full steps; the last ones may have a noise coupling.
        injector_projection: Features' part of the K injectors' first convolutions.
        coupling_projection: The same for the K self couplings.
        split_prior: Factors out half of the channels, or None.
        noise_channels: Channels of the noise map.

    Attributes:
        checkpoint_steps: Recompute each step's activations in the backward pass of ``encode``, instead of keeping
            them.
        steps_at_once: Steps whose features are projected together while gradients are wanted, at most.
    """

    checkpoint_steps: bool = False

    def __init__(
        self,
        transitions: list[TransitionStep],
        steps: list[FlowStep],
        injector_projection: FeatureProjection,
        coupling_projection: FeatureProjection,
        split_prior: SplitPrior | None,
        noise_channels: int,
    ) -> None:
        super().__init__()
        self.squeeze = Squeeze()
        self.transitions = nn.ModuleList(transitions)
        self.steps = nn.ModuleList(steps)
        self.injector_projection = injector_projection
        self.coupling_projection = coupling_projection
        self.split_prior = split_prior
        self.steps_at_once = len(steps)
        self.first_noisy = sum(step.noise_coupling is None for step in steps)
        n_noisy = len(steps) - self.first_noisy
        hidden = injector_projection.hidden_channels
        self.noise_projection = glow_kernel(n_noisy * hidden, noise_channels, 3) if n_noisy > 0 else None

    @property
    def full_steps(self) -> list[FlowStep]:
        """The K steps, typed."""
        return cast(list[FlowStep], list(self.steps))

    def encode(self, x: Tensor, condition: "LevelCondition") -> tuple[Tensor, Tensor | None, Tensor]:
        """Map x (b, c, h, w) to the level's output, the latent split off (None without split), log|det| (b,)."""
        x, total = self.squeeze(x)
        for transition in self.transitions:
            x, log_det = transition(x)
            total = total + log_det
        for index, step in enumerate(self.full_steps):
            x, log_det = checkpointed(step, self.checkpoint_steps)(x, condition[index])
            total = total + log_det
        if self.split_prior is None:
            return x, None, total
        x, latent, log_det = self.split_prior.split(x)
        return x, latent, total + log_det

    def encode_anew(self, x: Tensor, condition: "LevelCondition") -> tuple[Tensor, Tensor | None, Tensor]:
        """``encode`` that also makes the projections itself, so that checkpointing need not keep them."""
        return self.encode(x, condition.renewed())

    def decode(self, z: Tensor, latent: Tensor | None, condition: "LevelCondition") -> tuple[Tensor, Tensor]:
        """Undo ``encode``: return x and log|det| of the inverse, (b,)."""
        total = z.new_zeros(z.shape[0])
        if self.split_prior is not None:
            if latent is None:
                raise ValueError("this level splits latents off: expected a latent, got None")
            z, total = self.split_prior.merge(z, latent)
        for index in reversed(range(len(self.steps))):
            z, log_det = self.full_steps[index].inverse(z, condition[index])
            total = total + log_det
        for transition in reversed(list(self.transitions)):
            z, log_det = transition.inverse(z)  # type: ignore[operator]
            total = total + log_det
        z, log_det = self.squeeze.inverse(z)
        return z, total + log_det

    def condition(self, features: FeaturePyramid, level: int, memory: int) -> "LevelCondition":
        """What this level, number ``level`` from 0, needs of the features; ``memory``: budget in bytes."""
        return LevelCondition(self, features.native[level], features.taps, features.factors[level], memory)


class LevelCondition:
    """Projected features of one level, made on first use and shared by all samples and temperatures.

    If the contexts of all steps fit ``memory`` bytes they are kept; otherwise they are made for groups of steps that
    fit it, and only the newest group is kept. Indexing by a step's number gives its StepCondition.
    """

    def __init__(self, level: FlowLevel, native: Tensor, taps: Tensor, factor: float, memory: int) -> None:
        self._level, self._native, self._taps, self._factor = level, native, taps, factor
        # Kept per step: the coupling's context and the injector's parameters. While they are made, the projection
        # of a group exists up to three times more.
        hidden = 4 * level.injector_projection.hidden_channels * native.element_size()
        bias = level.full_steps[0].injector.network.get_submodule("head").get_parameter("bias")
        per_step = native[:, 0].numel() * (hidden + bias.numel() * bias.element_size())
        limit = level.steps_at_once if torch.is_grad_enabled() else len(level.steps)
        self._group = min(limit, max(1, memory // per_step))
        self._made: dict[int, StepCondition] = {}
        self._noise: Tensor | None = None
        self._noise_contexts: tuple[Tensor, ...] = ()
        self._resized: Resized | None = None

    def with_noise(self, noise: Tensor | None) -> "LevelCondition":
        """The same condition with a noise map (b, noise_channels or 1, H, W) of any size; None: no noise."""
        kernel = self._level.noise_projection
        if noise is None or kernel is None:
            return self
        size = self._native.shape[-2:]
        noise = noise.expand(-1, kernel.shape[1], -1, -1)
        resized = F.interpolate(noise, size=size, mode="bicubic", align_corners=False)
        other = copy.copy(self)
        other._noise, other._noise_contexts = for_convolution(resized, self._native.dtype), ()
        return other

    def renewed(self) -> "LevelCondition":
        """The same condition, to be projected anew: for when weights have changed."""
        other = copy.copy(self)
        other._made, other._noise_contexts, other._resized = {}, (), None
        return other

    def __getitem__(self, index: int) -> StepCondition:
        """Condition of step ``index``."""
        if index not in self._made:
            self._make(index - index % self._group)
        made = self._made[index]
        if self._noise is None or index < self._level.first_noisy:
            return made
        if not self._noise_contexts:
            self._noise_contexts = self._project_noise(self._noise)
        return StepCondition(made.injector, made.coupling, self._noise_contexts[index - self._level.first_noisy])

    def _make(self, first: int) -> None:
        level, steps = self._level, self._level.full_steps[first : first + self._group]
        self._made.clear()
        injectors = self._contexts(level.injector_projection, first, [step.injector for step in steps])
        parameters = [
            checkpointed(step.injector.parameters_for, level.checkpoint_steps)(context)
            for step, context in zip(steps, injectors, strict=True)
        ]
        del injectors
        couplings = self._contexts(level.coupling_projection, first, [step.coupling for step in steps])
        self._made.update(
            (first + k, StepCondition(*pair)) for k, pair in enumerate(zip(parameters, couplings, strict=True))
        )

    def _contexts(
        self, projection: FeatureProjection, first: int, bijections: Sequence[Injector | Coupling]
    ) -> tuple[Tensor, ...]:
        if self._resized is None:
            self._resized = Resized(self._taps, self._factor)
        return projection(self._native, self._resized, first, _context_scales(bijections))

    def _project_noise(self, noise: Tensor) -> tuple[Tensor, ...]:
        level = self._level
        noisy = [step.noise_coupling for step in level.full_steps if step.noise_coupling is not None]
        kernel = cast(Tensor, level.noise_projection)
        hidden = level.injector_projection.hidden_channels
        return conv(noise, scaled(kernel, torch.cat(_context_scales(noisy)))).split(hidden, dim=1)


def _context_scales(bijections: Sequence[Injector | Coupling]) -> list[Tensor]:
    return [bijection.network.context_scale() for bijection in bijections]  # type: ignore[operator]
