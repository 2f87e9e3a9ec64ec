"""Figures of tasks whose input has the size of the output, such as low-light enhancement: protocol `llflow`."""

from dataclasses import replace

import torch
from torch import Tensor

from robustflow.data.images import to_uint8
from robustflow.evaluation.metrics import fidelity
from robustflow.evaluation.records import Row
from robustflow.utils import memory

# What a sample's row has beside the figures of all protocols.
FURTHER = ("ssim_grey", "psnr_gtmean", "ssim_gtmean", "ssim_grey_gtmean", "lpips_gtmean")
# How figures are measured, where it differs from super-resolution.
TEXTS = {
    "max_residual": "largest |sample - input|: large wherever light is added, of use to find explosions alone",
    "psnr": "RGB, uint8 (quantize), finite samples; psnr_gtmean: at the ground truth's brightness",
    "psnr_gtmean": "as psnr, of sample * mean grey of ground truth / mean grey of sample, both in [0, 1]",
    "ssim": "RGB mean, uint8 (quantize), Gaussian window 11, sigma 1.5, as scikit-image's, finite samples",
    "ssim_grey": "as ssim, of 0.299 R + 0.587 G + 0.114 B",
    "ssim_gtmean": "as ssim, at the ground truth's brightness, see psnr_gtmean",
    "ssim_grey_gtmean": "as ssim_grey, at the ground truth's brightness, see psnr_gtmean",
    "lpips_gtmean": "as lpips, at the ground truth's brightness, see psnr_gtmean",
    "schemes": "1: the sample at temperature 0; 2: the mean of the samples at a temperature, not finite if one is not",
    "bits_per_dim": "-log2 p(ground truth | input) / (3HW), ground truth in [0, 1], largest crop the flow takes",
    "latents": "of the ground truth; standard normal under the model",
}


def at_brightness_of(sample: Tensor, gt: Tensor, *, truncate: bool) -> Tensor:
    """A finite sample (3, H, W) at the brightness of the ground truth gt (3, H, W), uint8: uint8, on the CPU.

    The sample is clamped to [0, 1] first, and rounded once, at the end.
    """
    return to_uint8(fidelity.with_mean_of(sample.cpu().clamp(0, 1), gt.to(sample.dtype) / 255), truncate=truncate)


def measured(row: Row, sample: Tensor, gt: Tensor | None, crop: int, *, truncate: bool) -> Row:
    """Complete a sample's row by PSNR and SSIM, None where the sample is not finite or there is no ground truth.

    Args:
        row: The row.
        sample: (3, H, W), not clamped.
        gt: Ground truth (3, H, W), uint8.
        crop: Pixels left out along each border.
        truncate: Round down.
    """
    further: dict[str, float | None] = dict.fromkeys(FURTHER)
    if gt is None or not row.failures.finite:
        return replace(row, further=further)
    raw, level = to_uint8(sample.cpu(), truncate=truncate), at_brightness_of(sample, gt, truncate=truncate)
    further |= {
        "ssim_grey": fidelity.ssim_grey(raw, gt, crop),
        "psnr_gtmean": fidelity.psnr(level, gt, crop),
        "ssim_gtmean": fidelity.ssim(level, gt, crop),
        "ssim_grey_gtmean": fidelity.ssim_grey(level, gt, crop),
    }
    return replace(row, psnr=fidelity.psnr(raw, gt, crop), ssim=fidelity.ssim(raw, gt, crop), further=further)


def mean_of(samples: Tensor) -> Tensor:
    """Scheme 2: the mean of samples (n, 3, H, W), not clamped: (3, H, W), not finite where one of them is not."""
    # In double precision, finite samples have a finite mean.
    means = [samples[..., rows, :].mean(0, dtype=torch.float64).to(samples) for rows in memory.bands_of(samples)]
    return torch.cat(means, dim=-2)
