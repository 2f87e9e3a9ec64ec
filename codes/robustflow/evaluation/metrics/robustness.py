"""Failures of sampling: non-finite values, pixels far outside the image range, residuals.

Definitions of Hong, Park, Chun, ICCV 2023. All are taken on the float sample before clamping.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robustflow.utils import memory

# A pixel is an error outside this range of an image in [0, 1].
PIXEL_RANGE = (-0.5, 1.5)


@dataclass(frozen=True)
class Failures:
    """Failures of one sample.

    Attributes:
        has_inf: At least one value is ±Inf.
        has_nan: At least one value is NaN.
        pixel_errors: Pixels with a channel outside ``PIXEL_RANGE`` or not finite.
        n_pixels: Pixels.
        max_abs: Largest absolute value; inf if any is not finite.
        max_residual: Largest absolute difference to the LR image's bicubic upsampling; inf likewise.
    """

    has_inf: bool
    has_nan: bool
    pixel_errors: int
    n_pixels: int
    max_abs: float
    max_residual: float

    @property
    def finite(self) -> bool:
        """Whether every value is finite."""
        return not (self.has_inf or self.has_nan)


def outside(samples: Tensor) -> Tensor:
    """Pixels (..., H, W) of samples (..., 3, H, W) with a channel outside ``PIXEL_RANGE`` or not finite."""
    # Negated, so that NaN counts as outside.
    return ~((samples >= PIXEL_RANGE[0]) & (samples <= PIXEL_RANGE[1])).all(-3)


def pixel_errors(image: Tensor) -> float:
    """Percentage of the pixels of an image (..., 3, H, W) that `outside` finds."""
    return 100 * outside(image).float().mean().item()


def failures(sample: Tensor, upsampled: Tensor) -> Failures:
    """Failures of a sample (3, H, W) whose LR image, upsampled, is ``upsampled`` (3, H, W)."""
    parts = [_of_band(sample[:, rows], upsampled[:, rows]) for rows in memory.bands_of(sample)]
    return Failures(
        any(part.has_inf for part in parts),
        any(part.has_nan for part in parts),
        sum(part.pixel_errors for part in parts),
        sum(part.n_pixels for part in parts),
        max(part.max_abs for part in parts),
        max(part.max_residual for part in parts),
    )


def _of_band(sample: Tensor, upsampled: Tensor) -> Failures:
    has_inf, has_nan = bool(torch.isinf(sample).any()), bool(torch.isnan(sample).any())
    failed = outside(sample)
    finite = not (has_inf or has_nan)
    return Failures(
        has_inf,
        has_nan,
        int(failed.sum()),
        failed.numel(),
        sample.abs().max().item() if finite else float("inf"),
        (sample - upsampled).abs().max().item() if finite else float("inf"),
    )
