"""Differences between two runs on the same images."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from robustflow.evaluation.metrics import Column
from robustflow.evaluation.metrics.base import Limits
from robustflow.report import seeds
from robustflow.report.columns import NO_HEAT, columns_at, signed
from robustflow.report.results import Results, names_of, reference

_KEYS = ["dataset", "tau", "image"]


def compare(
    first: Results, other: Results, columns: Sequence[Column]
) -> Iterator[tuple[str, str, dict[str, str], str]]:
    """Compare image by image: data set, temperature, difference by key where there is one, and failures, as text."""
    shown = reference((first, other))
    ours, theirs = (_repeat(run, shown.heats) for run in (first, other))
    differences = _by_image(theirs, columns) - _by_image(ours, columns)
    failed = pd.concat(map(_find_failures, (ours, theirs)), axis=1, join="inner", keys=["first", "other"])
    for dataset, of_set in shown.metrics["datasets"].items():
        for heat in of_set["heats"]:
            at = differences[_at(differences, dataset, heat)]
            texts = {one.key: interval(at[one.key], one.limits) for one in columns if at[one.key].notna().any()}
            heat_shown = NO_HEAT if shown.protocol.deterministic else heat
            yield dataset, heat_shown, texts, count_failures(failed[_at(failed, dataset, heat)])


def _repeat(run: Results, heats: Sequence[str]) -> pd.DataFrame:
    """Samples of a run; the image of a deterministic model stands for a sample at each of the temperatures."""
    if not run.protocol.deterministic:
        return run.samples
    return pd.concat([run.samples.assign(tau=heat) for heat in heats])


def _at(frame: pd.DataFrame, dataset: str, heat: str) -> pd.Series:
    index = frame.index
    return (index.get_level_values("dataset") == dataset) & (index.get_level_values("tau") == heat)


def _by_image(samples: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Means over the samples of an image that have a finite value, by data set, temperature and image."""
    keys = [one.key for one in columns]
    finite = samples.reindex(columns=[*_KEYS, *keys]).replace([math.inf, -math.inf], math.nan)
    return finite.groupby(_KEYS, sort=False)[keys].mean()


def _find_failures(samples: pd.DataFrame) -> pd.Series:
    return (samples.pixel_errors > 0).groupby([samples[key] for key in _KEYS], sort=False).any()


def interval(differences: pd.Series, limits: Limits) -> str:
    """Mean over images of differences of a figure with such limits, its 95 % interval, Student's t; their number."""
    known = differences.dropna()
    text, half = signed(known.mean()), seeds.half_interval(known)
    if not math.isnan(half):
        low, high = seeds.interval(known.mean(), half, seeds.limit_difference(limits))
        text += f" [{signed(low)}, {signed(high)}]"
    return f"{text} (n = {len(known)})"


def count_failures(failed: pd.DataFrame) -> str:
    """Images that fail in both runs, in one alone, in none, and p of McNemar's exact test.

    p: how likely so uneven a split of the images that fail in one run alone is, were either equally likely.
    """
    from scipy.stats import binomtest  # half a second, for comparisons alone

    first, other = failed["first"].astype(bool), failed["other"].astype(bool)
    counts = [int(part.sum()) for part in (first & other, first & ~other, ~first & other, ~first & ~other)]
    n = counts[1] + counts[2]
    p_value = binomtest(counts[1], n).pvalue if n > 0 else 1.0
    return f"{' / '.join(map(str, counts))} (p = {p_value:.2g})"


def compare_runs(runs: Sequence[Results]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of all runs against the first; columns without any value are left out."""
    wanted = {one.key: one for one in columns_at(runs[0].metrics, "differences")}
    columns = [wanted[key] for key in runs[0].frame if key in wanted]
    found = [
        (dataset, heat, name, texts, failures)
        for other, name in zip(runs[1:], names_of(runs)[1:], strict=True)
        for dataset, heat, texts, failures in compare(runs[0], other, columns)
    ]
    places = list(runs[0].metrics["datasets"])
    found.sort(key=lambda row: (places.index(row[0]), -1 if row[1] == NO_HEAT else float(row[1])))
    shown = [one for one in columns if any(one.key in texts for _, _, _, texts, _ in found)]
    headers = ["data set", "τ", "model", *(f"Δ {one.label}" for one in shown), "pixel errors"]
    return headers, [
        [dataset, heat, name, *(texts.get(one.key, "–") for one in shown), failures]
        for dataset, heat, name, texts, failures in found
    ]


def notes(runs: Sequence[Results]) -> str:
    """What the table of `compare_runs` shows."""
    first = names_of(runs)[0]
    return (
        f"Δ: mean over inputs of the difference to {first}, each input's figure the mean over its samples "
        "with a finite value, and its 95 % confidence interval over inputs (Student's t), n inputs that have it in "
        "both. Pixel "
        f"errors: inputs that fail in both / in {first} alone / the other alone / in none; p of McNemar's exact test. "
        "Crops of one photograph are not independent: intervals over them are too narrow."
    )
