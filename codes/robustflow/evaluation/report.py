"""Tables of evaluated models; `python -m robustflow.evaluation.report RESULTS... --output DIR` compares several."""

import argparse
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from robustflow.errors import UserError
from robustflow.evaluation import gallery
from robustflow.files import write_atomically

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
NOTES = """\
- %Inf: inputs with a non-finite pixel in any sample. %PixelErr: inputs (image) or pixels (pixel) outside [-0.5, 1.5].
- max residual: largest |sample − bicubic upsampling of the input|; images are in [0, 1].
- LR-PSNR, dB: mean over inputs of the minimum and the standard deviation over the finite samples; against the
  downsampled ground truth, or the input itself where noise, gain or inversion altered it.
- bits/dim: of the unaltered ground truth given the input, altered or not; −log₂ p/(3HW), images in [0, 1].
"""


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


def _aligned(rows: list[list[str]], headers: list[str], n_texts: int, style: str) -> str:
    """Table whose first columns are texts and whose others are numbers, aligned right."""
    alignment = ["left"] * n_texts + ["right"] * (len(headers) - n_texts)
    return tabulate(rows, headers, style, disable_numparse=True, colalign=alignment)


def table(report: Mapping[str, Any]) -> str:
    """Table of one model for the screen."""
    columns = {**COLUMNS, **FIDELITY}
    return _aligned(rows_of(report, list(columns)), ["data set", "τ", *columns.values()], 1, "simple")


def read(folder: Path) -> dict[str, Any]:
    """Read a results folder's metrics.json."""
    try:
        report: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder}: expected a results folder with metrics.json ({error}); run test.py first"
        ) from error
    return report


def compare(reports: Sequence[Mapping[str, Any]], style: str) -> str:
    """One table of several models: rows model × data set. UserError if their protocols differ."""
    for other in reports[1:]:
        ours, theirs = reports[0]["protocol"], other["protocol"]
        differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if differing:
            names = f"{reports[0]['name']} and {other['name']}"
            raise UserError(f"{names} were evaluated under different protocols: {', '.join(differing)} differ")
    rows = [[_label(report), *row] for report in reports for row in rows_of(report, list(COLUMNS))]
    return _aligned(rows, ["model", "data set", "τ", *COLUMNS.values()], 2, style)


def _label(report: Mapping[str, Any]) -> str:
    return str(report["name"]).rsplit("/", 1)[-1]


def _summary(reports: Sequence[Mapping[str, Any]], shown: Sequence[gallery.Shown]) -> str:
    protocol = reports[0]["protocol"]
    counts = {name: str(dataset["n_images"]) for name, dataset in reports[0]["datasets"].items()}
    same = len(set(counts.values())) == 1
    sizes = next(iter(counts.values())) if same else ", ".join(f"{count} of {name}" for name, count in counts.items())
    lines = [
        f"# {', '.join(_label(report) for report in reports)}",
        f"Inputs per data set: {sizes}; {protocol['n_sample']} samples each, seed {protocol['seed']}.",
        compare(reports, "github"),
        NOTES,
        "![gallery](gallery.png)" if shown else "",
        "Each picture is the model's worst sample, the one furthest from its input. Out of distribution the input shown"
        " is the one on which any model fails worst. Magenta: non-finite pixels."
        if shown
        else "",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare results folders: print a table, write summary.md and gallery.png; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m robustflow.evaluation.report", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, help="results folders, one per model, written by test.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for summary.md and gallery.png")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        reports = [read(folder) for folder in chosen.results]
        text = compare(reports, "simple")
        shown = gallery.choose(chosen.results, next(iter(reports[0]["datasets"])), n=4)
    except UserError as error:
        logging.getLogger(__name__).error("error: %s", str(error))
        return 1
    gallery.draw(chosen.results, [_label(report) for report in reports], shown, chosen.output / "gallery.png")
    write_atomically(chosen.output / "summary.md", _summary(reports, shown).encode())
    print(text)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
