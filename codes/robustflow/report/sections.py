"""The plots of a report: curves over temperature and number of samples, latents, out-of-distribution scores."""

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from robustflow.evaluation import frames
from robustflow.evaluation.description import describe_ood_fit
from robustflow.evaluation.metrics import Column
from robustflow.evaluation.metrics.failures import wilson
from robustflow.report import plots
from robustflow.report.columns import cell, columns_at, count
from robustflow.report.pictures import MAX_IMAGES
from robustflow.report.results import Results, names_of, reference

N_BINS = 10
# Lines, labels of both axes, and what the vertical one shall reach.
Plot = tuple[plots.Lines, str, str, float | None]
_TRADES = {
    key: ("PSNR, dB (distortion)", label)
    for key, label in (("lpips", "LPIPS (perception)"), ("spectral_distance", "spectral distance, dB"))
}
_BETTER = "Better is right and down in plots against PSNR."
NOTE_OF_MODELS = f"One line per model; a horizontal one, or a point: of one that makes one image per input. {_BETTER}"


class Section(NamedTuple):
    """Plots of one kind with a common legend.

    Attributes:
        legend: See `plots.legend`.
        plots: SVG, and what is said below it.
        table: Heading and rows of a table below the plots; none if empty.
    """

    id: str
    title: str
    note: str
    legend: list[tuple[str, int, str, str]]
    plots: list[tuple[str, str]]
    table: Sequence[Sequence[str]] = ()


def sections(results: Results) -> list[Section]:
    """The plots for which a results folder has data."""
    made = (temperature(results), best_of_n(results), latents(results), ood(results))
    return [section for section in made if section is not None]


def temperature(results: Results) -> Section | None:
    """Figures against the temperature, and the perception-distortion curve; None for a single temperature."""
    datasets = results.metrics["datasets"]
    if len(results.heats) < 2:
        return None
    drawn = _draw(plot_temperature(datasets, columns_at(results.metrics, "curves")))
    note = f"One line per data set. {_BETTER}"
    return Section("curves", "Temperature", note, plots.legend(list(datasets)), drawn) if drawn else None


def plot_comparison(runs: Sequence[Results]) -> dict[str, list[Plot]]:
    """The same plots by data set, with a line per model; without any, no data set."""
    columns, names = columns_at(reference(runs).metrics, "curves"), names_of(runs)
    fixed = {name for name, run in zip(names, runs, strict=True) if run.protocol.deterministic}
    found = {
        dataset: plot_temperature(
            {name: run.metrics["datasets"][dataset] for name, run in zip(names, runs, strict=True)}, columns, fixed
        )
        for dataset in reference(runs).metrics["datasets"]
    }
    return {dataset: plotted for dataset, plotted in found.items() if plotted}


def comparison(runs: Sequence[Results], plotted: Mapping[str, Sequence[Plot]]) -> list[Section]:
    """A section for each data set of `plot_comparison`."""
    return [
        Section(
            f"curves-{number}", f"Temperature, {dataset}", NOTE_OF_MODELS, plots.legend(names_of(runs)), _draw(of_set)
        )
        for number, (dataset, of_set) in enumerate(plotted.items(), start=1)
    ]


def plot_temperature(
    series: Mapping[str, Mapping[str, Any]], columns: Sequence[Column], fixed: Collection[str] = ()
) -> list[Plot]:
    """Figures against the temperature, where there are several, and perception against distortion.

    Args:
        series: Data sets of metrics.json, by the name of the line.
        columns: The figures.
        fixed: Names of those of deterministic models.
    """
    found: list[Plot] = []
    several = any(len(dataset["heats"]) > 1 for dataset in series.values())
    for one in columns if several else ():
        drawn = {name: _points(dataset, None, one.key) for name, dataset in series.items()}
        if any(points for name, points in drawn.items() if name not in fixed):
            levels = {name: float(drawn[name][0][1]) for name in fixed if drawn[name]}
            found.append(({**drawn, **levels}, "temperature τ", _label(one), one.bar))
    for key, labels in _TRADES.items():
        trade = {name: _points(dataset, "psnr", key, label=name not in fixed) for name, dataset in series.items()}
        if any(trade.values()):
            found.append((trade, *labels, None))
    return found


