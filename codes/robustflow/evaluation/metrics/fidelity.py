"""Fidelity to a reference, on images rounded to 8 bits."""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from robustflow.data.bicubic import downsample

# Side of the smallest image that SSIM's 11×11 Gaussian window fits into.
SSIM_WINDOW = 11
_REACH = SSIM_WINDOW // 2
_GAUSSIAN = np.exp(-((np.arange(-_REACH, _REACH + 1) / 1.5) ** 2) / 2)
_WEIGHTS = _GAUSSIAN / _GAUSSIAN.sum()
# What keeps the quotients of SSIM finite, (K L)² with L = 255.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

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


def with_mean_of(image: Tensor, reference: Tensor) -> Tensor:
    """The image at the brightness of the reference: times mean grey of the reference over mean grey of the image.

    Low-light enhancement papers report figures of it ("GT-mean"), as brightness is ambiguous there (Zhang et al.,
    KinD, ACM MM 2019). A black image stays black.

    Args:
        image: (3, H, W) floating, in [0, 1].
        reference: The same.

    Returns:
        (3, H, W), clamped to [0, 1].
    """
    ours, theirs = float(grey(image).mean()), float(grey(reference).mean())
    return image if ours == 0 else (image * (theirs / ours)).clamp(0, 1)


def ssim_grey(image: Tensor, reference: Tensor, crop: int = 0) -> float | None:
    """`ssim` of the grey values of two uint8 RGB images (3, H, W)."""
    return ssim(grey(image), grey(reference), crop)


def psnr(image: Tensor, reference: Tensor, crop: int = 0) -> float | None:
    """Peak signal-to-noise ratio in dB of two images (c, H, W) in 0..255, over all channels; inf if they are equal.

    Args:
        image: uint8, or luma.
        reference: Likewise.
        crop: Pixels left out along each border; None is returned if they leave nothing.
    """
    image, reference = _inner(image, reference, crop)
    if image.numel() == 0:
        return None
    error = (image.double() - reference.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def psnr_y(image: Tensor, reference: Tensor, crop: int = 0) -> float | None:
    """`psnr` of the luma of two uint8 RGB images (3, H, W); its peak is 255, as in published tables."""
    return psnr(luma(image), luma(reference), crop)


def ssim(image: Tensor, reference: Tensor, crop: int = 0) -> float | None:
    """Structural similarity of two images (c, H, W) in 0..255, mean over channels; None below 11 pixels.

    Gaussian window of 11×11, σ = 1.5, population covariance (Wang et al., 2004), where the whole window lies
    inside the image; equal to scikit-image's, several times as fast.

    Args:
        image: uint8, or luma.
        reference: Likewise.
        crop: Pixels left out along each border, before anything else.
    """
    image, reference = _inner(image, reference, crop)
    if min(image.shape[-2:]) < SSIM_WINDOW:
        return None
    channels = zip(image.cpu().double().numpy(), reference.cpu().double().numpy(), strict=True)
    return float(np.mean([_ssim(x, y) for x, y in channels]))


def ssim_y(image: Tensor, reference: Tensor, crop: int = 0) -> float | None:
    """`ssim` of the luma of two uint8 RGB images (3, H, W)."""
    return ssim(luma(image), luma(reference), crop)


def lr_psnr(sample: Tensor, lr_reference: Tensor, scale: int, crop: int = 0) -> float | None:
    """PSNR in dB between a uint8 sample (3, H, W), bicubically downsampled, and a uint8 LR image (3, h, w).

    ``crop`` counts LR pixels.
    """
    return psnr(downsample(sample, scale), lr_reference, crop)


def _inner(image: Tensor, reference: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Both images without ``crop`` pixels along each border; possibly empty."""
    if image.shape != reference.shape:
        raise ValueError(f"expected images of one size, got {tuple(image.shape)} and {tuple(reference.shape)}")
    if crop < 0:
        raise ValueError(f"expected a border of 0 pixels or more, got {crop}")
    height, width = image.shape[-2:]
    rows, columns = slice(crop, max(crop, height - crop)), slice(crop, max(crop, width - crop))
    return image[..., rows, columns], reference[..., rows, columns]


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Structural similarity of two channels (H, W), float64: Wang et al., 2004, equation 13, averaged."""
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x, var_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    cov = _windowed(x * y) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + _C1) * (2 * cov + _C2)
    return float((similar / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))).mean())


def _windowed(values: np.ndarray) -> np.ndarray:
    """Weighted mean in the window around each pixel whose window lies inside: (H, W) to (H - 10, W - 10)."""
    return cv2.sepFilter2D(values, -1, _WEIGHTS, _WEIGHTS)[_REACH:-_REACH, _REACH:-_REACH]
