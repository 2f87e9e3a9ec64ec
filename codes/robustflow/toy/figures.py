"""The toy's pictures (after Hong et al., ICCV 2023, Fig. 2 and 3b)."""

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from robustflow.options.toy import ToyOptions
from robustflow.report.plots import literal
from robustflow.toy.points import WINDOW
from robustflow.toy.run import Given, Trial
from robustflow.toy.summary import name_level

_IN, _OUT = "#2a6fbb", "#c8401e"
# Of inputs y shown side by side: distinct for colour-blind readers, too.
_INPUTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")
_LARGEST = 1e30


def choose_typical(options: ToyOptions, trials: Sequence[Trial], coupling: str) -> Trial:
    """The run of a coupling whose spread at ``sigma_figure`` is the (lower) median."""
    own = [run for run in trials if run.coupling == coupling]
    spreads = [run.levels[options.val.sigma_figure].figures["spread"] for run in own]
    return own[spreads.index(statistics.median_low(spreads))]


def draw_samples(options: ToyOptions, given: Given, trials: Sequence[Trial]) -> Figure:
    """Training data; for each coupling samples in and out of distribution, all in the same window."""
    columns: list[float | None] = [None, *options.val.sigma_ood]
    n_rows, n_columns = len(options.couplings), len(columns) + 1
    figure = Figure(figsize=(2.1 * n_columns, 2.0 * n_rows + 0.5), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for row, coupling in enumerate(options.couplings):
        run = choose_typical(options, trials, coupling)
        _window(grid[row, 0])
        if row == 0:
            _dots(grid[0, 0], given[None].x, "#444444")
            grid[0, 0].set_title("data", fontsize=9)
        else:
            grid[row, 0].set_visible(False)
        for axes, level in zip(grid[row, 1:], columns, strict=True):
            _panel(axes, run, level)
            if row == 0:
                axes.set_title(name_level(level), fontsize=9)
        grid[row, 1].set_ylabel(f"{literal(coupling)}\n(seed {run.seed})", fontsize=9)
    figure.suptitle(
        "In distribution: one sample for each of many inputs. Out of distribution: five inputs, one colour each, "
        "in the same window. Seeds of median spread.",
        fontsize=9,
    )
    return figure


def _panel(axes: Axes, run: Trial, level: float | None) -> None:
    measured = run.levels[level]
    _window(axes)
    if level is None:
        _dots(axes, measured.marginal, _IN)
    else:
        for colour, points in zip(_INPUTS, measured.samples, strict=False):
            _dots(axes, points, colour, size=3)
    figures = measured.figures
    spread, true_spread, outside = figures["spread"], figures["true_spread"], 100 * figures["outside"]
    text = f"spread {spread:.2g}, true {true_spread:.2g}\n{outside:.2g} % outside"
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=6.5)


def _dots(axes: Axes, points: Tensor, colour: str, size: float = 1) -> None:
    inside = points[(points.abs() <= WINDOW).all(-1)]
    axes.scatter(inside[:, 0], inside[:, 1], s=size, color=colour, linewidths=0, rasterized=True)


def _window(axes: Axes) -> None:
    axes.set(xlim=(-WINDOW, WINDOW), ylim=(-WINDOW, WINDOW), aspect="equal")
    axes.set_xticks([-1, 0, 1])
    axes.set_yticks([-1, 0, 1])
    axes.tick_params(labelsize=7)


def draw_layers(options: ToyOptions, trials: Sequence[Trial]) -> Figure:
    """Variance of both coordinates behind each layer, from latent to sample, in and out of distribution."""
    figure = Figure(figsize=(4.2 * len(options.couplings), 4.0), layout="constrained")
    grid = figure.subplots(1, len(options.couplings), sharey=True, squeeze=False)[0]
    ood = options.val.sigma_figure
    for axes, coupling in zip(grid, options.couplings, strict=True):
        shown = choose_typical(options, trials, coupling)
        for run in trials:
            if run.coupling == coupling:
                for level, colour in ((None, _IN), (ood, _OUT)):
                    _variances(axes, run, level, colour, bold=run is shown)
        axes.set_yscale("log")
        names = shown.levels[None].layers
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_title(literal(coupling), fontsize=10)
        axes.grid(axis="y", color="#dddddd", linewidth=0.5)
    grid[0].set_ylabel("variance at fixed y", fontsize=9)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    figure.supxlabel("along sampling: latent → sample. Bold: the seed of median spread; thin: the others.", fontsize=9)
    return figure


def _variances(axes: Axes, run: Trial, level: float | None, colour: str, bold: bool) -> None:
    for k, style in enumerate(("-", "--")):
        label = f"{name_level(level)}, x{'₁₂'[k]}" if bold else None
        values = run.levels[level].variances[:, k].clamp(1 / _LARGEST, _LARGEST)
        width, alpha = (2.0, 1.0) if bold else (0.7, 0.45)
        axes.plot(values, color=colour, linestyle=style, linewidth=width, alpha=alpha, label=label)
