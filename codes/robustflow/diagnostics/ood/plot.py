"""Picture of how failures depend on the out-of-distribution score (Hong et al., ICCV 2023, supplement Fig. S1)."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

_FORMATS = ("png", "svg", "pdf")
_SHARE = 10  # a window holds one in so many patches


def smoothed(curve: Sequence[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Running mean of the failure rate over windows of a tenth of the patches, ranked by score.

    Returns:
        Rank of each window's centre, % of the patches, and the share in it that failed, %.
    """
    failed = np.array([failure for _, failure in sorted(curve, key=lambda point: point[0])], dtype=float)
    n, window = len(failed), max(1, len(failed) // _SHARE)
    sums = np.concatenate([[0.0], failed.cumsum()])
    return 100 * (np.arange(n - window + 1) + window / 2) / n, 100 * (sums[window:] - sums[:-window]) / window


def plot(curves: Mapping[str, Sequence[tuple[float, bool]]], path: str | Path) -> None:
    """Draw P(pixel error) against the rank of the OOD score, a dashed line at each curve's average; write atomically.

    Args:
        curves: By label, (score, failed) of each patch, in any order; empty ones are left out.
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
        rank, share = smoothed(curve)
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
