"""Tables of evaluated models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

COLUMNS = {
    "bits_per_dim": "bits/dim",
    "inf_pct": "%Inf",
    "pixel_error_pct": "%PixelErr image",
    "pixel_error_pixel_pct": "%PixelErr pixel",
    "max_residual": "max residual",
    "lr_psnr_min": "LR-PSNR min",
    "lr_psnr_std": "LR-PSNR σ",
}
FIDELITY = {"psnr": "PSNR", "ssim": "SSIM"}


def cell(value: float | None) -> str:
    """A number for a table: four significant digits, powers of ten for large ones, a dash for none."""
    if value is None:
        return "–"
    if math.isfinite(value) and (abs(value) >= 1e5 or 0 < abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:.4g}"


def rows_of(report: Mapping[str, Any], columns: Sequence[str]) -> list[list[str]]:
    """One row per data set and temperature of a metrics.json: data set, tau, then the columns."""
    return [
        [name, heat, *(cell({**summary, "bits_per_dim": dataset["bits_per_dim"]}[column]) for column in columns)]
        for name, dataset in report["datasets"].items()
        for heat, summary in dataset["heats"].items()
    ]


def table(report: Mapping[str, Any]) -> str:
    """Table of one model for the screen."""
    columns = {**COLUMNS, **FIDELITY}
    return tabulate(rows_of(report, list(columns)), ["data set", "τ", *columns.values()], disable_numparse=True)
