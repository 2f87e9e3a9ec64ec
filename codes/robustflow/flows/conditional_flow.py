"""The multi-scale conditional normalizing flow p(x | y)."""

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.networks import add_shared
from robustflow.checkpointing import checkpointed
from robustflow.encoders.base import Encoder
from robustflow.errors import UserError
from robustflow.flows.level import FlowLevel, LevelCondition
from robustflow.flows.prior import latent_mean, standard_normal_log_prob


@dataclass(frozen=True)
class Condition:
    """All that depends on the condition alone: made once, shared by every sample and temperature.

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

    def renewed(self) -> "Condition":
        """The same condition, to be projected anew: for when the flow's weights have changed."""
        return replace(self, levels=tuple(level.renewed() for level in self.levels))


@dataclass(frozen=True)
class Encoding:
    """Result of encoding x.

    Attributes:
        latents: Standard normal under the model: those split off, finest level first, then the last one.
        log_prob: log p(x | y) in nats, (b,): the latents' log-probability plus ``log_det``.
        log_det: log|det d latents/dx|, (b,), without any prior term.
    """

    latents: list[Tensor]
    log_prob: Tensor
    log_det: Tensor

    def bits_per_dim(self, dimensions: int) -> Tensor:
        """−log₂ p(x | y) per dimension, (b,), of x with so many numbers."""
        return -self.log_prob / (math.log(2) * dimensions)


