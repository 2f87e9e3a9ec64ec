"""Plots as inline SVG whose colours follow the page, dark on light or light on dark; and figures as PNG."""

import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

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
}


class Series(NamedTuple):
    """Points of a line; ``labels`` are written beside them."""

    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()


def curves(series: Mapping[str, Series | None], x_label: str, y_label: str, name: str, *, steps: bool = False) -> str:
    """Lines through points, one per entry of ``series``; None keeps an entry's colour but draws nothing.

    Args:
        series: By what they show, named in the page's legend.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis.
        name: Title for readers who do not see the plot.
        steps: The horizontal axis counts: whole numbers only.
    """
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _figure(x_label, y_label)
        for k, one in enumerate(series.values()):
            if one is not None:
                _line(axes, k, one)
        if steps:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure, name, "; ".join(f"{key}: {_told(one)}" for key, one in series.items() if one is not None))


def histogram(edges: Sequence[float], density: Sequence[float], top: float, name: str) -> str:
    """Density of latents between edges, against the standard normal density; the vertical axis ends at ``top``."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _figure("latent z", "density")
        x = np.linspace(-5, 5, 201)
        axes.fill_between(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color=_LINE, linewidth=0)
        axes.stairs(density, edges, color=_colour(0), linewidth=1.5)
        axes.set_ylim(0, top)
        return _svg(figure, name, "Grey area: the standard normal density, the aim.")


def rank(rate: Series, low: Sequence[float], high: Sequence[float], average: float, what: str) -> str:
    """Rates (%) of failed inputs or patches with their intervals against the rank; the average as a dashed line."""
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _figure("rank of the OOD score, %", f"{what} with pixel errors, %", width=4.2)
        y = np.asarray(rate.y)
        spans = np.clip([y - np.asarray(low), np.asarray(high) - y], 0, None)
        axes.errorbar(rate.x, y, spans, color=_colour(0), marker="o", markersize=4, linewidth=1.5, capsize=2)
        axes.axhline(average, color=_INK, linestyle="--", linewidth=1)
        axes.annotate("average", (0, average), (2, 3), textcoords="offset points")
        axes.set_xlim(0, 100)
        axes.set_ylim(-2, 102)
        return _svg(
            figure, f"Rate of {what} with pixel errors against OOD score rank", f"{_told(rate)}; average {average:.3g}"
        )


class LegendEntry(NamedTuple):
    """An entry of the page's legend: marker, number of the colour (from 1), SVG dash array, name."""

    glyph: str
    colour: int
    dash: str
    name: str


def legend(names: Sequence[str]) -> list[LegendEntry]:
    """Keys of the series of those names, in the order they are drawn."""
    return [
        LegendEntry(GLYPHS[k % len(GLYPHS)], k % len(_SERIES) + 1, _DASHES[_dash(k)], name)
        for k, name in enumerate(names)
    ]


def save_png(figure: Figure, path: Path) -> None:
    """Write a picture: the same bytes for the same figure."""
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=120)
    write_atomically(path, encoded.getvalue())


def _figure(x_label: str, y_label: str, width: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, 2.6), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _line(axes: Axes, k: int, one: Series) -> None:
    axes.plot(
        one.x,
        one.y,
        color=_colour(k),
        marker=_MARKERS[k % len(_MARKERS)],
        linestyle=_dash(k),
        markersize=4,
        linewidth=1.5,
        markevery=max(1, len(one.x) // 12),
    )
    for x, y, label in zip(one.x, one.y, one.labels, strict=False):
        axes.annotate(label, (x, y), (3, 3), textcoords="offset points", fontsize=7)


def _colour(k: int) -> str:
    return _SERIES[k % len(_SERIES)]


def _dash(k: int) -> str:
    return list(_DASHES)[k % len(_DASHES)]


def _told(one: Series) -> str:
    return ", ".join(f"{y:.4g} at {x:.4g}" for x, y in zip(one.x, one.y, strict=True))


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
    title, told = (
        f'<title id="{prefix}-t">{escape(name)}</title>',
        f'<desc id="{prefix}-d">{escape(description)}</desc>',
    )
    described = f'role="img" aria-labelledby="{prefix}-t" aria-describedby="{prefix}-d"'
    opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} {described} class="plot">'
    return opening + title + told + body.strip()


def _own_ids(text: str, prefix: str) -> str:
    """Keep only the ids that are referred to, and make them the plot's own: a page holds several plots."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
