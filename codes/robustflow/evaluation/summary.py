"""From one record per image to one summary per data set and temperature."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from robustflow.evaluation.metrics.intervals import wilson
from robustflow.evaluation.records import OfHeat, Record, Row, heat_key

# Figures of samples whose means are taken over finite samples, and whether more is better.
FIDELITY = {"psnr": True, "ssim": True, "psnr_y": True, "ssim_y": True, "lpips": False}
LR_REFERENCES = ("lr_psnr", "lr_psnr_gt", "lr_psnr_lr")


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist; None if none does."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def of_data_set(records: Sequence[Record], heats: Sequence[float]) -> dict[str, Any]:
    """Summary of a data set, as in metrics.json."""
    bits_per_dim = mean(record.bits_per_dim for record in records)
    means = {heat: [record.means[heat] for record in records] for heat in (records[0].means if records else ())}
    return {
        "n_images": len(records),
        "heats": {heat_key(heat): _of_heat(records, heat) for heat in heats},
        **({"means": {heat: _of_means(rows) for heat, rows in means.items()}} if means else {}),
        "bits_per_dim": bits_per_dim,
        # The published codes divide by pixel positions, not by dimensions.
        "nll_published": None if bits_per_dim is None else 3 * bits_per_dim,
        "ood_mean": mean(record.ood for record in records),
    }


def _of_heat(records: Sequence[Record], heat: float) -> dict[str, Any]:
    by_image = [[row for row in record.rows if row.heat == heat] for record in records]
    return summarize(by_image, [record.heats[heat_key(heat)] for record in records])


def _of_means(rows: Sequence[Row]) -> dict[str, Any]:
    """Summary of the means over samples, one per image, as `summarize`; ``n_averaged``: of how many samples."""
    return {**summarize([[row] for row in rows], []), "n_averaged": rows[0].sample}


def summarize(by_image: Sequence[Sequence[Row]], of_heats: Sequence[OfHeat]) -> dict[str, Any]:
    """Summary of the samples of a data set at one temperature, given image by image.

    Rates are in percent, ``*_ci`` their 95 % Wilson intervals. An image counts as failed if any of its samples fails.
    ``lr_psnr_min`` and ``lr_psnr_std`` are means over images of the minimum and the standard deviation over samples,
    dB. Fidelity is averaged over the finite samples; ``n_finite`` of ``n_samples`` and ``n_images_finite`` of
    ``n_images``, those without any failure, say over how many. ``best_of_n``: means over images of the best of the
    first 1, 2, … samples.
    """
    rows = [row for image in by_image for row in image]
    return {
        **_rates(by_image),
        "max_abs": max(row.failures.max_abs for row in rows),
        "max_residual": max(row.failures.max_residual for row in rows),
        **{key: value for name in LR_REFERENCES for key, value in _lr_consistency(by_image, name).items()},
        **{name: mean(row.figure(name) for row in rows) for name in (*FIDELITY, *rows[0].further)},
        "diversity_sigma": mean(of_heat.diversity_sigma for of_heat in of_heats),
        "diversity_score": mean(of_heat.diversity_score for of_heat in of_heats),
        "best_of_n": {name: _best_of_n(by_image, name, better) for name, better in FIDELITY.items()},
        "n_samples": len(rows),
        "n_finite": sum(row.failures.finite for row in rows),
        "n_images": len(by_image),
        "n_images_finite": sum(all(row.failures.finite for row in image) for image in by_image),
    }


def _rates(by_image: Sequence[Sequence[Row]]) -> dict[str, Any]:
    def images(failed: Callable[[Row], bool]) -> tuple[int, int]:
        return sum(any(failed(row) for row in image) for image in by_image), len(by_image)

    failures = [row.failures for image in by_image for row in image]
    counts = {
        "inf": images(lambda row: not row.failures.finite),
        "nan": images(lambda row: row.failures.has_nan),
        "pixel_error": images(lambda row: row.failures.pixel_errors > 0),
        "pixel_error_pixel": (sum(f.pixel_errors for f in failures), sum(f.n_pixels for f in failures)),
    }
    rates = {f"{name}_pct": 100 * failed / n for name, (failed, n) in counts.items()}
    return rates | {f"{name}_ci": list(wilson(failed, n)) for name, (failed, n) in counts.items()}


def _lr_consistency(by_image: Sequence[Sequence[Row]], name: str) -> dict[str, float | None]:
    known = [values for image in by_image if (values := [v for row in image if (v := getattr(row, name)) is not None])]
    return {
        f"{name}_min": mean(min(values) for values in known),
        f"{name}_std": mean(_std(values) for values in known),
        f"{name}_mean": mean(statistics.fmean(values) for values in known),
    }


def _best_of_n(by_image: Sequence[Sequence[Row]], name: str, more_is_better: bool) -> list[float | None]:
    """Means over images of the best among the first 1, 2, … samples; images without any are left out."""
    best = max if more_is_better else min

    def of_image(image: Sequence[Row], n: int) -> float | None:
        known = [value for row in image[:n] if (value := getattr(row, name)) is not None]
        return best(known) if known else None

    n_samples = max(len(image) for image in by_image)
    return [mean(of_image(image, n) for image in by_image) for n in range(1, n_samples + 1)]


def _std(values: Sequence[float]) -> float | None:
    """Population standard deviation, as numpy's; None where a value is infinite (equal images)."""
    return statistics.pstdev(values) if all(math.isfinite(value) for value in values) else None
