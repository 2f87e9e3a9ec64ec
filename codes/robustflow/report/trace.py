"""Layer trace and slope audit of a model as files: trace.json, trace.md, trace.png, growth.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustflow.evaluation.records import to_json
from robustflow.report import plots
from robustflow.report.tables import align
from robustflow.utils.files import write_atomically

_RANGE = (1e-20, 1e20)  # beyond it, values are drawn at its ends
_STEEPEST = 20  # log10, likewise
_REFERENCE = "#444444"
# Told apart by colour-blind readers, too; line styles differ as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a")
_STYLES = ("-", "--", "-.", ":")


def write(folder: Path, report: Mapping[str, Any]) -> str:
    """Write all files of the content of a trace.json to a folder, each atomically; return trace.md."""
    text = _describe(report)
    write_atomically(folder / "trace.json", to_json(report))
    write_atomically(folder / "trace.md", text)
    plots.save_png(_draw_traces(report), folder / "trace.png")
    plots.save_png(_draw_growths(report), folder / "growth.png")
    return text


def _describe(report: Mapping[str, Any]) -> str:
    sets = report["datasets"]
    lines = [f"# Layers of {report['name']} along sampling, τ = {report['temperature']:g}", ""]
    lines += [f"- {entry['sentence']}" for entry in sets.values()]
    lines += [
        "",
        f"A layer explodes if an activation behind it is more than {report['exploded_above']:g} times the largest one "
        f"of '{report['reference']}', or not finite.",
        "",
        "## What every data set did",
        "",
        _table(sets),
        "",
        "- ratio: largest |activation| over that of the reference behind the same layer, over all layers.",
        "- growth: by how much sampling lengthened a random small difference of latents, the parameters of all "
        "elementwise maps held; over samples.",
        "",
        "## Which parts stretch",
        "",
        "log₁₀ of the growth in all layers of a kind, median over samples (largest); of the steepest inverse slope.",
        "",
        _kinds_table(sets),
        "",
        "## What it can do in the worst case",
        "",
        *(f"- {sentence}" for sentence in report["bound"]["sentences"]),
        "",
    ]
    return "\n".join(lines)


def _table(sets: Mapping[str, Any]) -> str:
    rows = {
        name: {
            "inputs exploding": f"{entry['exploding_images']} of {entry['n_images']}",
            "first layer": entry["first_exploding_layer"] or "–",
            "ratio": f"{entry['largest_ratio']:.3g}",
            "largest activation": f"{max(entry['max_abs']):.3g}",
            "log₁₀ growth, median": _shorten(entry["total_log10_growth_median"]),
            "largest": _shorten(entry["total_log10_growth_max"]),
        }
        for name, entry in sets.items()
    }
    return _align(rows)


def _kinds_table(sets: Mapping[str, Any]) -> str:
    rows = {
        name: {
            kind: f"{_shorten(of['log10_growth_median'])} ({_shorten(of['log10_growth_max'])}); "
            f"{_shorten(of['log10_inverse_slope_max'])}"
            for kind, of in entry["by_kind"].items()
        }
        for name, entry in sets.items()
    }
    return _align(rows)


def _align(rows: Mapping[str, Mapping[str, str]]) -> str:
    headers = ["data set", *next(iter(rows.values()))]
    return align([[name, *row.values()] for name, row in rows.items()], headers, len(headers), "markdown")


def _shorten(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 1000 else f"{value:.3g}"
    return text.removeprefix("-") if float(text) == 0 else text


def _draw_traces(report: Mapping[str, Any]) -> Figure:
    """Largest |activation|, variance and smallest slope behind each layer, from latent to data, per data set.

    After Hong et al., ICCV 2023, Fig. 3b.
    """
    panels = (
        ("max_abs", "largest |activation|"),
        ("variance", "variance"),
        ("smallest_slope", "smallest slope dz/dx"),
    )
    names = [layer["name"] for layer in report["layers"]]
    figure = Figure(figsize=(11, 9), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(len(panels), 1, sharex=True), panels, strict=True):
        lowest, highest = 1.0, 1.0
        for k, (name, entry) in enumerate(report["datasets"].items()):
            values = np.clip(np.array(entry[key], dtype=float), *_RANGE)
            lowest, highest = min(lowest, values.min()), max(highest, values.max())
            _line(axes, values, k, name, name == report["reference"])
            first = entry["first_exploding_layer"]
            if key != "smallest_slope" and first is not None:
                index, colour = names.index(first), _COLOURS[k % len(_COLOURS)]
                axes.plot(index, values[index], "x", color=colour, markersize=8, markeredgewidth=2)
        axes.set_yscale("log")
        axes.set_ylim(lowest / 2, highest * 2)
        axes.set_ylabel(label)
        _levels(axes, names)
    return _finish(figure, report, "cross: first layer that explodes")


def _draw_growths(report: Mapping[str, Any]) -> Figure:
    """log₁₀ growth of a perturbation up to each layer, median and largest over samples, and the bound."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, key, label in (
        (upper, "log10_growth_median", "growth so far, log₁₀,\nsum of the layers' medians"),
        (lower, "log10_growth_max", "growth in one layer, log₁₀,\nlargest over samples"),
    ):
        for k, (name, entry) in enumerate(report["datasets"].items()):
            values = np.clip(np.array(entry[key], dtype=float), -_STEEPEST, _STEEPEST)
            if axes is upper:
                values = values.cumsum()
            _line(axes, values, k, name, name == report["reference"])
        axes.set_ylabel(label)
        axes.axhline(0, color="#bbbbbb", linewidth=0.8)
        _levels(axes, [layer["name"] for layer in report["layers"]])
    return _finish(figure, report, "a random small difference of latents, parameters of elementwise maps held")


def _line(axes: Axes, values: np.ndarray, k: int, name: str, is_reference: bool) -> None:
    colour = _REFERENCE if is_reference else _COLOURS[k % len(_COLOURS)]
    width = 2.2 if is_reference else 1.2
    axes.plot(values, color=colour, linestyle=_STYLES[k % len(_STYLES)], linewidth=width, label=plots.literal(name))


def _levels(axes: Axes, names: Sequence[str]) -> None:
    """A line where a level begins; names of single layers where there is room."""
    levels = [" ".join(name.split()[:2]) for name in names]
    for index, name in enumerate(levels):
        if index > 0 and levels[index - 1] != name:
            axes.axvline(index - 0.5, color="#999999", linewidth=0.8)
    if len(names) <= 80:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
    else:
        starts = [index for index, name in enumerate(levels) if index == 0 or levels[index - 1] != name]
        axes.set_xticks(starts, [levels[index] for index in starts])
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)


def _finish(figure: Figure, report: Mapping[str, Any], what: str) -> Figure:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    figure.supxlabel(f"{plots.literal(report['name'])}, along sampling: latent → image; {what}", fontsize=9)
    return figure
