"""Fidelity to a reference, on images rounded to 8 bits."""

import math

from skimage.metrics import structural_similarity
from torch import Tensor

from robustflow.data.bicubic import downsample

# Side of the smallest image that SSIM's 11×11 Gaussian window fits into.
SSIM_WINDOW = 11


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 images (3, H, W), over all channels; inf if they are equal."""
    error = (image.double() - reference.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(image: Tensor, reference: Tensor) -> float | None:
    """Structural similarity of two uint8 images (3, H, W), mean over RGB; None below 11 pixels.

    Gaussian window of 11×11, σ = 1.5, population covariance (Wang et al., 2004), by scikit-image.
    """
    if min(image.shape[-2:]) < SSIM_WINDOW:
        return None
    value = structural_similarity(
        image.cpu().numpy(),
        reference.cpu().numpy(),
        channel_axis=0,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


def lr_psnr(sample: Tensor, lr_reference: Tensor, scale: int) -> float:
    """PSNR in dB between a uint8 sample (3, H, W), bicubically downsampled, and a uint8 LR image (3, h, w)."""
    return psnr(downsample(sample, scale), lr_reference)
