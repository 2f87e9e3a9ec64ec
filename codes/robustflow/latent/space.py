"""Images as multi-scale latents of a flow, and what is done to latents (Lugmayr et al., SRFlow, ECCV 2020, 4.3–4.5).

Latents are lists of tensors (n, c, h, w) in the order of `ConditionalFlow.encode`: finest level first. They are
standard normal under the model. Masks are boolean, one (1, 1, h, w) per latent, True where latents may change; outside
them every function here leaves latents as they are, to the bit.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustflow.data.bicubic import downsample, mirror_pad
from robustflow.data.images import to_float
from robustflow.flows import Encoding
from robustflow.models import FlowModel, SuperResolution
from robustflow.utils.errors import UserError

Collection = Literal["global", "local", "spatial"]
# What varies within one collection, of (n, c, h, w).
_WITHIN: dict[Collection, tuple[int, ...]] = {"global": (1, 2, 3), "local": (1,), "spatial": (2, 3)}


class LatentSpace:
    """The latents of images of one size, given one LR image; the work on the LR image is done once.

    Noise is never added, and the noise map of noise couplings is zero, as when sampling. What the flow's size needs
    beyond the image is mirrored, as `FlowModel.prepare` does, and cut off again. Images are (3, H, W) or (1, 3, H, W),
    as read: uint8, or floating in [0, 1], on any device.

    Args:
        model: In eval mode.
        lr: LR image of any size; where input and output are of one size, the input.
        size: Height and width of the images; None: ``scale`` times those of ``lr``. At most these, and more than
            ``scale`` times (h − 1, w − 1).
    """

    def __init__(self, model: FlowModel, lr: Tensor, size: tuple[int, int] | None = None) -> None:
        self.model, scale = model, model.scale
        self.size = (scale * lr.shape[-2], scale * lr.shape[-1]) if size is None else size
        if tuple(-(-side // scale) for side in self.size) != tuple(lr.shape[-2:]):
            raise ValueError(f"expected images of {scale} times the LR image {tuple(lr.shape)}, got {self.size}")
        self._lr = model.pad(self._batch(lr))
        with torch.no_grad():
            self._condition = model.flow.condition(model.encoder_input(self._lr))

    @classmethod
    def of(cls, model: FlowModel, image: Tensor) -> "LatentSpace":
        """Latents given the LR image of an HR image (3, H, W), see `lr_of`."""
        return cls(model, lr_of(model, image), size_of(image))

    @property
    def dimensions(self) -> int:
        """Numbers in an image as the flow sees it, mirrored parts included."""
        return self.model.flow.image_channels * math.prod(self._condition.size)

    @property
    def levels(self) -> list[int]:
        """Number of the level that each latent belongs to, the finest being 1: at 1/2^level of the image's size."""
        shapes = self.model.flow.latent_shapes(*self._condition.size)
        return [(self._condition.size[0] // height).bit_length() - 1 for _, height, _ in shapes]

    @torch.no_grad()
    def encoding(self, image: Tensor) -> Encoding:
        """Latents, log p in nats and log-determinant of an image, mirrored parts included."""
        image = self._pad(self._batch(image))
        # What the model adds to a decoded x: nothing, or the upsampled LR image.
        return self.model.flow.encode(image - self.model.image(torch.zeros_like(image), self._lr), self._condition)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Latents of an image."""
        return self.encoding(image).latents

    @torch.no_grad()
    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Images (n, 3, H, W) of n latents per level; not clamped."""
        x, _ = self.model.flow.decode(list(latents), self._condition)
        return self.model.image(x, self._lr)[..., : self.size[0], : self.size[1]]

    def draw(self, temperature: float, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Latents of one sample per generator, z ~ N(0, temperature²·I): those that `FlowModel.prepare` draws."""
        return self.model.draw_latents(self._lr, temperature, generators)

    def sample(self, temperature: float, generator: torch.Generator) -> Tensor:
        """A sample (3, H, W), not clamped; see `draw`."""
        return self.decode(self.draw(temperature, [generator]))[0]

    def masks(self, mask: Tensor) -> list[Tensor]:
        """Masks of the latents, from one of the image (H, W), boolean: blocks that hold a masked pixel."""
        mask = self._pad(mask.to(self.model.device)[None, None]).float()
        return [F.max_pool2d(mask, 2**level) > 0 for level in self.levels]

    def _batch(self, image: Tensor) -> Tensor:
        return to_float(image).view(1, -1, *image.shape[-2:]).to(self.model.device)

    def _pad(self, image: Tensor) -> Tensor:
        if size_of(image) != self.size:
            raise ValueError(f"expected (height, width) {self.size}, got {tuple(image.shape)}")
        bottom, right = (full - side for full, side in zip(self._condition.size, self.size, strict=True))
        return mirror_pad(image, 0, right, 0, bottom)


def size_of(image: Tensor) -> tuple[int, int]:
    """Height and width."""
    return image.shape[-2], image.shape[-1]


def lr_of(model: FlowModel, image: Tensor) -> Tensor:
    """LR image (3, h, w) of an HR image (3, H, W) as read, of the same dtype, made as the model's options say.

    Of all of the image: h is H / scale, rounded up, where data sets cut what is left over. UserError for models whose
    inputs are no downsampled images.
    """
    require_super_resolution(model, "downsampling")
    return downsample(image, model.scale, model.options.kernel)


def require_super_resolution(model: FlowModel, what: str) -> None:
    """Raise UserError, saying what is not possible, unless LR images of the model's can be made."""
    if not isinstance(model, SuperResolution):
        raise UserError(
            f"{what}: expected a super-resolution flow (model: SRFlow, NCSR or FS-NCSR), got {model.file}, whose "
            "inputs are not downsampled images; choose other options or weights"
        )


def normalise(
    latents: Sequence[Tensor],
    collections: Sequence[Collection],
    variance: float,
    generator: torch.Generator,
    masks: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Give latents the mean and variance that those of samples have, level by level, shape and sign kept.

    A collection of N latents with mean μ̃ and standard deviation σ̃ becomes ẑ = (σ̂/σ̃)(z − μ̃) + μ̂ with
    μ̂ ~ N(0, τ/N), σ̂² ~ Γ(shape (N − 1)/2, scale 2τ/(N − 1)): mean and variance of N draws from N(0, τ), and computed
    as such. Collections that do not vary become the draws themselves; one with a latent that is not finite becomes NaN.
    Parts that were mirrored, to a size that the flow takes, belong to the collections.

    Args:
        latents: Per level, (n, c, h, w).
        collections: One after the other: "global" (a level's latents), "local" (those at one position, over channels),
            "spatial" (those of one channel, over positions). Those outside the mask belong to no collection.
        variance: τ, the square of a sampling temperature.
        generator: Source of μ̂ and σ̂; what is drawn does not depend on the masks.
        masks: See the module; None: everywhere.
    """
    levels = list(latents)
    for collection in collections:
        levels = [
            _normalise_level(z, _WITHIN[collection], variance, generator, None if masks is None else masks[level])
            for level, z in enumerate(levels)
        ]
    return levels


def _normalise_level(
    z: Tensor, within: tuple[int, ...], variance: float, generator: torch.Generator, mask: Tensor | None
) -> Tensor:
    draws = math.sqrt(variance) * torch.randn(z.shape, generator=generator, device=generator.device).to(z.device)
    inside = torch.ones((), dtype=torch.bool, device=z.device) if mask is None else mask
    mean, std = _mean_and_std(z.double(), within, inside)
    wanted_mean, wanted_std = _mean_and_std(draws.double(), within, inside)
    scaled = (wanted_std / std) * (z.double() - mean) + wanted_mean
    # Not merely above 0: the mean is rounded. NaN, of an encoding that failed, stays NaN.
    varies = ~(std <= 1e-12 * mean.abs())
    return torch.where(inside, torch.where(varies, scaled, draws).to(z.dtype), z)


def _mean_and_std(z: Tensor, within: tuple[int, ...], inside: Tensor) -> tuple[Tensor, Tensor]:
    """Over what is inside, dimensions kept; a single value varies by nothing."""
    # Not multiplied: what is outside may be infinite.
    n = inside.expand(z.shape).to(z.dtype).sum(within, keepdim=True)
    mean = torch.where(inside, z, 0).sum(within, keepdim=True) / n.clamp(min=1)
    square = torch.where(inside, (z - mean) ** 2, 0).sum(within, keepdim=True)
    return mean, (square / (n - 1).clamp(min=1)).sqrt()


def slerp(first: Sequence[Tensor], second: Sequence[Tensor], t: float) -> list[Tensor]:
    """Interpolate on the arc between two latents of each level, so that lengths stay those of samples.

    Args:
        first: Latents at t = 0, (n, c, h, w).
        second: Latents at t = 1.
        t: In [0, 1]; at the ends the latents are those given, to the bit.
    """
    return [_slerp(a, b, t) for a, b in zip(first, second, strict=True)]


def _slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    if t in (0.0, 1.0):
        return b if t == 1.0 else a
    cosine = F.cosine_similarity(a.double().flatten(1), b.double().flatten(1))
    angle = torch.arccos(cosine.clamp(-1, 1)).view(-1, 1, 1, 1)
    sine = torch.sin(angle)
    # Along a line where there is no arc, or no single one.
    straight = sine < 1e-4
    sine = torch.where(straight, torch.ones_like(sine), sine)
    of_a = torch.where(straight, 1 - t, torch.sin((1 - t) * angle) / sine)
    of_b = torch.where(straight, t, torch.sin(t * angle) / sine)
    return (of_a * a + of_b * b).to(a.dtype)
