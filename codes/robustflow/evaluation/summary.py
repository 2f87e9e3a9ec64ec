"""From one row per image and sample to one line per data set and temperature."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustflow.evaluation.metrics.robustness import Failures


@dataclass(frozen=True)
class Row:
    """One sample of one image; fidelity is None where there is no reference or the sample is not finite."""

    dataset: str
    image: str
    heat: float
    sample: int
    failures: Failures
    lr_psnr: float | None
    psnr: float | None
    ssim: float | None

    def flat(self) -> dict[str, object]:
        """Columns of the CSV file."""
        own = {key: value for key, value in vars(self).items() if key != "failures"}
        return {**own, **vars(self.failures)}


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist; None if none does."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summarize(rows: Sequence[Row]) -> dict[str, float | int | None]:
    """Summary of the samples of a data set at one temperature.

    Rates are in percent. An image counts as failed if any of its samples fails. ``lr_psnr_min`` and ``lr_psnr_std``
    are means over images of the minimum and the standard deviation over samples, dB. Fidelity is averaged over the
    finite samples; ``n_finite`` of ``n_samples`` says over how many.
    """
    by_image: dict[str, list[Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    failed = [[row.failures for row in image] for image in by_image.values()]
    lr_psnr = [known for image in by_image.values() if (known := [r.lr_psnr for r in image if r.lr_psnr is not None])]
    n_pixels = sum(row.failures.n_pixels for row in rows)
    return {
        "inf_pct": _percent(any(not f.finite for f in image) for image in failed),
        "nan_pct": _percent(any(f.has_nan for f in image) for image in failed),
        "pixel_error_pct": _percent(any(f.pixel_errors > 0 for f in image) for image in failed),
        "pixel_error_pixel_pct": 100 * sum(row.failures.pixel_errors for row in rows) / n_pixels,
        "max_abs": max(row.failures.max_abs for row in rows),
        "max_residual": max(row.failures.max_residual for row in rows),
        "lr_psnr_min": mean(min(values) for values in lr_psnr),
        "lr_psnr_std": mean(_std(values) for values in lr_psnr),
        "lr_psnr_mean": mean(statistics.fmean(values) for values in lr_psnr),
        "psnr": mean(row.psnr for row in rows),
        "ssim": mean(row.ssim for row in rows),
        "n_samples": len(rows),
        "n_finite": sum(row.failures.finite for row in rows),
    }


def _percent(flags: Iterable[bool]) -> float:
    values = list(flags)
    return 100 * sum(values) / len(values)


def _std(values: Sequence[float]) -> float | None:
    """Population standard deviation, as numpy's; None where a value is infinite (equal images)."""
    return statistics.pstdev(values) if all(math.isfinite(value) for value in values) else None
