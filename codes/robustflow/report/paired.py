"""Differences between two runs on the same images."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scipy.special import stdtrit

from robustflow.report.columns import cell, column, same_size
from robustflow.report.results import ImageResult, Results, names_of

KEYS = ("lr_psnr", "psnr", "psnr_gtmean", "ssim", "ssim_grey_gtmean", "lpips", "max_residual")


class Difference(NamedTuple):
    """Mean over images of (other run - first run), each the mean over an image's finite samples.

    Attributes:
        low: Lower end of the 95 % confidence interval over images (Student's t); None for a single image.
        high: Its upper end.
        n: Images with finite values in both runs.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    def text(self) -> str:
        """The difference and its interval."""
        if self.low is None or self.high is None:
            return f"{_signed(self.mean)} (n = {self.n})"
        return f"{_signed(self.mean)} [{_signed(self.low)}, {_signed(self.high)}] (n = {self.n})"


class Counts(NamedTuple):
    """Images with a pixel error in both runs, in one alone, in none; exact two-sided McNemar test."""

    both: int
    only_first: int
    only_other: int
    none: int

    @property
    def p_value(self) -> float:
        """How likely so uneven a split of the images that fail in one run alone is, were either equally likely."""
        n, least = self.only_first + self.only_other, min(self.only_first, self.only_other)
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)

    def text(self) -> str:
        """The counts and the p-value."""
        return f"{self.both} / {self.only_first} / {self.only_other} / {self.none} (p = {self.p_value:.2g})"


class Paired(NamedTuple):
    """Comparison of a run with the first on one data set at one temperature."""

    dataset: str
    heat: str
    run: str
    differences: dict[str, Difference | None]
    counts: Counts


def compare(first: Results, other: Results, name: str) -> Iterator[Paired]:
    """Compare image by image, for every data set and temperature of the first run."""
    for dataset_name, dataset in first.metrics["datasets"].items():
        theirs = {image.image: image for image in other.images.get(dataset_name, ())}
        pairs = [(image, theirs[image.image]) for image in first.images[dataset_name] if image.image in theirs]
        for heat in dataset["heats"]:
            found = {key: _difference(pairs, key, heat) for key in KEYS}
            yield Paired(dataset_name, heat, name, found, _counts(pairs, heat))


def rows_of(runs: Sequence[Results]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of all runs against the first; columns without any value are left out."""
    others = zip(runs[1:], names_of(runs)[1:], strict=True)
    found = [paired for other, name in others for paired in compare(runs[0], other, name)]
    order = list(runs[0].metrics["datasets"])
    found.sort(key=lambda paired: (order.index(paired.dataset), float(paired.heat)))
    wanted = [key for key in KEYS if key != "max_residual" or not same_size(runs[0].metrics)]
    keys = [key for key in wanted if any(paired.differences[key] is not None for paired in found)]
    headers = ["data set", "τ", "model", *(f"Δ {column(key).label}" for key in keys), "pixel errors"]
    return headers, [
        [
            paired.dataset,
            paired.heat,
            paired.run,
            *(_text(paired.differences[key]) for key in keys),
            paired.counts.text(),
        ]
        for paired in found
    ]


def notes(runs: Sequence[Results]) -> str:
    """What the table of `rows_of` shows."""
    first = names_of(runs)[0]
    return (
        f"Δ: mean over inputs of the difference to {first}, each input's figure the mean over its finite samples, "
        "and its 95 % confidence interval over inputs (Student's t), n inputs with finite values in both. Pixel "
        f"errors: inputs that fail in both / in {first} alone / the other alone / in none; p of McNemar's exact test. "
        "Crops of one photograph are not independent: intervals over them are too narrow."
    )


def _text(difference: Difference | None) -> str:
    return "–" if difference is None else difference.text()


def _signed(value: float) -> str:
    return f"+{cell(value)}" if value > 0 else cell(value).replace("-", "−")


def _difference(pairs: Sequence[tuple[ImageResult, ImageResult]], key: str, heat: str) -> Difference | None:
    means = [(_mean(ours.values(key, heat)), _mean(theirs.values(key, heat))) for ours, theirs in pairs]
    found = [b - a for a, b in means if a is not None and b is not None]
    if not found:
        return None
    n, mean = len(found), statistics.fmean(found)
    if n < 2:
        return Difference(mean, None, None, n)
    half = float(stdtrit(n - 1, 0.975)) * statistics.stdev(found) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def _counts(pairs: Sequence[tuple[ImageResult, ImageResult]], heat: str) -> Counts:
    failed = [tuple(any(row["pixel_errors"] > 0 for row in image.at(heat)) for image in pair) for pair in pairs]
    return Counts(*(failed.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))
