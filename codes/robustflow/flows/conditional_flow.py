"""The multi-scale conditional normalizing flow: log p(x | y) = Σ_l log N(z_l; 0, I) + log|det dz/dx|, z = f(x; g(y)).

x runs through the levels, finest first; each may split a latent off. ActNorms and 1×1 convolutions are linear: their
log-determinant is a number, `ConditionalFlow.mixing_log_det`, whatever the data.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.encoders.base import Encoder
from robustflow.flows.condition import Condition, LevelCondition
from robustflow.flows.level import FlowLevel, LevelWeights
from robustflow.flows.prior import latent_mean, standard_normal_log_prob
from robustflow.flows.step import Mixing, fold_unmixing, mixing_log_det
from robustflow.nn.checkpointing import recompute
from robustflow.nn.convolutions import add_shared
from robustflow.utils.errors import UserError

T = TypeVar("T")


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


class ConditionalFlow(nn.Module):
    """z = f(x; g(y)), z ~ N(0, I): SRFlow's architecture (Lugmayr et al., ECCV 2020).

    The encoder may give the last latent's prior a mean, N(m(y), I). m is subtracted from what leaves the last level, so
    that all latents that ``encode`` returns and ``decode`` takes are standard normal under the model.

    In eval mode and without autograd, what is made of the weights alone is kept until ``train``, ``eval``, ``to`` or
    ``load_state_dict`` is called, or anything is computed with autograd: call ``eval`` again after other writes to
    weights.

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
        self.levels = cast(Sequence[FlowLevel], nn.ModuleList(levels))
        self.scale = scale
        self.image_channels = image_channels
        self.projection_memory = projection_memory
        self._actnorms = [module for module in self.modules() if isinstance(module, ActNorm)]
        self.forget()
        self.register_load_state_dict_post_hook(_forget)

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
        for number, level in enumerate(self.levels, start=1):
            couplings = sum(1 if step.noise_coupling is None else 2 for step in level.steps)
            reach += (2 * couplings + (0 if level.split_prior is None else 1)) * 2**number
        return math.ceil(reach / self.scale) + of_encoder

    def train(self, mode: bool = True) -> "ConditionalFlow":
        """Set the mode; forget what was kept."""
        self.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ConditionalFlow":
        self.forget()
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: not what was kept, which may lie in CUDA graphs."""
        return {**self.__dict__, "_kept": {}}

    def forget(self) -> None:
        """Forget what was made of the weights and kept."""
        self._kept: dict[str, Any] = {}

    def keep(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` makes of the weights; made once, unless they are being trained."""
        if self.training or torch.is_grad_enabled():
            # Weights may be about to change, in eval mode, too.
            self.forget()
            return make()
        kept = self._kept
        if name not in kept:
            # For later calls, too, outside inference mode and autocast.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast("cuda", enabled=False),
                torch.autocast("cpu", enabled=False),
            ):
                kept[name] = make()
        return cast(T, kept[name])

    def fold(self) -> list[LevelWeights]:
        """The levels' weights, ActNorms folded in."""
        return self.keep("weights", lambda: [level.fold() for level in self.levels])

    def fold_unmixings(self) -> list[list[Mixing]]:
        """The inverses of all ActNorms and 1×1 convolutions, by level."""
        return self.keep("unmixings", lambda: [fold_unmixing(level.mixing_steps) for level in self.levels])

    def mixing_log_det(self) -> Tensor:
        """log|det| of all ActNorms and 1×1 convolutions for each pixel of x, scalar: it depends on weights alone.

        A level at 1/2^l of the size counts 4^-l for each pixel.
        """

        def compute() -> Tensor:
            levels = enumerate(self.levels, start=1)
            return torch.stack([mixing_log_det(level.mixing_steps) / 4**number for number, level in levels]).sum()

        return self.keep("mixing_log_det", compute)

    def condition(self, y: Tensor) -> Condition:
        """Prepare y (b, c, h, w). ValueError unless the sides of x, scale times those of y, are even enough."""
        height, width = (side * self.scale for side in y.shape[-2:])
        if height % self.size_multiple != 0 or width % self.size_multiple != 0:
            raise ValueError(
                f"expected sides of x that are multiples of {self.size_multiple}, got {height}×{width} "
                f"(condition of {y.shape[-2]}×{y.shape[-1]}, scale {self.scale}): pad the condition"
            )
        features = self.encoder(y)
        each = zip(self.levels, features.native, features.factors, self.fold(), strict=True)
        levels = tuple(
            LevelCondition(level, native, features.taps, factor, weights, self.projection_memory)
            for level, native, factor, weights in each
        )
        prepared = Condition(levels, (height, width), y.shape[0])
        return prepared if features.mean is None else self._with_mean(prepared, features.mean)

    def _with_mean(self, condition: Condition, mean: Tensor) -> Condition:
        """The same condition with a prior mean in image space, (b, c, H, W)."""
        last = self.latent_shapes(*condition.size)[-1]
        return replace(condition, mean=latent_mean(mean, last, len(self.levels)))

    def _prepare(self, condition: Tensor | Condition, noise: Tensor | None) -> Condition:
        prepared = self.condition(condition) if isinstance(condition, Tensor) else condition
        return prepared.with_noise(noise)

    def encode(
        self,
        x: Tensor,
        condition: Tensor | Condition,
        noise: Tensor | None = None,
        mean: Tensor | None = None,
        mixing: bool = True,
    ) -> Encoding:
        """Encode x (b, c, H, W) given y (b, c, H/scale, W/scale), or y prepared by ``condition``.

        Args:
            x: Data.
            condition: y, or y prepared.
            noise: Noise map (b, noise_channels, H, W) for the noise couplings; None stands for zero.
            mean: Prior mean instead of the encoder's, laid out as x is; flows without splits only.
            mixing: Count the log-determinant of ActNorms and 1×1 convolutions, see ``mixing_log_det``.
        """
        prepared = self._prepare(condition, noise)
        if mean is not None:
            prepared = self._with_mean(prepared, mean)
        if x.shape[-2:] != prepared.size or x.shape[0] != prepared.batch:
            expected = (prepared.batch, self.image_channels, *prepared.size)
            raise ValueError(f"expected x of shape {expected} for this condition, got {tuple(x.shape)}")
        if self.training and not all(norm.is_initialized() for norm in self._actnorms):
            prepared = self._initialize(x, prepared)
        pixels, latents, log_dets = x[0, 0].numel(), [], []
        for level, given in zip(self.levels, prepared.levels, strict=True):
            if self.checkpoint_levels and torch.is_grad_enabled():
                x, latent, log_det = recompute(partial(_encode_anew, level, given), True)(x)
            else:
                x, latent, log_det = level.encode(x, given.mixings, given.steps())
            log_dets.append(log_det)
            if latent is not None:
                latents.append(latent)
        if mixing:
            log_dets.append((pixels * self.mixing_log_det()).expand_as(log_dets[0]))
        last = x if prepared.mean is None else x - prepared.mean
        return Encoding([*latents, last], torch.stack(log_dets).sum(0))

    def _initialize(self, x: Tensor, condition: Condition) -> Condition:
        """Let the ActNorms set themselves, one after the other; return the condition with weights as they are then."""
        raw = condition.with_weights([None] * len(self.levels))
        with torch.no_grad():
            for level, given in zip(self.levels, raw.levels, strict=True):
                x, _, _ = level.encode(x, None, given.steps())
        return condition.with_weights(self.fold())

    def decode(
        self, latents: list[Tensor], condition: Tensor | Condition, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return x (n·b, c, H, W) and log|det dx/d latents|, (n·b,), for latents in the order of ``encode``.

        Latents may hold n samples for each of the b conditions, sample-major: item s·b + i belongs to condition i.
        """
        prepared = self._prepare(condition, noise)
        self._check_latents(latents, prepared)
        rest, log_dets = list(latents), []
        x = rest.pop() if prepared.mean is None else add_shared(rest.pop(), prepared.mean)
        levels = zip(self.levels, prepared.levels, self.fold_unmixings(), strict=True)
        for level, given, unmixings in reversed(list(levels)):
            latent = rest.pop() if level.split_prior is not None else None
            x, log_det = level.decode(x, latent, unmixings, given.steps(backwards=True))
            log_dets.append(log_det)
        return x, torch.stack(log_dets).sum(0) - x[0, 0].numel() * self.mixing_log_det()

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
        for number, level in enumerate(self.levels, start=1):
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
        prepared = self._prepare(condition, None)
        reference = next(self.parameters())
        draws = [self.draw_latents(prepared.size, generator) for _ in range(n * prepared.batch)]
        latents = [temperature * torch.cat(per_level).to(reference) for per_level in zip(*draws, strict=True)]
        x, _ = self.decode(latents, prepared)
        return x.unflatten(0, (n, prepared.batch)).transpose(0, 1)


def _forget(flow: nn.Module, _: Any) -> None:
    cast(ConditionalFlow, flow).forget()


def _encode_anew(level: FlowLevel, given: LevelCondition, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Encode with projections made anew in each call: checkpointing need not keep them."""
    given = given.with_weights(given.weights)
    return level.encode(x, given.mixings, given.steps())
