"""One level of the multi-scale flow."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from robustflow.bijections.coupling import Coupling
from robustflow.bijections.injector import Injector
from robustflow.bijections.networks import ConvNetwork, FoldedNetworks, fold_networks, glow_kernel
from robustflow.bijections.squeeze import Squeeze
from robustflow.flows.prior import SplitPrior
from robustflow.flows.projection import FeatureProjection
from robustflow.flows.step import FlowStep, Mixing, StepCondition, TransitionStep, fold_mixing
from robustflow.nn.checkpointing import recompute
from robustflow.nn.convolutions import flow_format


class LevelWeights(NamedTuple):
    """What is made of a level's weights alone, for all its steps at once; ``noise``: of the noisy steps, the last ones.

    ``mixings`` are those of the transitions, then those of the steps.
    """

    mixings: list[Mixing]
    injectors: FoldedNetworks
    couplings: FoldedNetworks
    noise: FoldedNetworks | None


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
        self.transitions = cast(Sequence[TransitionStep], nn.ModuleList(transitions))
        self.steps = cast(Sequence[FlowStep], nn.ModuleList(steps))
        self.injector_projection = injector_projection
        self.coupling_projection = coupling_projection
        self.split_prior = split_prior
        self.steps_at_once = len(steps)
        self.first_noisy = sum(step.noise_coupling is None for step in steps)
        n_noisy = len(steps) - self.first_noisy
        hidden = injector_projection.hidden_channels
        self.noise_projection = glow_kernel(n_noisy * hidden, noise_channels, 3) if n_noisy > 0 else None

    @property
    def mixing_steps(self) -> list[TransitionStep]:
        """All that mix channels: transitions and steps."""
        return [*self.transitions, *self.steps]

    def fold(self) -> LevelWeights:
        """Fold ActNorms into the convolutions before or after them."""
        noisy = [step.noise_coupling for step in self.steps if step.noise_coupling is not None]
        return LevelWeights(
            fold_mixing(self.mixing_steps),
            _fold([step.injector for step in self.steps]),
            _fold([step.coupling for step in self.steps]),
            _fold(noisy) if noisy else None,
        )

    def encode(
        self, x: Tensor, mixings: list[Mixing] | None, conditions: Iterable[StepCondition]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Map x (b, c, h, w) to the level's output and the latent split off (None without split).

        Third comes log|det| (b,) without the share of ActNorms and 1×1 convolutions, see ``mixing_log_det``. Without
        ``mixings`` they are applied one after the other, and may set themselves.
        """
        x, _ = self.squeeze(x)
        x, log_dets = x.contiguous(memory_format=flow_format(x)), []
        each = iter([None] * len(self.mixing_steps) if mixings is None else mixings)
        for transition in self.transitions:
            x = transition.mix(x, next(each))
        for step, condition in zip(self.steps, conditions, strict=True):
            x, log_det = recompute(step.couple, self.checkpoint_steps)(x, condition, next(each))
            log_dets.append(log_det)
        latent = None
        if self.split_prior is not None:
            x, latent, log_det = self.split_prior.split(x)
            log_dets.append(log_det)
        return x, latent, torch.stack(log_dets).sum(0)

    def decode(
        self, z: Tensor, latent: Tensor | None, unmixings: list[Mixing], conditions: Iterable[StepCondition]
    ) -> tuple[Tensor, Tensor]:
        """Undo ``encode``, conditions of the last step first: return x and log|det| of the inverse, (b,), likewise."""
        log_dets = []
        if self.split_prior is not None:
            if latent is None:
                raise ValueError("this level splits latents off: expected a latent, got None")
            z, log_det = self.split_prior.merge(z, latent)
            log_dets.append(log_det)
        z, each = z.contiguous(memory_format=flow_format(z)), reversed(unmixings)
        for step, condition in zip(reversed(self.steps), conditions, strict=True):
            z, log_det = step.uncouple(z, condition, next(each))
            log_dets.append(log_det)
        for transition in reversed(self.transitions):
            z = transition.unmix(z, next(each))
        z, _ = self.squeeze.inverse(z)
        return z, torch.stack(log_dets).sum(0)


def _fold(layers: list[Injector] | list[Coupling]) -> FoldedNetworks:
    return fold_networks([cast(ConvNetwork, layer.network) for layer in layers])
