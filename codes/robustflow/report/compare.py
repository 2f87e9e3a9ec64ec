"""Compare evaluated models: `python -m robustflow.evaluation.compare RESULTS... [--output DIR]`."""

import csv
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robustflow.evaluation.records import heat_key
from robustflow.options.arguments import Parser
from robustflow.report import gallery, paired, pictures
from robustflow.report.columns import DENSITY, cell, column, fidelity, lines, overview, same_size, shown
from robustflow.report.pages import about, figure, heading, limits, render, settings
from robustflow.report.pictures import Part
from robustflow.report.results import ImageResult, Results, names_of, read, sample_file
from robustflow.report.tables import aligned, footnotes
from robustflow.utils import exit_status, paths
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)

FORMATS = ("simple", "markdown", "csv", "latex")
NOTES = """\
- Bold: best of its data set and temperature.
- %Inf: inputs with a non-finite pixel in any sample. %PixelErr: inputs (image) or pixels (pixel) outside [-0.5, 1.5].
- max residual: largest |sample − bicubic upsampling of the input|; images are in [0, 1].
- LR-PSNR, dB: mean over inputs of the minimum and the standard deviation over the finite samples; {lr_psnr}.
- bits/dim: of the unaltered ground truth given the input, altered or not; −log₂ p/(3HW), images in [0, 1]:
  {density}.
"""
NOTES_SAME_SIZE = """\
- Bold: best of its data set and temperature. τ = 0: scheme 1; mean of n: scheme 2, the mean of n samples as one image.
- %Inf: inputs with a non-finite pixel in any sample, or in the mean. %PixelErr: inputs (image) or pixels (pixel)
  outside [-0.5, 1.5]. max |value|: of all samples; images are in [0, 1].
- PSNR in dB, SSIM: means over the finite samples, of RGB; grey: of 0.299 R + 0.587 G + 0.114 B. GT-mean: of the output
  times the mean grey of the ground truth over its own.
- bits/dim: of the ground truth given the input, altered or not; −log₂ p/(3HW), images in [0, 1]:
  {density}.
"""
_PICTURES_SAME_SIZE = (
    "Of each model scheme 1 and scheme 2. Out of distribution the input shown is the one on which any model fails "
    "worst. Magenta: non-finite pixels."
)
_PICTURES = (
    "Each picture is the model's worst sample, the one furthest from its input. Out of distribution the input shown is "
    "the one on which any model fails worst. Magenta: non-finite pixels."
)
_TOLD = "Of each model the sample furthest from its input. Magenta: non-finite pixels."
_TOLD_SAME_SIZE = "Of each model both schemes, and the sample with the largest value. Magenta: non-finite pixels."
_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
    "Δ": r"$\Delta$",
    "|": r"\textbar{}",
}


class Line(NamedTuple):
    """A row of the comparison: a run on a data set at a temperature; which of its values are the best."""

    dataset: str
    heat: str
    model: str
    values: dict[str, Any]
    best: frozenset[str]


def check_protocols(runs: Sequence[Results]) -> None:
    """Refuse runs that cannot be compared.

    Raises:
        UserError: naming the keys in which the protocol of a run differs from that of the first.
    """
    for other in runs[1:]:
        ours, theirs = (_flat(run.metrics["protocol"]) for run in (runs[0], other))
        # Neither changes a figure that is compared: the preset's name, and whether inputs were scored.
        both = {**ours, **theirs}.keys() - {"protocol", "ood_fitted"}
        differing = [key for key in {**ours, **theirs} if key in both and ours.get(key) != theirs.get(key)]
        if differing:
            names = f"{runs[0].metrics['name']} and {other.metrics['name']}"
            raise UserError(
                f"{names} were evaluated under different protocols: {', '.join(differing)} differ; "
                "test both with the same options"
            )
        missing = [name for name in runs[0].metrics["datasets"] if name not in other.metrics["datasets"]]
        if missing:
            raise UserError(f"{other.folder}: expected results on {', '.join(missing)}, found none; run test.py again")


