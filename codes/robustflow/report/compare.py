"""Compare evaluated models: tables, a gallery and a page of several results folders."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from robustflow.report import gallery, paired, pictures, plots, sections, tables
from robustflow.report.columns import count, overview, say_bars
from robustflow.report.pages import about, figure, heading, limits, render, settings
from robustflow.report.pictures import Part
from robustflow.report.results import LEFT_OUT, Results, names_of, reference, sample_file, worst_row
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically
from robustflow.utils.yaml_tree import show

FORMATS = ("simple", "markdown", "csv", "latex")
# Of a protocol, what has no meaning for a deterministic model.
_OF_SAMPLES = {"heats", "n_sample", "seed", "bits_per_dim", "nll_published", "latents"}
_WORST = "the input shown is the one on which any model fails worst. Magenta: non-finite pixels."
# By whether the mean of the samples is shown, too.
_GALLERY = {
    False: f"Each picture is the model's worst sample, the one furthest from its input. Out of distribution {_WORST}",
    True: f"Of each model scheme 1 and scheme 2. Out of distribution {_WORST}",
}
_PAGE = {
    False: "Of each model the sample furthest from its input. Magenta: non-finite pixels.",
    True: "Of each model both schemes, and the sample with the largest value. Magenta: non-finite pixels.",
}


def check_protocols(runs: Sequence[Results]) -> None:
    """Refuse runs that cannot be compared.

    Raises:
        UserError: naming the keys in which the protocol of a run differs from that of the first.
    """
    first = reference(runs)
    for other in (run for run in runs if run is not first):
        ours, theirs = (_flatten(run.metrics["protocol"]) for run in (first, other))
        # These change no figure that is compared: the preset's name, whether inputs were scored, metrics, such as those
        # of third parties, that one run has and the other lacks; what an earlier version left out has names of its own.
        # How LR-PSNR is described, in other words at times, follows from lr_psnr_reference and the data sets.
        ignored = {"protocol", "ood_fitted", "non_finite", "lr_psnr", *(first.columns.keys() ^ other.columns.keys())}
        ignored |= _OF_SAMPLES if other.protocol.deterministic else set()
        differing = [key for key in {**ours, **theirs} if key not in ignored and ours.get(key) != theirs.get(key)]
        if differing:
            _refuse(first, other, {key: (ours.get(key), theirs.get(key)) for key in differing})
        missing = [name for name in first.metrics["datasets"] if name not in other.metrics["datasets"]]
        if missing:
            raise UserError(f"{other.folder}: expected results on {', '.join(missing)}, found none; run test.py again")


def _refuse(first: Results, other: Results, differing: Mapping[str, tuple[Any, Any]]) -> NoReturn:
    """Raise UserError that says what differs: values, and data sets that one run has alone."""
    ours, theirs = (run.metrics["protocol"]["datasets"] for run in (first, other))
    alone = {name: (first if name in ours else other).folder for name in ours.keys() ^ theirs.keys()}
    parts = [f"data set {dataset} is in {folder} alone" for dataset, folder in sorted(alone.items())]
    parts += [
        f"{key} is {show(one)} and {show(another)}"
        for key, (one, another) in differing.items()
        if not any(key.startswith(f"datasets.{dataset}.") for dataset in alone)
    ]
    raise UserError(
        f"{' and '.join(run.metrics['name'] for run in (first, other))} were evaluated under different protocols: "
        f"{'; '.join(parts)}. Test both with the same options"
    )


def _flatten(protocol: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """By dotted keys; how to get what was not computed, which is worded anew at times, left out."""
    flat: dict[str, Any] = {}
    for key, value in protocol.items():
        if isinstance(value, str) and value.startswith("not computed"):
            value = "not computed"
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def table(runs: Sequence[Results], style: str) -> str:
    """The table of all runs, which are of equal protocol, as text; ``style``: one of ``FORMATS``."""
    reports = [run.metrics for run in runs]
    return tables.write_table(tables.to_frame(reports, names_of(runs)), overview(reports), style)


def write(runs: Sequence[Results], output: Path) -> None:
    """Write summary.md, summary.csv, summary.tex, gallery.png, report.html, and curves.png if there is any curve."""
    plotted = sections.plot_comparison(runs)
    if plotted:
        plots.save_png(plots.grid(plotted), output / "curves.png")
    chosen = gallery.choose(runs, n=4)
    gallery.draw(runs, chosen, output / "gallery.png")
    headers, rows = paired.compare_runs(runs)
    pictured = {"gallery.png": bool(chosen), "curves.png": bool(plotted)}
    write_atomically(output / "summary.md", _markdown(runs, headers, rows, pictured))
    write_atomically(output / "summary.csv", table(runs, "csv"))
    escaped = [[tables.latex(text) for text in row] for row in (headers, *rows)]
    differences = tables.align(escaped[1:], escaped[0], 3, "latex")
    older = "".join(f"\n% {line}" for line in say_older(runs).splitlines())
    write_atomically(output / "summary.tex", f"{table(runs, 'latex')}{older}\n\n{differences}\n")
    write_atomically(output / "report.html", render("compare.html.j2", **content(runs, headers, rows)))


def _markdown(
    runs: Sequence[Results], headers: Sequence[str], rows: Sequence[Sequence[str]], pictured: Mapping[str, bool]
) -> str:
    lr_psnr = reference(runs).metrics["protocol"].get("lr_psnr", "")
    names = names_of(runs)
    blocks = [
        f"# {', '.join(names)}",
        f"Inputs per data set: {'; '.join(facts(runs))}.",
        table(runs, "markdown"),
        runs[0].protocol.notes.format(lr_psnr=lr_psnr) + "\n",
        *filter(None, (say_bars(overview([run.metrics for run in runs])), say_older(runs))),
    ]
    if rows:
        differences = tables.align(rows, headers, 3, "markdown")
        blocks += [f"## Differences to {names[0]}", differences, paired.notes(runs)]
    if pictured["gallery.png"]:
        blocks += ["![gallery](gallery.png)", _GALLERY[runs[0].protocol.averages]]
    if pictured["curves.png"]:
        blocks += ["![curves](curves.png)", sections.NOTE_OF_MODELS]
    return "\n\n".join(blocks) + "\n"


def say_older(runs: Sequence[Results]) -> str:
    """What a reader must know of runs of earlier versions, which left out samples that are not finite; or nothing."""
    older = [name for name, run in zip(names_of(runs), runs, strict=True) if run.left_out]
    if not older:
        return ""
    return (
        f"{', '.join(older)}, of an earlier version: samples that are not finite were {LEFT_OUT}. Test again for them."
    )


def facts(runs: Sequence[Results]) -> list[str]:
    """How many inputs and samples, which seed."""
    first = reference(runs)
    protocol = first.metrics["protocol"]
    counts = {name: str(dataset["n_images"]) for name, dataset in runs[0].metrics["datasets"].items()}
    same = len(set(counts.values())) == 1
    sizes = next(iter(counts.values())) if same else ", ".join(f"{count} of {name}" for name, count in counts.items())
    if first.protocol.deterministic:
        return [sizes, "one image each"]
    fixed = [name for name, run in zip(names_of(runs), runs, strict=True) if run.protocol.deterministic]
    alone = [f"one image each of {', '.join(fixed)}"] if fixed else []
    return [sizes, f"{count(protocol['n_sample'], 'sample')} each", f"seed {protocol['seed']}", *alone]


def content(runs: Sequence[Results], headers: Sequence[str], differences: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What the template shows of several runs; ``headers`` and ``differences``: see `paired.compare_runs`."""
    budget = pictures.Budget()
    described = reference(runs).metrics["protocol"]
    reports, names = [run.metrics for run in runs], names_of(runs)
    columns, frame = overview(reports), tables.to_frame(reports, names)
    best = tables.mark_best(frame, columns)
    sizes, *more = facts(runs)
    merged = {name: _merge(runs, name) for name in runs[0].metrics["datasets"]}
    found = pictures.galleries(merged, runs[0], lambda dataset, image: _parts(runs, dataset, image), budget)
    return {
        "title": ", ".join(names),
        "facts": [f"inputs per data set: {sizes}", *more],
        "headers": [heading(column) for column in columns],
        "rows": [
            (line, [(figure(line, one), best.loc[number, one.key]) for one in columns])
            for number, line in enumerate(frame.to_dict("records"))
        ],
        "paired": [headers, *differences] if differences else [],
        "paired_notes": paired.notes(runs),
        "settings": settings(described),
        "remarks": list(filter(None, (say_bars(columns), say_older(runs)))),
        "caption": _PAGE[runs[0].protocol.averages],
        "sets": [
            {"name": name, "about": about(described, name), "n_images": shown["n_images"], "gallery": shown}
            for name, shown in found.items()
        ],
        "plots": sections.comparison(runs, sections.plot_comparison(runs)),
        "limits": limits(budget),
    }