def _draw(plotted: Sequence[Plot]) -> list[tuple[str, str]]:
    """SVG of each plot, and what is said below it."""
    drawn = []
    for lines, x_label, y_label, bar in plotted:
        trade = (x_label, y_label) in _TRADES.values()
        title = f"{re.split('[,(]', y_label)[0].strip()} against PSNR" if trade else f"{y_label} against τ"
        caption = "Perception against distortion; the numbers at the points are τ" if trade else ""
        drawn.append((plots.curves(lines, x_label, y_label, title, bar=bar), caption))
    return drawn


def _points(dataset: Mapping[str, Any], x_key: str | None, y_key: str, *, label: bool = True) -> plots.Points:
    """A figure against another, or against the temperature; the finite points; ``label``: with the temperature."""
    points = []
    for heat, values in sorted(dataset["heats"].items(), key=lambda pair: float(pair[0])):
        x = float(heat) if x_key is None else values.get(x_key)
        y = values.get(y_key)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
            points.append((x, y, heat if x_key is not None and label else ""))
    return points


def _label(one: Column) -> str:
    return f"{one.label}, {one.unit}" if one.unit else one.label


def best_of_n(results: Results) -> Section | None:
    """Mean over images of the best of the first n samples, at the highest temperature; None for one sample."""
    heat, names = results.heats[-1], list(results.metrics["datasets"])
    sets = {name: results.of_set(name, heat) for name in names}
    if all(rows["sample"].nunique() < 2 for rows in sets.values()):
        return None
    drawn = []
    for one in columns_at(results.metrics, "best"):
        if one.key not in results.samples:
            continue
        series = {name: _best(rows, one) for name, rows in sets.items()}
        if any(series.values()):
            title = f"Best {_label(one)} of n samples"
            drawn.append((plots.curves(series, "number of samples n", _label(one), title, steps=True, bar=one.bar), ""))
    rule = results.metrics["protocol"]["non_finite"]
    note = f"Mean over inputs of the best of the first n samples, τ = {heat}; those that are not finite are {rule}."
    return Section("best", "Best of n samples", note, plots.legend(names), drawn) if drawn else None


def _best(rows: pd.DataFrame, one: Column) -> plots.Points:
    """The best of n against n; the finite points."""
    values = enumerate(frames.best_of_n(rows, one.key, one.better), start=1)
    return [(n, value, "") for n, value in values if value is not None and math.isfinite(value)]


def latents(results: Results) -> Section | None:
    """Histograms of the latents, a plot per data set; None if there are none."""
    pools = {
        name: _pool([one for (dataset, _), one in results.latents.items() if dataset == name])
        for name in results.metrics["datasets"]
    }
    found = {name: pooled for name, pooled in pools.items() if pooled is not None}
    if not found:
        return None
    top = 1.05 * max(0.4, *(max(density) for _, density, _ in found.values()))
    drawn = [
        (plots.histogram(edges, density, top, f"Latents, {name}"), f"{name}: {text}")
        for name, (edges, density, text) in found.items()
    ]
    note = (
        "Latents of the ground truth given the input. Grey: N(0, 1), which they follow if the model fits. The "
        "outermost bins hold all that lies beyond them."
    )
    return Section("latents", "Latents", note, [], drawn)


def _pool(known: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float], str] | None:
    """Latents of the images of a data set together: edges, densities between them, mean and standard deviation."""
    known = [one for one in known if one["edges"] == known[0]["edges"] and one["mean"] is not None]
    if not known:
        return None
    edges, counts = known[0]["edges"], np.array([one["counts"] for one in known])
    means, stds = (np.array([one[key] for one in known]) for key in ("mean", "std"))
    shares = counts.sum(1) / counts.sum()
    mean = shares @ means
    std = math.sqrt(max(0.0, shares @ (stds**2 + means**2) - mean**2))
    density = counts.sum(0) / counts.sum() / np.diff(edges)
    return edges, density.tolist(), f"mean {cell(float(mean))}, std {cell(std)}, {count(len(known), 'input')}"