def _flat(protocol: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in protocol.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def lines_of(runs: Sequence[Results], keys: Sequence[str]) -> list[Line]:
    """One line per data set, temperature and run, in this order."""
    found = []
    for dataset, of_first in runs[0].metrics["datasets"].items():
        for heat in lines(of_first):
            values = [lines(run.metrics["datasets"][dataset]).get(heat, {}) for run in runs]
            best = {key: _best([one.get(key) for one in values], column(key).better) for key in keys}
            found += [
                Line(dataset, heat, name, one, frozenset(key for key in keys if k in best[key]))
                for k, (name, one) in enumerate(zip(names_of(runs), values, strict=True))
            ]
    return found


def _keys(runs: Sequence[Results]) -> list[str]:
    first = runs[0].metrics
    return shown([run.metrics for run in runs], (*overview(first), *fidelity(first)))


def _best(values: Sequence[float | None], better: str | None) -> set[int]:
    """Which are best, as printed; none if all are equal, or if there is nothing to compare."""
    known = [value for value in values if value is not None]
    if better is None or len({cell(value) for value in known}) < 2:
        return set()
    best = cell((min if better == "low" else max)(known))
    return {k for k, value in enumerate(values) if value is not None and cell(value) == best}


def table(runs: Sequence[Results], style: str) -> str:
    """The table of all runs as text.

    Args:
        runs: Of equal protocol.
        style: One of ``FORMATS``.
    """
    keys = _keys(runs)
    found = lines_of(runs, keys)
    if style == "csv":
        return _csv(found, keys)
    headers = ["data set", "τ", "model", *(column(key).label for key in keys)]
    bold: dict[str, Callable[[str], str]] = {"markdown": "**{}**".format, "latex": r"\textbf{{{}}}".format}
    escape = latex if style == "latex" else str
    rows = [
        [
            *map(escape, (line.dataset, line.heat, line.model)),
            *(_cell(line, key, escape, bold.get(style, str)) for key in keys),
        ]
        for line in found
    ]
    return _text_table(rows, [escape(header) for header in headers], style)


def _cell(line: Line, key: str, escape: Callable[[str], str], bold: Callable[[str], str]) -> str:
    text = escape(cell(line.values.get(key)))
    return bold(text) if key in line.best else text


def _text_table(rows: Sequence[Sequence[str]], headers: Sequence[str], style: str) -> str:
    return aligned(rows, headers, 3, {"markdown": "github", "latex": "latex_raw"}.get(style, style))


def _csv(found: Sequence[Line], keys: Sequence[str]) -> str:
    """Every digit; intervals beside their figures."""
    intervals = {key: f"{key.removesuffix('_pct')}_ci" for key in keys}
    intervals = {key: ci for key, ci in intervals.items() if any(ci in line.values for line in found)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = {key: [f"{key}_low", f"{key}_high"] if key in intervals else [] for key in keys}
    writer.writerow(["dataset", "heat", "model", *(name for key in keys for name in (key, *ends[key]))])
    for line in found:
        values: list[Any] = [line.dataset, line.heat, line.model]
        for key in keys:
            values += [line.values.get(key), *(line.values[intervals[key]] if key in intervals else [])]
        writer.writerow(values)
    return text.getvalue()


def latex(text: str) -> str:
    """Text as LaTeX source."""
    return r"$\infty$" if text == "inf" else "".join(_LATEX.get(character, character) for character in text)


def write(runs: Sequence[Results], output: Path) -> None:
    """Write summary.md, summary.csv, summary.tex, gallery.png and report.html."""
    folders, names = [run.folder for run in runs], names_of(runs)
    chosen = gallery.choose(folders, next(iter(runs[0].metrics["datasets"])), n=4)
    if same_size(runs[0].metrics):
        chosen, names = gallery.schemes(runs, chosen)
    gallery.draw(folders, names, chosen, output / "gallery.png")
    write_atomically(output / "summary.md", _markdown(runs, chosen).encode())
    write_atomically(output / "summary.csv", table(runs, "csv").encode())
    headers, rows = paired.rows_of(runs)
    differences = _text_table([[latex(t) for t in row] for row in rows], [latex(t) for t in headers], "latex")
    write_atomically(output / "summary.tex", f"{table(runs, 'latex')}\n\n{differences}\n".encode())
    write_atomically(output / "report.html", render("compare.html.j2", **content(runs)).encode())


def _markdown(runs: Sequence[Results], chosen: Sequence[gallery.Shown]) -> str:
    headers, rows = paired.rows_of(runs)
    blocks = [
        f"# {', '.join(names_of(runs))}",
        f"Inputs per data set: {'; '.join(facts(runs))}.",
        table(runs, "markdown"),
        _notes(runs[0].metrics),
    ]
    if rows:
        table_of_differences = _text_table(rows, headers, "markdown")
        blocks += [f"## Differences to {names_of(runs)[0]}", table_of_differences, paired.notes(runs)]
    if chosen:
        told = _PICTURES_SAME_SIZE if same_size(runs[0].metrics) else _PICTURES
        blocks += ["![gallery](gallery.png)", told]
    return "\n\n".join(blocks) + "\n"


def _notes(report: Mapping[str, Any]) -> str:
    notes, lr_psnr = (NOTES_SAME_SIZE, "") if same_size(report) else (NOTES, report["protocol"]["lr_psnr"])
    return notes.format(lr_psnr=lr_psnr, density=DENSITY)


def facts(runs: Sequence[Results]) -> list[str]:
    """How many inputs and samples, which seed."""
    protocol = runs[0].metrics["protocol"]
    counts = {name: str(dataset["n_images"]) for name, dataset in runs[0].metrics["datasets"].items()}
    same = len(set(counts.values())) == 1
    sizes = next(iter(counts.values())) if same else ", ".join(f"{count} of {name}" for name, count in counts.items())
    return [sizes, f"{protocol['n_sample']} samples each", f"seed {protocol['seed']}"]


def content(runs: Sequence[Results]) -> dict[str, Any]:
    """What the template shows of several runs."""
    budget = pictures.Budget()
    protocol = runs[0].metrics["protocol"]
    keys = _keys(runs)
    merged = {name: _merged(runs, name) for name in runs[0].metrics["datasets"]}
    found = pictures.galleries(merged, lambda image: _parts(runs, image), budget)
    headers, rows = paired.rows_of(runs)
    return {
        "title": ", ".join(names_of(runs)),
        "facts": [f"inputs per data set: {facts(runs)[0]}", *facts(runs)[1:]],
        "headers": [heading(key) for key in keys],
        "rows": [
            (line, [(figure(line.values, key), key in line.best) for key in keys]) for line in lines_of(runs, keys)
        ],
        "paired": [headers, *rows] if rows else [],
        "paired_notes": paired.notes(runs),
        "settings": settings(protocol),
        "told": _TOLD_SAME_SIZE if same_size(runs[0].metrics) else _TOLD,
        "sets": [
            {"name": name, "about": about(protocol, name), "n_images": len(merged[name]), "gallery": found[name]}
            for name in merged
        ],
        "limits": limits(budget),
    }


def _merged(runs: Sequence[Results], dataset: str) -> list[ImageResult]:
    """The images that all runs have, each with the rows of all runs: the worst of any run counts."""
    by_run = [{image.image: image for image in run.images.get(dataset, ())} for run in runs]
    common = [name for name in by_run[0] if all(name in images for images in by_run)]
    rows = {name: tuple(row for images in by_run for row in images[name].rows) for name in common}
    return [ImageResult(dataset, name, rows[name], ood=by_run[0][name].ood) for name in common]


def _schemes(runs: Sequence[Results], image: ImageResult) -> list[Part]:
    """Of each run what `pictures.parts_of_enhanced` shows of its schemes."""
    found = []
    for name, run in zip(names_of(runs), runs, strict=True):
        own = next(one for one in run.images[image.dataset] if one.image == image.image)
        parts = pictures.parts_of_enhanced(run.folder, own, run.heats)
        found += [
            part._replace(label=f"{name}, {part.label}", caption=f"{name}, {part.caption}")
            for part in parts
            if part.label.startswith("scheme")
        ]
    return found


def _parts(runs: Sequence[Results], image: ImageResult) -> list[Part]:
    """Input, the worst sample of each run, ground truth."""
    place = runs[0].folder / image.dataset
    text = "input" if image.same_size else "low-resolution input"
    parts = [Part(place / f"{image.image}_lr.png", "input", text)]
    if image.same_size:
        parts += _schemes(runs, image)
    for name, run in zip(names_of(runs), runs, strict=True):
        own = next(one for one in run.images[image.dataset] if one.image == image.image)
        row = pictures.worst_row(own)
        file = sample_file(run.folder, image.dataset, image.image, heat_key(row["heat"]), row["sample"])
        which = "with the largest value" if image.same_size else "the furthest from the input"
        text = f"{name}, {pictures.facts_of(row)}; {which} of {len(own.rows)} samples"
        parts.append(Part(file, name, text, failed=row["pixel_errors"] > 0))
    parts.append(Part(place / f"{image.image}_gt.png", "ground truth", "ground truth"))
    return [part for part in parts if part.file.is_file()]


def default_output(folders: Sequence[Path]) -> Path:
    """The folder "comparison" in the innermost folder that holds all results."""
    return Path(os.path.commonpath([folder.resolve().parent for folder in folders])) / "comparison"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare results folders: print a table and write the files; return the exit status."""
    parser = Parser(prog="python -m robustflow.evaluation.compare", description=__doc__)
    parser.add_argument(
        "results", nargs="+", type=paths.of_flag, help="results folders, one per model, written by test.py"
    )
    parser.add_argument(
        "--output",
        type=paths.of_flag,
        help="folder for summary.md, summary.csv, summary.tex, gallery.png, report.html; default: comparison, beside "
        "the results",
    )
    parser.add_argument("--format", choices=FORMATS, default="simple", help="of the table on the screen")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        output = default_output(chosen.results) if chosen.output is None else chosen.output
        if output.resolve() in [folder.resolve() for folder in chosen.results]:
            raise UserError(f"--output {output}: expected a folder apart from the results, whose report stays")
        runs = [read(folder) for folder in chosen.results]
        check_protocols(runs)
        text = table(runs, chosen.format)
        write(runs, output)
        print(text.rstrip("\n"))  # noqa: T201
        log.info("%s\nreport: %s", footnotes([run.metrics for run in runs]), output / "report.html")

    return exit_status.answered(work)
