"""What several metrics take of images: luma, grey values, brightness, and their distance."""

import math

import torch
from torch import Tensor

# ITU-R BT.601, as MATLAB's rgb2ycbcr: weights of R, G, B in [0, 1], and the offset.
_LUMA, _BLACK = (65.481, 128.553, 24.966), 16.0
_GREY = (0.299, 0.587, 0.114)  # of the same recommendation, full range


def luma(image: Tensor) -> Tensor:
    """Luma Y of a uint8 RGB image (3, H, W): float64 (1, H, W), from 16 (black) to 235 (white), not rounded.

    ITU-R BT.601 as in MATLAB's ``rgb2ycbcr``; the convention of super-resolution papers that say "Y channel".
    """
    weights = image.new_tensor(_LUMA, dtype=torch.float64).view(3, 1, 1)
    return _BLACK + (weights * image / 255).sum(0, keepdim=True)


def grey(image: Tensor) -> Tensor:
    """Grey values 0.299 R + 0.587 G + 0.114 B of an RGB image (3, H, W): float64 (1, H, W), in the image's range."""
    weights = image.new_tensor(_GREY, dtype=torch.float64).view(3, 1, 1)
    return (weights * image).sum(0, keepdim=True)


def scale_to_mean_of(image: Tensor, reference: Tensor) -> Tensor:
    """The image at the brightness of the reference: times mean grey of the reference over mean grey of the image.

    Papers on enhancement report figures of it ("GT-mean"), as brightness is ambiguous there (Zhang et al., KinD, ACM MM
    2019). A black image stays black.

    Args:
        image: (3, H, W) floating, in [0, 1].
        reference: The same.

    Returns:
        (3, H, W), clamped to [0, 1].
    """
    ours, theirs = float(grey(image).mean()), float(grey(reference).mean())
    return image if ours == 0 else (image * (theirs / ours)).clamp(0, 1)


def crop_borders(image: Tensor, reference: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Both images (c, H, W), of one size, without ``crop`` pixels along each border; possibly empty."""
    if image.shape != reference.shape:
        raise ValueError(f"expected images of one size, got {tuple(image.shape)} and {tuple(reference.shape)}")
    if crop < 0:
        raise ValueError(f"expected a border of 0 pixels or more, got {crop}")
    height, width = image.shape[-2:]
    rows, columns = slice(crop, max(crop, height - crop)), slice(crop, max(crop, width - crop))
    return image[..., rows, columns], reference[..., rows, columns]


def psnr(image: Tensor, reference: Tensor, crop: int = 0) -> float | None:
    """Peak signal-to-noise ratio in dB of two images (c, H, W) in 0..255, over all channels; inf if they are equal.

    Args:
        image: uint8, or luma; its peak is 255 all the same, as in published tables.
        reference: Likewise.
        crop: Pixels left out along each border; None is returned if they leave nothing.
    """
    image, reference = crop_borders(image, reference, crop)
    if image.numel() == 0:
        return None
    if image.dtype == reference.dtype == torch.uint8:
        error = (image.int() - reference.int()).square_().sum().item() / image.numel()
    else:
        error = (image.double() - reference.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
