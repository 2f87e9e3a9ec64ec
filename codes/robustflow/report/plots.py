"""Plots as inline SVG whose colours follow the page, dark on light or light on dark; and figures as PNG."""

import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robustflow.utils.files import write_atomically

# Placeholders that become the page's colours; no plot uses them otherwise.
_INK, _LINE = "#fe0100", "#fe0101"
_SERIES = [f"#fe00{k:02x}" for k in range(7)]
_COLOURS = {
    _INK: "currentColor",
    _LINE: "var(--line)",
    **{colour: f"var(--series-{k + 1})" for k, colour in enumerate(_SERIES)},
}
# Series differ in marker and dash too, not in colour alone.
_MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
_DASHES = {"-": "", "--": "6 3", "-.": "6 2 1 2", ":": "1 2"}
GLYPHS = "●■▲◆▼✚✖"
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "robustflow",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 5),
}


# Of a line: x, y, and what is written beside it.
Points = Sequence[tuple[float, float, str]]
# A number: a horizontal line, of what has one value wherever.
Lines = Mapping[str, Points | float]


def curves(
    lines: Lines, x_label: str, y_label: str, name: str, *, steps: bool = False, bar: float | None = None
) -> str:
    """Lines through points; one without any keeps its colour but is not drawn.

    Args:
        lines: By what they show, named in the page's legend.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis.
        name: Title for readers who do not see the plot.
        steps: The horizontal axis counts: whole numbers only.
        bar: What the vertical axis shall reach, a dashed line; None: nothing.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _figure(x_label, y_label)
        for k, line in enumerate(lines.values()):
            _draw_line(axes, k, line, _colour(k))
        _draw_bar(axes, bar)
        if steps:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn = {key: line for key, line in lines.items() if isinstance(line, float) or line}
        return _svg(figure, name, "; ".join(f"{key}: {_list(line)}" for key, line in drawn.items()))


def histogram(edges: Sequence[float], density: Sequence[float], top: float, name: str) -> str:
    """Density of latents between edges, against the standard normal density; the vertical axis ends at ``top``."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _figure("latent z", "density")
        x = np.linspace(-5, 5, 201)
        axes.fill_between(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color=_LINE, linewidth=0)
        axes.stairs(density, edges, color=_colour(0), linewidth=1.5)
        axes.set_ylim(0, top)
        return _svg(figure, name, "Grey area: the standard normal density, the aim.")


def rank(points: Points, low: Sequence[float], high: Sequence[float], average: float, what: str) -> str:
    """Rates (%) of failed inputs or patches with their intervals against the rank; the average as a dashed line."""
    x, y, _ = zip(*points, strict=True)
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _figure("rank of the OOD score, %", f"{what} with pixel errors, %", width=4.2)
        spans = np.clip([np.subtract(y, low), np.subtract(high, y)], 0, None)
        axes.errorbar(x, y, spans, color=_colour(0), marker="o", markersize=4, linewidth=1.5, capsize=2)
        axes.axhline(average, color=_INK, linestyle="--", linewidth=1)
        axes.annotate("average", (0, average), (2, 3), textcoords="offset points")
        axes.set_xlim(0, 100)
        axes.set_ylim(-2, 102)
        name = f"Rate of {what} with pixel errors against OOD score rank"
        return _svg(figure, name, f"{_list(points)}; average {average:.3g}")


def grid(rows: Mapping[str, Sequence[tuple[Lines, str, str, float | None]]]) -> Figure:
    """Plots of the same lines as one picture: a row under its title, each plot with labels of both axes and its bar."""
    n_columns = max(map(len, rows.values()))
    figure = Figure(figsize=(3.4 * n_columns, 2.8 * len(rows) + 0.4), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (title, plotted) in zip(parts, rows.items(), strict=True):
        part.suptitle(literal(title))
        for number, (lines, x_label, y_label, bar) in enumerate(plotted, start=1):
            axes = part.add_subplot(1, n_columns, number, xlabel=x_label, ylabel=y_label)
            for k, (name, line) in enumerate(lines.items()):
                _draw_line(axes, k, line, f"C{k}", literal(name))
            _draw_bar(axes, bar)
            axes.grid(alpha=0.3)
    # Above all of them: within a plot it would hide what many lines show.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2 * n_columns)
    return figure


def legend(names: Sequence[str]) -> list[tuple[str, int, str, str]]:
    """For lines of those names, as drawn: marker, number of the colour (from 1), SVG dash array, name."""
    return [(GLYPHS[k % len(GLYPHS)], k % len(_SERIES) + 1, _DASHES[_dash(k)], name) for k, name in enumerate(names)]


def literal(name: str) -> str:
    """A name for a figure, where "$" would begin a formula, and "_" what legends leave out."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def save_png(figure: Figure, path: Path) -> None:
    """Write a picture: the same bytes for the same figure."""
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=120)
    write_atomically(path, encoded.getvalue())


def _figure(x_label: str, y_label: str, width: float = 3.6) -> tuple[Figure, Axes]:
    # Room for numbers of five digits, and for a power above: to measure texts would take longer than to draw all.
    figure = Figure(figsize=(width, 2.6))
    figure.subplots_adjust(0.72 / width, 0.45 / 2.6, 1 - 0.1 / width, 1 - 0.2 / 2.6)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _draw_bar(axes: Axes, bar: float | None) -> None:
    """A dashed line that the vertical axis shall reach, with its number."""
    if bar is not None:
        axes.axhline(bar, color=_INK, linestyle="--", linewidth=1)
        axes.annotate(f"{bar:g}", (0, bar), (2, 3), xycoords=("axes fraction", "data"), textcoords="offset points")


def _draw_line(axes: Axes, k: int, line: Points | float, colour: str, label: str = "") -> None:
    """Draw line number k; one without points is not drawn."""
    if isinstance(line, float):
        axes.axhline(line, color=colour, linestyle=_dash(k), linewidth=1.5, label=label)
        return
    x, y, _ = zip(*line, strict=True) if line else ((), (), ())
    axes.plot(
        x,
        y,
        color=colour,
        label=label,
        marker=_MARKERS[k % len(_MARKERS)],
        linestyle=_dash(k),
        markersize=4,
        linewidth=1.5,
        markevery=max(1, len(x) // 12),
    )
    for x_point, y_point, text in line:
        if text:
            axes.annotate(text, (x_point, y_point), (3, 3), textcoords="offset points", fontsize=7)


def _colour(k: int) -> str:
    return _SERIES[k % len(_SERIES)]


def _dash(k: int) -> str:
    return list(_DASHES)[k % len(_DASHES)]


def _list(line: Points | float) -> str:
    return f"{line:.4g} throughout" if isinstance(line, float) else ", ".join(f"{y:.4g} at {x:.4g}" for x, y, _ in line)


def _svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an <svg> element: the same bytes for the same figure, no fixed size, placeholders replaced."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    prefix = f"p{zlib.crc32((name + description).encode()):x}"
    body = _own_ids(text[text.index(">") + 1 :], prefix)
    for placeholder, colour in _COLOURS.items():
        body = body.replace(placeholder, colour)
    labels = f'role="img" aria-labelledby="{prefix}-t" aria-describedby="{prefix}-d"'
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} {labels} class="plot">'
        f'<title id="{prefix}-t">{escape(name)}</title><desc id="{prefix}-d">{escape(description)}</desc>{body.strip()}'
    )


def _own_ids(text: str, prefix: str) -> str:
    """Keep only the ids that are referred to, and make them the plot's own: a page holds several plots."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
