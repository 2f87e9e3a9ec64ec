"""The plots of a report: curves over temperature and number of samples, latents, out-of-distribution scores."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from robustflow.evaluation.metrics.intervals import wilson
from robustflow.report import plots
from robustflow.report.columns import cell, column
from robustflow.report.plots import Series
from robustflow.report.results import ImageResult, Results

AGAINST_TEMPERATURE = ("psnr", "psnr_gtmean", "ssim", "lpips", "lr_psnr_mean", "diversity_sigma", "pixel_error_pct")
BEST_OF_N: dict[str, Callable[..., float]] = {"psnr": max, "ssim": max, "lpips": min, "lr_psnr": max}
_LABELS = {
    "psnr": "PSNR, dB",
    "psnr_gtmean": "PSNR GT-mean, dB",
    "lr_psnr": "LR-PSNR, dB",
    "lr_psnr_mean": "LR-PSNR mean, dB",
}
N_BINS = 10


class Plot(NamedTuple):
    """A plot and what is said below it."""

    svg: str
    caption: str = ""


class Section(NamedTuple):
    """Plots of one kind with a common legend.

    Attributes:
        table: Heading and rows of a table below the plots; none if empty.
    """

    id: str
    title: str
    note: str
    keys: list[plots.Key]
    plots: list[Plot]
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
    drawn = []
    for key in AGAINST_TEMPERATURE:
        series = {name: _points(dataset, None, key) for name, dataset in datasets.items()}
        if any(one is not None for one in series.values()):
            label = _LABELS.get(key, column(key).label)
            drawn.append(Plot(plots.curves(series, "temperature τ", label, f"{label} against τ")))
    trade = {name: _points(dataset, "psnr", "lpips") for name, dataset in datasets.items()}
    if any(one is not None for one in trade.values()):
        svg = plots.curves(trade, "PSNR, dB (distortion)", "LPIPS (perception)", "LPIPS against PSNR")
        drawn.append(Plot(svg, "Perception against distortion; the numbers at the points are τ"))
    note = "One line per data set. Better is right and down in the plot of LPIPS against PSNR."
    return Section("curves", "Temperature", note, plots.legend(list(datasets)), drawn) if drawn else None


def _points(dataset: Mapping[str, Any], x_key: str | None, y_key: str) -> Series | None:
    """A figure against another, or against the temperature; None without any finite point."""
    points = []
    for heat, values in sorted(dataset["heats"].items(), key=lambda pair: float(pair[0])):
        x = float(heat) if x_key is None else values.get(x_key)
        y = values.get(y_key)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
            points.append((x, y, "" if x_key is None else heat))
    return Series(*zip(*points, strict=True)) if points else None


def best_of_n(results: Results) -> Section | None:
    """Mean over images of the best of the first n samples, at the highest temperature; None for one sample."""
    heat = results.heats[-1]
    n = max((len(image.at(heat)) for images in results.images.values() for image in images), default=0)
    if n < 2:
        return None
    drawn = []
    for key, best in BEST_OF_N.items():
        series = {name: _best(images, heat, key, best, n) for name, images in results.images.items()}
        if any(one is not None for one in series.values()):
            label = _LABELS.get(key, column(key).label)
            svg = plots.curves(series, "number of samples n", label, f"Best {label} of n samples", steps=True)
            drawn.append(Plot(svg))
    note = f"Mean over inputs of the best of the first n samples, τ = {heat}; over the inputs with a finite sample."
    return Section("best", "Best of n samples", note, plots.legend(list(results.images)), drawn) if drawn else None


def _best(
    images: Sequence[ImageResult], heat: str, key: str, best: Callable[..., float], n_samples: int
) -> Series | None:
    x, y = [], []
    for n in range(1, n_samples + 1):
        found = [
            best(known)
            for image in images
            if (known := [v for r in image.at(heat)[:n] if (v := r.get(key)) is not None])
        ]
        mean = sum(found) / len(found) if found else math.inf
        if math.isfinite(mean):
            x.append(n)
            y.append(mean)
    return Series(x, y) if x else None


def latents(results: Results) -> Section | None:
    """Histograms of the latents, a plot per data set; None if there are none."""
    found = {name: pooled for name, images in results.images.items() if (pooled := _pooled(images)) is not None}
    if not found:
        return None
    top = 1.05 * max(0.4, *(max(pooled.density) for pooled in found.values()))
    drawn = [
        Plot(plots.histogram(pooled.edges, pooled.density, top, f"Latents, {name}"), f"{name}: {pooled.told()}")
        for name, pooled in found.items()
    ]
    note = (
        "Latents of the ground truth given the input. Grey: N(0, 1), which they follow if the model fits. The "
        "outermost bins hold all that lies beyond them."
    )
    return Section("latents", "Latents", note, [], drawn)


class Pooled(NamedTuple):
    """Latents of the images of a data set together; ``density`` between ``edges``."""

    edges: list[float]
    density: list[float]
    mean: float
    std: float
    n: int

    def told(self) -> str:
        """Mean and standard deviation, in words."""
        return f"mean {cell(self.mean)}, std {cell(self.std)}, {self.n} inputs"


def _pooled(images: Sequence[ImageResult]) -> Pooled | None:
    known = [image.latents for image in images if image.latents is not None]
    known = [one for one in known if one["edges"] == known[0]["edges"] and one["mean"] is not None]
    if not known:
        return None
    edges, sizes = list(known[0]["edges"]), [sum(one["counts"]) for one in known]
    total = sum(sizes)
    mean = sum(size * one["mean"] for size, one in zip(sizes, known, strict=True)) / total
    square = sum(size * (one["std"] ** 2 + one["mean"] ** 2) for size, one in zip(sizes, known, strict=True)) / total
    counts = [sum(bins) for bins in zip(*(one["counts"] for one in known), strict=True)]
    widths = [high - low for low, high in itertools.pairwise(edges)]
    density = [count / total / width for count, width in zip(counts, widths, strict=True)]
    return Pooled(edges, density, mean, math.sqrt(max(0.0, square - mean**2)), len(known))


def ood(results: Results) -> Section | None:
    """Rate of pixel errors against the rank of the out-of-distribution score; None without scores."""
    images = {
        name: [(image.ood, image.failed) for image in images if image.ood is not None]
        for name, images in results.images.items()
    }
    patches: dict[str, list[tuple[float, bool]]] = {}
    for patch in (results.ood or {}).get("patches", []):
        patches.setdefault(patch["dataset"], []).append((patch["score"], patch["pixel_error"]))
    drawn, rows = [], []
    for what, scored in (("inputs", images), ("patches", patches)):
        pairs = [pair for of_set in scored.values() for pair in of_set]
        if len(pairs) > 1:
            caption = f"{len(pairs)} {what}, ranked by OOD score: how many have a pixel error in any sample"
            drawn.append(Plot(rank_plot(pairs, what), caption))
        rows += [[name, what, *_spread([score for score, _ in of_set])] for name, of_set in scored.items() if of_set]
    header = ["data set", "of", "mean score", "lowest", "highest", "number"]
    note = "Groups of equal size by the rank of the score; bars: 95 % Wilson intervals; dashed: average."
    sentences = [*([note] if drawn else []), *_unlike(results.metrics.get("unlike_training") or {})]
    return Section("ood", "Out of distribution", " ".join(sentences), [], drawn, [header, *rows]) if sentences else None


def _unlike(found: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """A sentence for each data set with inputs unlike the training patches, that lists them."""
    return [
        f"{name}, above 99 % of the training patches: {', '.join(f'{i} ({cell(s)})' for i, s in of_set.items())}."
        for name, of_set in found.items()
        if of_set
    ]


def _spread(scores: Sequence[float]) -> list[str]:
    return [cell(sum(scores) / len(scores)), cell(min(scores)), cell(max(scores)), str(len(scores))]


def rank_plot(pairs: Sequence[tuple[float, bool]], what: str) -> str:
    """Plot of (score, failed): groups of equal size by rank, the rate of failures in each, and the average."""
    ranked = [failed for _, failed in sorted(pairs, key=lambda pair: pair[0])]
    n_groups = min(N_BINS, len(ranked))
    edges = [k * len(ranked) // n_groups for k in range(n_groups + 1)]
    groups = [ranked[start:end] for start, end in itertools.pairwise(edges)]
    x = [50 * (start + end) / len(ranked) for start, end in itertools.pairwise(edges)]
    spans = [wilson(sum(group), len(group)) for group in groups]
    rates = [100 * sum(group) / len(group) for group in groups]
    average = 100 * sum(ranked) / len(ranked)
    return plots.rank(Series(x, rates), [low for low, _ in spans], [high for _, high in spans], average, what)