def ood(results: Results) -> Section | None:
    """Rate of pixel errors against the rank of the out-of-distribution score; None without scores."""
    images = {name: _scores_of(results.of_set(name)) for name in results.metrics["datasets"]}
    patches: dict[str, list[tuple[float, bool]]] = {}
    for patch in (results.ood or {}).get("patches", []):
        # Earlier results say whether any sample failed, not how many.
        failed = patch["pixel_error"] if "pixel_error" in patch else patch["failed_samples_pct"] > 0
        patches.setdefault(patch["dataset"], []).append((patch["score"], failed))
    drawn, rows = [], []
    of_patches = (results.ood or {}).get("protocol", {}).get("fitted")
    for what, scored, fit in (("inputs", images, results.metrics.get("ood_fit")), ("patches", patches, of_patches)):
        pairs = [pair for of_set in scored.values() for pair in of_set]
        if len(pairs) > 1:
            caption = f"{len(pairs)} {what}, ranked by OOD score: how many have a pixel error in any sample"
            drawn.append((rank_plot(pairs, what), f"{caption}. Score: {describe_ood_fit(fit)}"))
        for name, of_set in scored.items():
            if of_set:
                scores = [score for score, _ in of_set]
                figures = sum(scores) / len(scores), min(scores), max(scores)
                rows.append([name, what, *map(cell, figures), str(len(scores))])
    header = ["data set", "of", "mean score", "lowest", "highest", "number"]
    note = "Groups of equal size by the rank of the score; bars: 95 % Wilson intervals; dashed: average."
    sentences = [*([note] if drawn else []), *_unlike(results.metrics)]
    return Section("ood", "Out of distribution", " ".join(sentences), [], drawn, [header, *rows]) if sentences else None


def _scores_of(rows: pd.DataFrame) -> list[tuple[float, bool]]:
    """OOD score of each image, where there is one, and whether any sample has a pixel error."""
    images = rows.dropna(subset="ood").groupby("image", sort=False)
    return list(zip(images.ood.first(), images.pixel_errors.max() > 0, strict=True))


def _unlike(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence for each data set with inputs unlike the training patches, that lists some; likewise of pale ones."""
    kinds = {"unlike_training": "above 99 %", "less_colour_than_training": "less colour than 99 %"}
    return [
        f"{name}, {how} of the training patches: {_list_scores(of_set)}."
        for key, how in kinds.items()
        for name, of_set in (metrics.get(key) or {}).items()
        if of_set
    ]


def _list_scores(of_set: Mapping[str, float | None]) -> str:
    listed = ", ".join(f"{image} ({cell(score)})" for image, score in itertools.islice(of_set.items(), MAX_IMAGES))
    n_more = len(of_set) - MAX_IMAGES
    return f"{listed} and {n_more} more (metrics.json)" if n_more > 0 else listed


def rank_plot(pairs: Sequence[tuple[float, bool]], what: str) -> str:
    """Plot of (score, failed): groups of equal size by rank, the rate of failures in each, and the average."""
    ranked = [failed for _, failed in sorted(pairs, key=lambda pair: pair[0])]
    n, n_groups = len(ranked), min(N_BINS, len(ranked))
    edges = [k * n // n_groups for k in range(n_groups + 1)]
    points, spans = [], []
    for start, end in itertools.pairwise(edges):
        n_failed = sum(ranked[start:end])
        points.append((50 * (start + end) / n, 100 * n_failed / (end - start), ""))
        spans.append(wilson(n_failed, end - start))
    low, high = zip(*spans, strict=True)
    return plots.rank(points, low, high, 100 * sum(ranked) / n, what)
