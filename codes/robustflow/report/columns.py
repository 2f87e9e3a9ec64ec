"""What the figures are called, which direction is better, and how they are printed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple


class Column(NamedTuple):
    """One figure of a summary.

    Attributes:
        label: Heading of its column.
        better: Which direction is better; None where neither is.
    """

    label: str
    better: Literal["low", "high"] | None


_KNOWN = {
    "bits_per_dim": Column("bits/dim", "low"),
    "nll_published": Column("NLL, published unit", "low"),
    "inf_pct": Column("%Inf", "low"),
    "nan_pct": Column("%NaN", "low"),
    "pixel_error_pct": Column("%PixelErr image", "low"),
    "pixel_error_pixel_pct": Column("%PixelErr pixel", "low"),
    "max_abs": Column("max |value|", "low"),
    "max_residual": Column("max residual", "low"),
    "lr_psnr": Column("LR-PSNR", "high"),
    "lr_psnr_min": Column("LR-PSNR min", "high"),
    "lr_psnr_std": Column("LR-PSNR σ", "low"),
    "lr_psnr_mean": Column("LR-PSNR mean", "high"),
    "lr_psnr_gt_min": Column("LR-PSNR min, to GT", "high"),
    "lr_psnr_gt_std": Column("LR-PSNR σ, to GT", "low"),
    "lr_psnr_gt_mean": Column("LR-PSNR mean, to GT", "high"),
    "lr_psnr_lr_min": Column("LR-PSNR min, to LR", "high"),
    "lr_psnr_lr_std": Column("LR-PSNR σ, to LR", "low"),
    "lr_psnr_lr_mean": Column("LR-PSNR mean, to LR", "high"),
    "psnr": Column("PSNR", "high"),
    "ssim": Column("SSIM", "high"),
    "psnr_y": Column("PSNR Y", "high"),
    "ssim_y": Column("SSIM Y", "high"),
    "lpips": Column("LPIPS", "low"),
    "ssim_grey": Column("SSIM grey", "high"),
    "psnr_gtmean": Column("PSNR GT-mean", "high"),
    "ssim_gtmean": Column("SSIM GT-mean", "high"),
    "ssim_grey_gtmean": Column("SSIM grey GT-mean", "high"),
    "lpips_gtmean": Column("LPIPS GT-mean", "low"),
    "diversity_sigma": Column("diversity σ", None),
    "diversity_score": Column("diversity score", "high"),
    "ood": Column("OOD score", None),
    "ood_mean": Column("OOD score", None),
    "n_samples": Column("samples", None),
    "n_finite": Column("finite samples", None),
}
# What a reader may not expect.
DENSITY = "of a density on [0, 1], so below 0 is usual; + 8 for 8-bit values"
# Robustness first: what tables of several data sets or models show.
OVERVIEW = (
    "bits_per_dim",
    "inf_pct",
    "pixel_error_pct",
    "pixel_error_pixel_pct",
    "max_residual",
    "lr_psnr_min",
    "lr_psnr_std",
)
FIDELITY = ("psnr", "ssim", "lpips", "diversity_sigma", "diversity_score")
# The same where input and output are of one size: a residual to the input would measure the change that is wanted.
_OVERVIEW_SAME_SIZE = (*OVERVIEW[:4], "max_abs")
_FIDELITY_SAME_SIZE = (
    *("psnr", "psnr_gtmean", "ssim", "ssim_gtmean", "ssim_grey", "ssim_grey_gtmean"),
    *("lpips", "lpips_gtmean", "diversity_sigma"),
)
_LR_REFERENCES = {
    "lr_psnr_gt": "as lr_psnr, against bicubic(ground truth)",
    "lr_psnr_lr": "as lr_psnr, against the LR image",
}
_FAILURES = ("inf_pct", "nan_pct", "pixel_error_pct", "pixel_error_pixel_pct", "max_abs")


def same_size(report: Mapping[str, Any]) -> bool:
    """Whether the figures of a metrics.json are those of inputs and outputs of one size."""
    return report["protocol"].get("protocol") == "llflow"


def overview(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys that tables of a metrics.json begin with."""
    return _OVERVIEW_SAME_SIZE if same_size(report) else OVERVIEW


def fidelity(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of likeness to the ground truth, and of diversity, that tables of a metrics.json show."""
    return _FIDELITY_SAME_SIZE if same_size(report) else FIDELITY


def column(key: str) -> Column:
    """The column of a key of a summary; one without a direction for a key that is not known here."""
    return _KNOWN.get(key, Column(key.replace("_", " "), None))


def cell(value: Any) -> str:
    """A value for a table: four significant digits, powers of ten for large numbers, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if math.isfinite(value) and (abs(value) >= 1e5 or 0 < abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:.4g}"


def values_at(dataset: Mapping[str, Any], heat: str) -> dict[str, Any]:
    """All figures of a data set of metrics.json at one temperature, those of the data set itself included."""
    own = {key: value for key, value in dataset.items() if key not in ("heats", "n_images") and _is_number(value)}
    return {**own, **dataset["heats"][heat]}


def lines(dataset: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All figures of a data set of metrics.json by what stands under τ: temperatures, and means of their samples."""
    found = {heat: values_at(dataset, heat) for heat in dataset["heats"]}
    for heat, values in dataset.get("means", {}).items():
        found[f"{heat}, mean of {values['n_averaged']}"] = values
    return found


def shown(reports: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Those of the keys that have a value anywhere in the reports, each the content of a metrics.json."""
    found = {
        key
        for report in reports
        for dataset in report["datasets"].values()
        for heat in dataset["heats"]
        for key, value in values_at(dataset, heat).items()
        if value is not None
    }
    return [key for key in keys if key in found]


def protocol_of(key: str, protocol: Mapping[str, Any]) -> str:
    """How a figure was measured: the protocol's text for it, for its family (psnr for psnr_y), or nothing."""
    if key in _FAILURES and "failures" in protocol and key not in protocol:
        bounds = protocol.get("pixel_error_range")
        text = str(protocol["failures"])
        return f"outside {bounds} or not finite; {text}" if "pixel_error" in key and bounds is not None else text
    protocol = {**_LR_REFERENCES, **protocol}
    families = sorted((name for name in protocol if key == name or key.startswith(f"{name}_")), key=len)
    text = str(protocol[families[-1]]) if families and isinstance(protocol[families[-1]], str) else ""
    return f"{text}; {DENSITY}" if text and key == "bits_per_dim" else text


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
