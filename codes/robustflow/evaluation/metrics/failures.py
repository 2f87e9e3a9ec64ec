"""Failures of sampling: non-finite values, pixels far outside the image range, residuals.

Definitions of Hong, Park, Chun, ICCV 2023. All are taken on the float sample before clamping.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from scipy.special import ndtri
from torch import Tensor

from robustflow.evaluation.metrics.base import Column, Sample, SampleMetric, Target, Values
from robustflow.registry import METRICS
from robustflow.utils import memory

if TYPE_CHECKING:
    import pandas as pd

# A pixel is an error outside this range of an image in [0, 1].
PIXEL_RANGE = (-0.5, 1.5)
KEYS = ("has_inf", "has_nan", "pixel_errors", "n_pixels", "max_abs", "max_residual")


@METRICS.register("failures")
class Failures(SampleMetric):
    """Rates of samples that are not finite or leave the range, and how far samples go at most."""

    label = "failures"
    keys = KEYS
    finite_too = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Rates in percent, and extents."""
        rates = (
            # As published: whatever is not finite. Of it, by kind:
            Column("inf_pct", "%Inf", places=("robustness", "training")),
            Column("infinite_pct", "%∞", places=("robustness",)),
            Column("nan_pct", "%NaN", places=("robustness",)),
            Column("pixel_error_pct", "%PixelErr image", places=("robustness", "curves", "training")),
            Column("pixel_error_pixel_pct", "%PixelErr pixel", places=("robustness",)),
        )
        return (
            *(rate._replace(better="low", limits=(0, 100)) for rate in rates),
            Column("max_abs", "max |value|", "low", places=("robustness",), limits=(0, None)),
            Column("max_residual", "max residual", "low", places=("robustness", "differences"), limits=(0, None)),
        )

    def describe(self) -> dict[str, Any]:
        """Of all rates, and of the residual."""
        return {
            "failures": "on float samples before clamping; an image counts if any of its samples fails",
            "intervals": "95 %, Wilson; pixels of an image are not independent, so those of pixel rates are too narrow",
            "pixel_error_range": list(PIXEL_RANGE),
            "max_residual": "largest |sample - bicubic_up(LR)|, MATLAB bicubic",
        }

    def of_sample(self, sample: Sample, target: Target) -> Values:
        """See `measure_failures`."""
        return measure_failures(sample.raw, target.upsampled)

    def summarize(self, frame: "pd.DataFrame") -> dict[str, Any]:
        """Rates in percent with their intervals, and the largest values; an image fails if any of its samples does."""
        by_image = {
            "inf": frame.has_inf | frame.has_nan,
            "infinite": frame.has_inf,
            "nan": frame.has_nan,
            "pixel_error": frame.pixel_errors > 0,
        }
        n = frame.image.nunique()
        counts = {name: (int(failed.groupby(frame.image).any().sum()), n) for name, failed in by_image.items()}
        counts["pixel_error_pixel"] = int(frame.pixel_errors.sum()), int(frame.n_pixels.sum())
        return {
            **{f"{name}_pct": 100 * failed / n for name, (failed, n) in counts.items()},
            **{f"{name}_ci": list(wilson(failed, n)) for name, (failed, n) in counts.items()},
            "max_abs": float(frame.max_abs.max()),
            "max_residual": float(frame.max_residual.max()),
        }


def outside(samples: Tensor) -> Tensor:
    """Pixels (..., H, W) of samples (..., 3, H, W) with a channel outside ``PIXEL_RANGE`` or not finite."""
    # Negated, so that NaN counts as outside.
    return ~((samples >= PIXEL_RANGE[0]) & (samples <= PIXEL_RANGE[1])).all(-3)


def pixel_errors(image: Tensor) -> float:
    """Percentage of the pixels of an image (..., 3, H, W) that `outside` finds."""
    return 100 * outside(image).float().mean().item()


def measure_failures(sample: Tensor, upsampled: Tensor) -> dict[str, Any]:
    """Failures of a sample (3, H, W) whose input, upsampled, is ``upsampled`` (3, H, W), by ``KEYS``.

    has_inf, has_nan: at least one value is. pixel_errors: pixels with a channel outside ``PIXEL_RANGE`` or not finite,
    of n_pixels. max_abs: largest absolute value; max_residual: to ``upsampled``; inf where a value is not finite.
    """
    bands = [(sample[:, rows], upsampled[:, rows]) for rows in memory.bands_of(sample)]
    has_inf, has_nan = (any(bool(found(band).any()) for band, _ in bands) for found in (torch.isinf, torch.isnan))
    finite = not (has_inf or has_nan)
    return {
        "has_inf": has_inf,
        "has_nan": has_nan,
        "pixel_errors": sum(int(outside(band).sum()) for band, _ in bands),
        "n_pixels": sample[0].numel(),
        "max_abs": max(band.abs().max().item() for band, _ in bands) if finite else float("inf"),
        "max_residual": max((band - up).abs().max().item() for band, up in bands) if finite else float("inf"),
    }


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a rate (Wilson, 1927), in percent; (0, 100) if nothing was counted."""
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be from 0 to n, got {successes} of {n}")
    if n == 0:
        return 0.0, 100.0
    # As scipy.stats.binomtest has it, whose import would take half a second of every command.
    z, rate = float(ndtri(0.975)), successes / n
    centre, half = rate + z**2 / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    scale = 100 / (1 + z**2 / n)
    return 0.0 if successes == 0 else scale * (centre - half), 100.0 if successes == n else scale * (centre + half)
