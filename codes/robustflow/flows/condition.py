"""What a flow needs of a condition: made once, shared by every sample and temperature."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from robustflow.bijections.networks import Context, ConvNetwork
from robustflow.flows.level import FlowLevel, LevelWeights
from robustflow.flows.projection import share_out
from robustflow.flows.step import Mixing, StepCondition
from robustflow.nn.checkpointing import recompute
from robustflow.nn.convolutions import conv, for_convolution, scale_kernel
from robustflow.nn.nearest import Resized


class LevelCondition:
    """Features of one level, to be projected for its steps.

    If the contexts of all steps fit ``memory`` bytes they are made together and kept; otherwise they are made for
    groups of steps that fit it, and only the newest group is kept.

    Args:
        level: Whose.
        native: Features (b, c, h, w) at its size.
        taps: Block outputs, see `FeaturePyramid`.
        factor: Its size over theirs.
        weights: Of the level, folded; None: its ActNorms are yet to be initialised.
        memory: Budget, bytes.
    """

    def __init__(
        self, level: FlowLevel, native: Tensor, taps: Tensor, factor: float, weights: LevelWeights | None, memory: int
    ) -> None:
        self.level, self.native, self.weights = level, native, weights
        self._taps, self._factor = taps, factor
        # Kept per step: the coupling's context and the injector's parameters. While they are made, the projection
        # of a group exists up to three times more.
        hidden = 4 * level.injector_projection.hidden_channels * native.element_size()
        bias = cast(ConvNetwork, level.steps[0].injector.network).head.bias
        per_step = native[:, 0].numel() * (hidden + bias.numel() * bias.element_size())
        limit = level.steps_at_once if torch.is_grad_enabled() else len(level.steps)
        self._group = min(limit, max(1, memory // per_step))
        self._made: dict[int, tuple[Tensor, Context]] = {}
        self._noise: Tensor | None = None

    @property
    def mixings(self) -> list[Mixing] | None:
        """ActNorms and 1×1 convolutions, folded; None: ActNorms are yet to be initialised."""
        return None if self.weights is None else self.weights.mixings

    def with_noise(self, noise: Tensor | None) -> "LevelCondition":
        """The same condition with a noise map (b, noise_channels or 1, H, W) of any size; None: no noise."""
        kernel = self.level.noise_projection
        if noise is None or kernel is None:
            return self
        other, size = copy.copy(self), self.native.shape[-2:]
        noise = noise.expand(-1, kernel.shape[1], -1, -1)
        resized = F.interpolate(noise, size=size, mode="bicubic", align_corners=False)
        other._noise = for_convolution(resized, self.native.dtype)
        return other

    def with_weights(self, weights: LevelWeights | None) -> "LevelCondition":
        """The same condition, to be projected anew by these weights."""
        other = copy.copy(self)
        other.weights, other._made = weights, {}
        return other

    def steps(self, backwards: bool = False) -> Iterator[StepCondition]:
        """Conditions of the steps in the order of encoding, or backwards in that of decoding."""
        n = len(self.level.steps)
        groups = [range(first, min(first + self._group, n)) for first in range(0, n, self._group)]
        for group in reversed(groups) if backwards else groups:
            made = self.project(group)
            yield from reversed(made) if backwards else made

    def project_all(self) -> None:
        """Project for all steps now, if that fits the budget and is kept."""
        if self._group >= len(self.level.steps):
            self.project(range(len(self.level.steps)))

    def project(self, steps: range) -> list[StepCondition]:
        """Conditions of a group of steps, with the noise in their contexts if there is any."""
        if steps.start not in self._made:
            self._made.clear()
            self._made.update(zip(steps, self._project_features(steps), strict=True))
        made = [self._made[index] for index in steps]
        clean = range(steps.start, min(steps.stop, self.level.first_noisy))
        noisy = steps[len(clean) :]
        contexts = [*([None] * len(clean)), *(self._project_noise(noisy) if noisy else [])]
        return [(*each, own) for each, own in zip(made, contexts, strict=True)]

    def _project_features(self, steps: range) -> list[tuple[Tensor, Context]]:
        """Parameters of the steps' injectors and contexts of their self couplings."""
        level, weights, taps = self.level, self.weights, Resized(self._taps, self._factor)
        folded = (None, None) if weights is None else (weights.injectors, weights.couplings)
        injectors = level.injector_projection(self.native, taps, steps, folded[0])
        parameters = [
            recompute(level.steps[index].injector.parameters_for, level.checkpoint_steps)(context)
            for index, context in zip(steps, injectors, strict=True)
        ]
        del injectors
        couplings = level.coupling_projection(self.native, taps, steps, folded[1])
        return list(zip(parameters, couplings, strict=True))

    def _project_noise(self, steps: range) -> list[Context]:
        """Contexts of the noise couplings of some steps that have one."""
        first, folded = self.level.first_noisy, None if self.weights is None else self.weights.noise
        steps = range(steps.start - first, steps.stop - first)
        kernel, hidden = self.level.noise_projection, self.level.injector_projection.hidden_channels
        if self._noise is None or kernel is None:
            return share_out(None, steps, folded)
        rows, bias = slice(steps.start * hidden, steps.stop * hidden), None
        own: Tensor = kernel[rows]
        if folded is not None:
            own, bias = scale_kernel(own, folded.scale[rows]), folded.shift[rows]
        return share_out(conv(self._noise, own, bias), steps, folded)


@dataclass(frozen=True)
class Condition:
    """All that depends on the condition alone.

    Attributes:
        levels: Per level, finest first.
        size: Height and width of x, pixels.
        batch: Number of conditions.
        mean: m of the last latent's prior N(m, I), (b, c, h, w); None: zero.
    """

    levels: tuple[LevelCondition, ...]
    size: tuple[int, int]
    batch: int
    mean: Tensor | None = None

    def with_noise(self, noise: Tensor | None) -> "Condition":
        """The same condition with a noise map (b, noise_channels, H, W); None stands for zero noise."""
        return replace(self, levels=tuple(level.with_noise(noise) for level in self.levels))

    def with_weights(self, weights: Sequence[LevelWeights | None]) -> "Condition":
        """The same condition, to be projected anew: for when the flow's weights have changed."""
        pairs = zip(self.levels, weights, strict=True)
        return replace(self, levels=tuple(level.with_weights(own) for level, own in pairs))
