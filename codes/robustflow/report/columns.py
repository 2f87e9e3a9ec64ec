"""What the figures are called, which direction is better, and how they are printed."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from robustflow.evaluation import metrics
from robustflow.evaluation.description import read_columns
from robustflow.evaluation.metrics import Column
from robustflow.evaluation.metrics.base import Place
from robustflow.models import protocol
from robustflow.models.protocol import DENSITY

# Under τ, of a model that makes one image per input.
NO_HEAT = "–"
_EXTENTS = frozenset({"max_abs", "max_residual"})
_LR_REFERENCES = {
    "lr_psnr_gt": "as lr_psnr, against bicubic(ground truth)",
    "lr_psnr_lr": "as lr_psnr, against the LR image",
}
_FAILURES = ("inf_pct", "infinite_pct", "nan_pct", "pixel_error_pct", "pixel_error_pixel_pct", "max_abs")


def columns_of(report: Mapping[str, Any]) -> dict[str, Column]:
    """Columns of a metrics.json by key, in the order of tables."""
    return read_columns(report, metrics.choose(protocol.read(report)))


def columns_at(report: Mapping[str, Any], place: Place) -> list[Column]:
    """Those that are shown in a place; of the two extents the one that the protocol says."""
    unused = _EXTENTS - {protocol.read(report).extent}
    return [one for one in columns_of(report).values() if place in one.places and one.key not in unused]


def overview(reports: Sequence[Mapping[str, Any]]) -> list[Column]:
    """What tables of several data sets or models show, robustness first: what has a value in any metrics.json.

    Figures over finite samples alone are shown if any differs from that over all.
    """
    places: tuple[Place, ...] = ("robustness", "fidelity")
    found = {one.key: one for place in places for report in reports for one in columns_at(report, place)}
    known = keys_with_values(reports)
    return [one for one in found.values() if one.key in known and not _repeats(one.key, reports)]


def _repeats(key: str, reports: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a figure is one over finite samples alone, and everywhere that over all samples."""
    sets = (lines(report, name).values() for report in reports for name in report["datasets"])
    return key.endswith("_finite") and all(
        values.get(key) == values.get(key.removesuffix("_finite")) for of_set in sets for values in of_set
    )


def column(columns: Mapping[str, Column], key: str) -> Column:
    """The column of a key; one without a direction for a key that is not known."""
    return columns.get(key, Column(key, key.replace("_", " ")))


def cell(value: Any) -> str:
    """A value for a table: four significant digits, powers of ten for large numbers, a dash for none."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if math.isfinite(value) and (abs(value) >= 1e5 or 0 < abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:.4g}"


def signed(value: float) -> str:
    """`cell` of a difference: with + or − before it."""
    return f"+{cell(value)}" if value > 0 else cell(value).replace("-", "−", 1) if value < 0 else cell(value)


def count(n: int, noun: str) -> str:
    """So many things: "1 image", "2 images"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def mark(value: Any, column: Column) -> str:
    """A value for a table, as `cell`, with a dagger where it is below the column's bar."""
    below = column.bar is not None and isinstance(value, int | float) and value < column.bar
    return f"{cell(value)} †" if below else cell(value)


def say_bars(columns: Iterable[Column]) -> str:
    """What `mark` says of these columns; nothing where none has a bar."""
    bars = {f"{one.bar:g} {one.unit}" for one in columns if one.bar is not None}
    return f"†: below {', '.join(bars)}, the least LR-PSNR that the NTIRE challenge accepts." if bars else ""


def lines(report: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """All figures of a data set of a metrics.json by what stands under τ: temperatures, and means of their samples.

    Those of the data set itself are among the figures of each temperature. `NO_HEAT`: of a deterministic model.
    """
    dataset = report["datasets"][name]
    own = {key: value for key, value in dataset.items() if key != "n_images" and not isinstance(value, dict)}
    fixed = protocol.read(report).deterministic
    found = {NO_HEAT if fixed else heat: {**own, **values} for heat, values in dataset["heats"].items()}
    for heat, values in dataset.get("means", {}).items():
        found[f"{heat}, mean of {values['n_averaged']}"] = values
    return found


def is_at(line: str, temperature: float | None) -> bool:
    """Whether what `lines` calls so is shown where one temperature is asked for, or, None, all are."""
    return temperature is None or line == NO_HEAT or float(line.partition(",")[0]) == temperature


def keys_with_values(reports: Iterable[Mapping[str, Any]]) -> set[str]:
    """Keys that have a value at any temperature in any of the reports, each the content of a metrics.json."""
    return {
        key
        for report in reports
        for name in report["datasets"]
        for values in lines(report, name).values()
        for key, value in values.items()
        if value is not None
    }


def protocol_of(key: str, described: Mapping[str, Any]) -> str:
    """How a figure was measured: the protocol's text for it, for its family (psnr for psnr_y), or nothing."""
    if key in _FAILURES and "failures" in described and key not in described:
        bounds = described.get("pixel_error_range")
        text = str(described["failures"])
        return f"outside {bounds} or not finite; {text}" if "pixel_error" in key and bounds is not None else text
    described = {**_LR_REFERENCES, **described}
    families = sorted((name for name in described if key == name or key.startswith(f"{name}_")), key=len)
    text = str(described[families[-1]]) if families and isinstance(described[families[-1]], str) else ""
    if key.endswith("_finite"):
        return f"{text}; finite samples alone".removeprefix("; ")
    return f"{text}; {DENSITY}" if text and key == "bits_per_dim" else text
