"""Images changed by way of their latents: restored, given another's style or content (Lugmayr et al., SRFlow, 4.3–4.5).

Images are (3, H, W) as read, uint8 or floating in [0, 1], of any size; results (3, H, W), floating, not clamped. The
latent space is the one given the LR image of what is changed, `LatentSpace.of`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from robustflow.data.bicubic import Kernel, downsample, upsample
from robustflow.data.images import to_float
from robustflow.latent.space import Collection, LatentSpace, normalise, slerp

# Usual temperature of samples.
SAMPLING = 0.9
# "First spatially, then locally" (SRFlow, supplement).
RESTORING: tuple[Collection, ...] = ("spatial", "local")


def restore(
    space: LatentSpace,
    image: Tensor,
    temperature: float,
    generator: torch.Generator,
    collections: Sequence[Collection] = RESTORING,
    mask: Tensor | None = None,
) -> Tensor:
    """Encode a degraded image given its own downsampled image, normalise its latents, decode.

    Noise, compression and blur show in the latents' statistics, not in the LR image.

    Args:
        space: The model's super-resolution factor is how coarse a degradation may be.
        image: The degraded image.
        temperature: Standard deviation of the latents afterwards; lower is smoother.
        generator: See `normalise`.
        collections: Likewise.
        mask: (H, W), boolean: restore there; None: everywhere. Around it the flow's reach changes pixels, too.
    """
    masks = None if mask is None else space.masks(mask)
    return space.decode(normalise(space.encode(image), collections, temperature**2, generator, masks))[0]


def transfer_style(space: LatentSpace, source: Tensor) -> Tensor:
    """Decode the latents of ``source``, given its own LR image, in the space of another image of the same size.

    The result has that image's LR image and the source's fine structure; that of an image and itself is the image.
    """
    return space.decode(LatentSpace.of(space.model, source).encode(source))[0]


def transfer_region(
    space: LatentSpace, target: Tensor, source: Tensor, mask: Tensor, offset: tuple[int, int] = (0, 0)
) -> Tensor:
    """Decode the latents of ``target`` with those of a region of ``source`` in their place.

    As `transfer_style` where the region is all of a source of the same size. Around the region the flow's reach changes
    pixels, too.

    Args:
        space: That of the target.
        target: What is changed.
        source: Of any size.
        mask: (h, w), boolean, of the source: the region.
        offset: How far down and right of its place in the source the region goes; see `paste`.
    """
    taken = LatentSpace.of(space.model, source).encode(source)
    return space.decode(paste(space, space.encode(target), taken, mask, offset))[0]


def paste(
    space: LatentSpace, own: Sequence[Tensor], taken: Sequence[Tensor], mask: Tensor, offset: tuple[int, int]
) -> list[Tensor]:
    """Latents with those of a region of another image in their place; outside they stay, to the bit.

    At level l the region is every block of 2^l × 2^l pixels that holds one of its pixels where it comes to lie, or one
    of what is mirrored beyond the image's edge.

    Args:
        space: Of the latents that are changed.
        own: These, per level.
        taken: Those of the other image.
        mask: (h, w), boolean, of the other image; what comes to lie outside is left out.
        offset: Pixels down and right, multiples of the model's ``size_multiple``, so that every level moves alike.
    """
    if any(side % space.model.size_multiple != 0 for side in offset):
        raise ValueError(f"expected multiples of {space.model.size_multiple} as offset, got {offset}")
    masks = space.masks(_move(mask, torch.zeros(space.size, dtype=torch.bool), offset))
    return [
        torch.where(inside, _move(z, before, (offset[0] >> level, offset[1] >> level)), before)
        for level, before, z, inside in zip(space.levels, own, taken, masks, strict=True)
    ]


def _move(x: Tensor, onto: Tensor, offset: tuple[int, int]) -> Tensor:
    """``onto`` (..., H, W) with what of x (..., h, w), moved down and right, lies in it."""
    moved = onto.clone()
    ends = zip(offset, x.shape[-2:], onto.shape[-2:], strict=True)
    (top, bottom), (left, right) = ((min(max(by, 0), most), min(max(by + n, 0), most)) for by, n, most in ends)
    down, aside = offset
    moved[..., top:bottom, left:right] = x[..., top - down : bottom - down, left - aside : right - aside]
    return moved


def transfer_content(
    space: LatentSpace,
    target: Tensor,
    source: Tensor,
    mask: Tensor,
    temperature: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Paste the masked part of ``source`` into ``target`` and make it agree with the target's LR image.

    The pasted image is encoded given the LR image of the target; its latents, unlikely where the content changed, are
    normalised there, at each position over channels, and decoded. An empty mask gives the target.

    Args:
        space: That of the target.
        target: What it is pasted into.
        source: Of the same size.
        mask: (H, W), boolean.
        temperature: Standard deviation of the normalised latents.
        generator: See `normalise`.

    Returns:
        The pasted image, and the result.
    """
    pasted = torch.where(mask, to_float(source), to_float(target)).to(space.model.device)
    latents = normalise(space.encode(pasted), ("local",), temperature**2, generator, space.masks(mask))
    return pasted, space.decode(latents)[0]


def interpolate(
    space: LatentSpace, frames: int, temperature: float, generators: tuple[torch.Generator, torch.Generator]
) -> Iterator[Tensor]:
    """Yield images on the arc between the latents of two samples, ends included, one after another.

    Args:
        space: That of the samples' LR image.
        frames: At least 2.
        temperature: Of both samples.
        generators: Of the latents of both samples.
    """
    first, last = (space.draw(temperature, [generator]) for generator in generators)
    for frame in range(frames):
        yield space.decode(slerp(first, last, frame / (frames - 1)))[0]


def back_project(image: Tensor, lr: Tensor, scale: int, iterations: int, kernel: Kernel = "bicubic") -> Tensor:
    """Make an image agree with its LR image: x ← x + U(y − D(x)), clamped; D is the degradation, U bicubic.

    Irani and Peleg, 1991. Each iteration shrinks the difference at the LR image's resolution.

    Args:
        image: x, (..., 3, H, W), floating; clamped to [0, 1] at first, as it is when written.
        lr: y, (..., 3, ceil(H / scale), ceil(W / scale)), floating.
        scale: Of D and U.
        iterations: How often.
        kernel: Of D.

    Returns:
        As ``image``, in [0, 1].
    """
    height, width = image.shape[-2:]
    image = image.clamp(0, 1) if iterations > 0 else image
    for _ in range(iterations):
        image = (image + upsample(lr - downsample(image, scale, kernel), scale)[..., :height, :width]).clamp(0, 1)
    return image