def _merge(runs: Sequence[Results], dataset: str) -> pd.DataFrame:
    """Rows of the samples of all runs of the images that all have: the worst of any run counts."""
    rows = [run.of_set(dataset) for run in runs]
    common = set.intersection(*(set(one.image) for one in rows))
    return pd.concat([one[one.image.isin(common)] for one in rows], ignore_index=True)


def _parts(runs: Sequence[Results], dataset: str, image: str) -> list[Part]:
    """Input, schemes of each run where the protocol has them, the worst sample of each run, ground truth."""
    place, protocol = runs[0].folder / dataset, runs[0].protocol
    parts: list[Part] = [(place / f"{image}_lr.png", "input", protocol.input, False)]
    named = list(zip(names_of(runs), runs, strict=True))
    if protocol.averages:
        parts += [
            (file, f"{name}, {label}", f"{name}, {caption}", failed)
            for name, run in named
            for file, label, caption, failed in pictures.list_schemes(run, dataset, image)
        ]
    for name, run in named:
        rows = run.of_image(dataset, image)
        rows = rows[rows.averaged.isna()]
        row = worst_row(rows, protocol.extent)
        text = f"{name}, {pictures.describe_row(row, run)}"
        if not run.protocol.deterministic:
            text += f"; {pictures.FURTHEST[protocol.extent]} of {len(rows)} samples"
        parts.append((sample_file(run.folder, row), name, text, row["pixel_errors"] > 0))
    parts.append((place / f"{image}_gt.png", "ground truth", "ground truth", False))
    return [part for part in parts if part[0].is_file()]


def default_output(folders: Sequence[Path]) -> Path:
    """The folder "comparison" in the innermost folder that holds all results."""
    return Path(os.path.commonpath([folder.resolve().parent for folder in folders])) / "comparison"
