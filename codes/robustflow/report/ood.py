"""How failures depend on the out-of-distribution score: files, tables and pictures of `robustflow ood`."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robustflow.evaluation.description import describe_ood_fit
from robustflow.evaluation.records import to_json
from robustflow.report.columns import cell
from robustflow.report.plots import literal
from robustflow.report.tables import align
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

# What is drawn of a patch: its score, and the share of its samples that have a pixel error, %.
Curve = Sequence[tuple[float, float]]

_PUBLISHED = (
    "Published: Hong et al., ICCV 2023, supplement S1.1: 4x, patches of 160 x 160, c = 256, training, Urban100 and "
    "enhanced Urban100; N, estimator and whether in sample are not published, so compare the order, not the sizes."
)
# Without a date: the same figure gives the same file.
_METADATA: dict[str, dict[str, None] | None] = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_SHARE = 10  # a window holds one in so many patches
_COLUMNS = [
    *("dataset", "image", "top", "left", "score", "percentile"),
    *("failed_samples_pct", "failed_pixels_pct", "finite", "max_residual"),
]


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ood.json, ood.csv and ood.png, each atomically."""
    write_atomically(folder / "ood.json", to_json(report))
    rows = [{**one, **dict(zip(("top", "left"), one["position"], strict=True))} for one in report["patches"]]
    text = pd.DataFrame(rows, columns=_COLUMNS).to_csv(index=False, lineterminator="\r\n")
    write_atomically(folder / "ood.csv", text)
    plot(curves_of(report), folder / "ood.png")


def read(folder: Path) -> dict[str, Any]:
    """Read a results folder's ood.json. UserError if there is none, or one that lacks what is drawn of a patch."""
    path = folder / "ood.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{folder}: expected a results folder with ood.json ({error}); run robustflow ood rank"
        ) from error
    patches = report.get("patches") if isinstance(report, dict) else None
    if not isinstance(patches, list) or any("failed_samples_pct" not in each for each in patches):
        raise UserError(
            f"{path}: expected of each patch the share of its samples with a pixel error, got an earlier file, which "
            "says whether any has one, or something else; run robustflow ood rank again"
        )
    return report


def table(report: Mapping[str, Any]) -> str:
    """Table of an ood.json for the screen: a row per data set, the training patches first."""
    training, sets = report["training"], report["datasets"]
    n_quarters = max(len(found["pixel_error_pct_by_quarter"]) for found in sets.values())
    quarters = [f"quarter {k}" for k in range(1, n_quarters + 1)]
    shares = ["%PixelErr", "samples %", "pixels %"]
    headers = ["data set", "patches", "left out %", "mean OOD score", "mean percentile", *shares, *quarters]
    first = ["(training)", str(training["n_patches"]), "", cell(training["mean_score"]), "50"]
    rows = [first + [""] * (len(headers) - len(first))]
    for name, found in sets.items():
        keys = ("dropped_pixels_pct", "mean_score", "mean_percentile")
        failures = ("pixel_error_pct", "failed_samples_pct", "failed_pixels_pct")
        values = [*(found[key] for key in (*keys, *failures)), *found["pixel_error_pct_by_quarter"]]
        rows.append([name, str(found["n_patches"]), *map(cell, values)])
    notes = (
        "%PixelErr: patches with a pixel error in any sample; samples %, pixels %: those with one, mean over patches",
        "quarter k: %PixelErr of the patches of that quarter of the scores, lowest first",
        f"OOD score: {describe_ood_fit(report['protocol']['fitted'])}",
    )
    return "\n".join([align(rows, headers, 1, "simple"), *notes])


def write_means(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write ood_table.md and ood_table.csv, each atomically, and return the table for the screen.

    Args:
        folder: For the files.
        rows: See `diagnostics.ood.distributions.measure`.
    """
    headers = ["distribution", "scored", "mean OOD score", "published", "patches", "N fitted", "covariance", "c"]
    lines = [
        [
            *(row["distribution"], row["scored"], cell(row["mean_score"])),
            "–" if row["published"] is None else str(row["published"]),
            *(str(row["n_scored"]), str(row["n_fitted"])),
            f"shrunk by {row['shrinkage']:.2g}" if row["covariance"] == "shrunk" else row["covariance"],
            str(row["n_features"]),
        ]
        for row in rows
    ]
    note = f"Patches of {rows[0]['patch']} x {rows[0]['patch']} HR pixels; c: features of the encoder. {_PUBLISHED}"
    write_atomically(folder / "ood_table.md", f"{align(lines, headers, 2, 'markdown')}\n\n{note}\n")
    text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\r\n")
    write_atomically(folder / "ood_table.csv", text)
    return f"{align(lines, headers, 2, 'simple')}\n{note}"


def curves_of(report: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """(score, share of failed samples in %) of the patches of an ood.json by data set; of all if there are several."""
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in report["datasets"]}
    for each in report["patches"]:
        curves[each["dataset"]].append((each["score"], each["failed_samples_pct"]))
    together = [point for curve in curves.values() for point in curve]
    return curves if len(curves) == 1 else {**curves, "all": together}


def smooth(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Running mean of the probability of a pixel error over windows of a tenth of the patches, ranked by score.

    Returns:
        Rank of each window's centre, % of the patches, and the mean share of failed samples in it, %.
    """
    shares = rank_by_score(curve)
    n, window = len(shares), max(1, len(shares) // _SHARE)
    means = np.convolve(shares, np.ones(window), "valid") / window
    return 100 * (np.arange(n - window + 1) + window / 2) / n, means


def rank_by_score(curve: Curve) -> np.ndarray:
    """Shares of failed samples, %, of the patches in the order of their scores, lowest first."""
    return np.array([share for _, share in sorted(curve, key=lambda point: point[0])], dtype=float)


def plot(curves: Mapping[str, Curve], path: str | Path) -> None:
    """Draw the probability of a pixel error in a sample against the rank of the OOD score; write atomically.

    A dot per patch, a line for their running mean, a dashed line at each curve's average, as in Hong et al., ICCV 2023,
    supplement Fig. S1.

    Args:
        curves: By label, in any order of the patches; empty ones are left out.
        path: .png, .svg or .pdf file.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _METADATA:
        raise UserError(f"{path}: expected a .png, .svg or .pdf file, got '{path.suffix}'")
    n_rows = (len(curves) + 3) // 2  # of the legend
    figure = Figure(figsize=(6.4, 4.0 + 0.22 * n_rows), layout="constrained")
    axes = figure.add_subplot()
    highest = 5.0
    for label, curve in curves.items():
        if len(curve) == 0:
            continue
        shares = rank_by_score(curve)
        highest = max(highest, shares.max())
        (line,) = axes.plot(*smooth(curve), label=f"{literal(label)} ({len(curve)} patches)")
        ranks = 100 * (np.arange(len(shares)) + 0.5) / len(shares)
        axes.plot(ranks, shares, color=line.get_color(), linestyle="none", marker=".", markersize=3, alpha=0.4)
        axes.axhline(shares.mean(), color=line.get_color(), linestyle="--", linewidth=1)
    axes.set(xlabel="patches ranked by OOD score, %", ylabel="P(pixel error in a sample), %")
    axes.set(xlim=(0, 100), ylim=(-0.02 * highest, 1.02 * highest))
    if axes.lines:
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper center",
            ncols=2,
            frameon=False,
            title="dots: patches; line: running mean; dashed: average",
            fontsize="small",
            title_fontsize="small",
        )
    encoded = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "robustflow"}):
        figure.savefig(encoded, format=kind, dpi=150, metadata=_METADATA[kind])
    write_atomically(path, encoded.getvalue())
