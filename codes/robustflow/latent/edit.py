"""Images changed by way of their latents: restored, given another's style or content (Lugmayr et al., SRFlow, 4.3–4.5).

Images are (3, H, W) as read, uint8 or floating in [0, 1], of any size; results (3, H, W), floating, not clamped.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustflow.latent.model import Model
from robustflow.latent.space import Collection, LatentSpace, normalised, spherical

# Usual temperature of samples.
SAMPLING = 0.9
# "First spatially, then locally" (SRFlow, supplement).
RESTORING: tuple[Collection, ...] = ("spatial", "local")


def restored(
    model: Model,
    image: Tensor,
    temperature: float,
    generator: torch.Generator,
    *,
    collections: Sequence[Collection] = RESTORING,
    mask: Tensor | None = None,
    space: LatentSpace | None = None,
) -> Tensor:
    """Encode a degraded image given its own downsampled image, normalise its latents, decode.

    Noise, compression and blur show in the latents' statistics, not in the LR image.

    Args:
        model: Its super-resolution factor is how coarse a degradation may be.
        image: The degraded image.
        temperature: Standard deviation of the latents afterwards; lower is smoother.
        generator: See `normalised`.
        collections: Likewise.
        mask: (H, W), boolean: restore there; None: everywhere. Around it the flow's reach changes pixels, too.
        space: The latents given the image's own LR image, if they are at hand.
    """
    space = model.space_of(image) if space is None else space
    masks = None if mask is None else space.masks(mask)
    latents = normalised(space.encode(model.batch(image)), collections, temperature**2, generator, masks)
    return space.decode(latents)[0]


def style_transferred(model: Model, target: Tensor, source: Tensor, *, space: LatentSpace | None = None) -> Tensor:
    """Decode the latents of ``source``, given its own LR image, with the LR image of ``target``, of the same size.

    The result has the target's LR image and the source's fine structure; that of an image and itself is the image.

    ``space``: the latents given the target's LR image, if they are at hand.
    """
    latents = model.space_of(source).encode(model.batch(source))
    return (model.space_of(target) if space is None else space).decode(latents)[0]


class Transferred(NamedTuple):
    """The image that was encoded, and the result."""

    pasted: Tensor
    image: Tensor


def content_transferred(
    model: Model,
    target: Tensor,
    source: Tensor,
    mask: Tensor,
    temperature: float,
    generator: torch.Generator,
    *,
    space: LatentSpace | None = None,
) -> Transferred:
    """Paste the masked part of ``source`` into ``target`` and make it agree with the target's LR image.

    The pasted image is encoded given the LR image of the target; its latents, unlikely where the content changed, are
    normalised there, at each position over channels, and decoded. An empty mask gives the target.

    Args:
        model: See `Model`.
        target: What it is pasted into.
        source: Of the same size.
        mask: (H, W), boolean.
        temperature: Standard deviation of the normalised latents.
        generator: See `normalised`.
        space: The latents given the target's LR image, if they are at hand.
    """
    space = model.space_of(target) if space is None else space
    mask = mask.to(model.device)
    pasted = torch.where(mask, model.batch(source), model.batch(target))
    latents = normalised(space.encode(pasted), ("local",), temperature**2, generator, space.masks(mask))
    return Transferred(pasted[0], space.decode(latents)[0])


def interpolated(
    model: Model, lr: Tensor, frames: int, temperature: float, generators: tuple[torch.Generator, torch.Generator]
) -> Iterator[Tensor]:
    """Yield images on the arc between the latents of two samples of an LR image, ends included, one after another.

    Args:
        model: See `Model`.
        lr: (3, h, w), as read.
        frames: At least 2.
        temperature: Of both samples.
        generators: Of the latents of both samples.
    """
    space = model.space(model.batch(lr))
    first, last = (space.draw(temperature, [generator]) for generator in generators)
    for frame in range(frames):
        yield space.decode(spherical(first, last, frame / (frames - 1)))[0]