class ConditionalFlow(nn.Module):
    """z = f(x; g(y)), z ~ N(0, I): SRFlow's architecture (Lugmayr et al., ECCV 2020).

    The encoder may give the last latent's prior a mean, N(m(y), I). m is subtracted from what leaves the last level, so
    that all latents that ``encode`` returns and ``decode`` takes are standard normal under the model.

    Args:
        encoder: g, features of the condition.
        levels: Finest first.
        scale: Side of x over side of y.
        image_channels: Channels of x.
        projection_memory: Budget for a level's projected features, bytes.

    Attributes:
        checkpoint_levels: Recompute each level's activations in the backward pass of ``encode``, instead of keeping
            them.
    """

    checkpoint_levels: bool = False

    def __init__(
        self,
        encoder: Encoder,
        levels: list[FlowLevel],
        scale: int,
        image_channels: int,
        projection_memory: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.levels = nn.ModuleList(levels)
        self.scale = scale
        self.image_channels = image_channels
        self.projection_memory = projection_memory
        self._actnorms = [module for module in self.modules() if isinstance(module, ActNorm)]

    @property
    def typed_levels(self) -> list[FlowLevel]:
        """The levels, finest first, typed."""
        return cast(list[FlowLevel], list(self.levels))

    @property
    def size_multiple(self) -> int:
        """Sides of x must be multiples of this: 2^L, and the scale."""
        return math.lcm(2 ** len(self.levels), self.scale)

    @property
    def receptive_field(self) -> int:
        """Upper bound, pixels of y: a pixel of ``decode``'s x depends on nothing of y and latents farther away.

        The 3×3 convolutions add up, each one pixel of its level: two per coupling, one per split prior. The
        injectors', two in parallel to those of their step's coupling, add nothing. UserError if the encoder does not
        tell its own.
        """
        of_encoder = self.encoder.receptive_field
        if of_encoder is None:
            name = type(self.encoder).__name__
            raise UserError(
                f"encoder {name} has no receptive_field, radius in LR pixels: add it or set val.tile_overlap"
            )
        # Blocks of the coarsest level count as a whole, wherever in them the pixel lies.
        reach = 2 ** len(self.levels) - 1
        for number, level in enumerate(self.typed_levels, start=1):
            couplings = sum(1 if step.noise_coupling is None else 2 for step in level.full_steps)
            reach += (2 * couplings + (0 if level.split_prior is None else 1)) * 2**number
        return math.ceil(reach / self.scale) + of_encoder

    def condition(self, y: Tensor) -> Condition:
        """Prepare y (b, c, h, w). ValueError unless the sides of x, scale times those of y, are even enough."""
        height, width = (side * self.scale for side in y.shape[-2:])
        if height % self.size_multiple != 0 or width % self.size_multiple != 0:
            raise ValueError(
                f"expected sides of x that are multiples of {self.size_multiple}, got {height}×{width} "
                f"(condition of {y.shape[-2]}×{y.shape[-1]}, scale {self.scale}): pad the condition"
            )
        features = self.encoder(y)
        levels = tuple(
            level.condition(features, number, self.projection_memory) for number, level in enumerate(self.typed_levels)
        )
        prepared = Condition(levels, (height, width), y.shape[0])
        return prepared if features.mean is None else self._with_mean(prepared, features.mean)

    def _with_mean(self, condition: Condition, mean: Tensor) -> Condition:
        """The same condition with a prior mean in image space, (b, c, H, W)."""
        last = self.latent_shapes(*condition.size)[-1]
        return replace(condition, mean=latent_mean(mean, last, len(self.levels)))

    def _prepared(self, condition: Tensor | Condition, noise: Tensor | None) -> Condition:
        prepared = self.condition(condition) if isinstance(condition, Tensor) else condition
        return prepared.with_noise(noise)

    def encode(
        self, x: Tensor, condition: Tensor | Condition, noise: Tensor | None = None, mean: Tensor | None = None
    ) -> Encoding:
        """Encode x (b, c, H, W) given y (b, c, H/scale, W/scale), or y prepared by ``condition``.

        Args:
            x: Data.
            condition: y, or y prepared.
            noise: Noise map (b, noise_channels, H, W) for the noise couplings; None stands for zero.
            mean: Prior mean instead of the encoder's, laid out as x is; flows without splits only.
        """
        prepared = self._prepared(condition, noise)
        if mean is not None:
            prepared = self._with_mean(prepared, mean)
        if x.shape[-2:] != prepared.size or x.shape[0] != prepared.batch:
            expected = (prepared.batch, self.image_channels, *prepared.size)
            raise ValueError(f"expected x of shape {expected} for this condition, got {tuple(x.shape)}")
        if self.training and not all(norm.is_initialized() for norm in self._actnorms):
            with torch.no_grad():
                self._encoded(x, prepared.renewed())
        latents, log_det = self._encoded(x, prepared)
        prior = torch.stack([standard_normal_log_prob(z) for z in latents]).sum(0)
        return Encoding(latents, prior + log_det, log_det)

    def _encoded(self, x: Tensor, condition: Condition) -> tuple[list[Tensor], Tensor]:
        latents, log_det = [], x.new_zeros(x.shape[0])
        for level, level_condition in zip(self.typed_levels, condition.levels, strict=True):
            encode = checkpointed(level.encode_anew, True) if self.checkpoint_levels else level.encode
            x, latent, level_log_det = encode(x, level_condition)
            log_det = log_det + level_log_det
            if latent is not None:
                latents.append(latent)
        return [*latents, x if condition.mean is None else x - condition.mean], log_det

    def decode(
        self, latents: list[Tensor], condition: Tensor | Condition, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return x (n·b, c, H, W) and log|det dx/d latents|, (n·b,), for latents in the order of ``encode``.

        Latents may hold n samples for each of the b conditions, sample-major: item s·b + i belongs to condition i.
        """
        prepared = self._prepared(condition, noise)
        self._check_latents(latents, prepared)
        rest = list(latents)
        z = rest.pop() if prepared.mean is None else add_shared(rest.pop(), prepared.mean)
        log_det = z.new_zeros(z.shape[0])
        for level, level_condition in zip(reversed(self.typed_levels), reversed(prepared.levels), strict=True):
            latent = rest.pop() if level.split_prior is not None else None
            z, level_log_det = level.decode(z, latent, level_condition)
            log_det = log_det + level_log_det
        return z, log_det

    def _check_latents(self, latents: list[Tensor], prepared: Condition) -> None:
        expected = self.latent_shapes(*prepared.size)
        got = [tuple(z.shape[1:]) for z in latents]
        batches = {z.shape[0] for z in latents}
        if got != expected or len(batches) != 1 or batches.pop() % prepared.batch != 0:
            shapes = [tuple(z.shape) for z in latents]
            raise ValueError(
                f"expected latents (n·{prepared.batch}, c, h, w) with (c, h, w) of {expected}, got {shapes}"
            )

    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Shapes (c, h, w) of the latents of an x of the given sides, in the order of ``encode``."""
        shapes, channels = [], self.image_channels
        for number, level in enumerate(self.typed_levels, start=1):
            channels, sides = 4 * channels, (height >> number, width >> number)
            if level.split_prior is not None:
                shapes.append((channels // 2, *sides))
                channels -= channels // 2
        return [*shapes, (channels, height >> len(self.levels), width >> len(self.levels))]

    def draw_latents(self, size: tuple[int, int], generator: torch.Generator) -> list[Tensor]:
        """One sample's standard normal latents (1, c, h, w), float32, for an x of the given sides."""
        return [
            torch.randn(1, *shape, generator=generator, device=generator.device) for shape in self.latent_shapes(*size)
        ]

    @torch.no_grad()
    def sample(self, condition: Tensor | Condition, n: int, temperature: float, generator: torch.Generator) -> Tensor:
        """Draw n samples x (b, n, c, H, W) for each condition, z ~ N(0, temperature²·I).

        The condition's share of the work is done once for all n.
        """
        if n < 1:
            raise ValueError(f"expected at least one sample, got n = {n}")
        prepared = self._prepared(condition, None)
        reference = next(self.parameters())
        draws = [self.draw_latents(prepared.size, generator) for _ in range(n * prepared.batch)]
        latents = [temperature * torch.cat(per_level).to(reference) for per_level in zip(*draws, strict=True)]
        x, _ = self.decode(latents, prepared)
        return x.unflatten(0, (n, prepared.batch)).transpose(0, 1)
