"""How failures depend on the out-of-distribution score: files and tables of `robustflow ood rank`, and pictures."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tabulate import tabulate

from robustflow.evaluation.records import to_json
from robustflow.report.columns import cell
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

# What is drawn of a patch: its score, and whether it failed.
Curve = Sequence[tuple[float, bool]]

_FORMATS = ("png", "svg", "pdf")
_SHARE = 10  # a window holds one in so many patches
_COLUMNS = ["dataset", "image", "top", "left", "score", "percentile", "pixel_error", "finite", "max_residual"]


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ood.json, ood.csv and ood.png, each atomically."""
    write_atomically(folder / "ood.json", to_json(report).encode())
    rows = [{**one, **dict(zip(("top", "left"), one["position"], strict=True))} for one in report["patches"]]
    text = pd.DataFrame(rows, columns=_COLUMNS).to_csv(index=False, lineterminator="\r\n")
    write_atomically(folder / "ood.csv", text.encode())
    plot(curves_of(report), folder / "ood.png")


def read(folder: Path) -> dict[str, Any]:
    """Read a results folder's ood.json."""
    try:
        report: dict[str, Any] = json.loads((folder / "ood.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{folder}: expected a results folder with ood.json ({error}); run robustflow ood rank"
        ) from error
    return report


def table(report: Mapping[str, Any]) -> str:
    """Table of an ood.json for the screen: a row per data set, the training patches first."""
    training, sets = report["training"], report["datasets"]
    n_quarters = max(len(found["pixel_error_pct_by_quarter"]) for found in sets.values())
    quarters = [f"quarter {k}" for k in range(1, n_quarters + 1)]
    headers = ["data set", "patches", "left out %", "mean OOD score", "mean percentile", "%PixelErr", *quarters]
    first = ["(training)", str(training["n_patches"]), "", cell(training["mean_score"]), "50"]
    rows = [first + [""] * (len(headers) - len(first))]
    for name, found in sets.items():
        keys = ("dropped_pixels_pct", "mean_score", "mean_percentile", "pixel_error_pct")
        values = [*(found[key] for key in keys), *found["pixel_error_pct_by_quarter"]]
        rows.append([name, str(found["n_patches"]), *map(cell, values)])
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    note = "quarter k: %PixelErr of the patches of that quarter of the scores, lowest first"
    return tabulate(rows, headers, disable_numparse=True, colalign=alignment) + f"\n{note}"


def curves_of(report: Mapping[str, Any]) -> dict[str, list[tuple[float, bool]]]:
    """(score, failed) of the patches of an ood.json by data set, and of all if there are several sets."""
    curves: dict[str, list[tuple[float, bool]]] = {name: [] for name in report["datasets"]}
    for each in report["patches"]:
        curves[each["dataset"]].append((each["score"], each["pixel_error"]))
    together = [point for curve in curves.values() for point in curve]
    return curves if len(curves) == 1 else {**curves, "all": together}


def smooth(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Running mean of the failure rate over windows of a tenth of the patches, ranked by score.

    Returns:
        Rank of each window's centre, % of the patches, and the share in it that failed, %.
    """
    failed = np.array([failure for _, failure in sorted(curve, key=lambda point: point[0])], dtype=float)
    n, window = len(failed), max(1, len(failed) // _SHARE)
    shares = 100 * np.convolve(failed, np.ones(window), "valid") / window
    return 100 * (np.arange(n - window + 1) + window / 2) / n, shares


def plot(curves: Mapping[str, Curve], path: str | Path) -> None:
    """Draw P(pixel error) against the rank of the OOD score, a dashed line at each curve's average; write atomically.

    Hong et al., ICCV 2023, supplement Fig. S1.

    Args:
        curves: By label, in any order of the patches; empty ones are left out.
        path: .png, .svg or .pdf file.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise UserError(f"{path}: expected a .png, .svg or .pdf file, got '{path.suffix}'")
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    highest = 5.0
    for label, curve in curves.items():
        if len(curve) == 0:
            continue
        rank, share = smooth(curve)
        highest = max(highest, share.max())
        (line,) = axes.plot(rank, share, label=f"{label} ({len(curve)} patches)")
        average = 100 * sum(failure for _, failure in curve) / len(curve)
        axes.axhline(average, color=line.get_color(), linestyle="--", linewidth=1)
    axes.set(xlabel="patches ranked by OOD score, %", ylabel="patches with a pixel error, %")
    axes.set(xlim=(0, 100), ylim=(-0.02 * highest, 1.02 * highest))
    if axes.lines:
        axes.legend(title="dashed: average", fontsize="small")
    encoded = io.BytesIO()
    # The same figure gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "robustflow"}):
        when = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        figure.savefig(encoded, format=kind, dpi=150, metadata=when)
    write_atomically(path, encoded.getvalue())
