"""What several training seeds show together: intervals, paired differences, claims."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from robustflow.evaluation.metrics import Column
from robustflow.evaluation.metrics.base import Limits
from robustflow.options.recipe import Claim, RecipeOptions
from robustflow.report import tables
from robustflow.report.columns import NO_HEAT, column, is_at, lines, signed
from robustflow.report.results import Results
from robustflow.report.results import reference as drawing
from robustflow.utils.files import write_atomically

Models = Mapping[str, Sequence[Results]]
# What is over the samples of an input, by the end of its key.
_OVER_SAMPLES: dict[str, Any] = {
    "min": "min",
    "mean": "mean",
    "std": lambda values: values.std(ddof=0) if np.isfinite(values).all() else math.nan,
}
# Whether a sample fails, by the key of the rate of inputs that do.
_FAILS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "pixel_error_pct": lambda rows: rows.pixel_errors > 0,
    "inf_pct": lambda rows: rows.has_inf | rows.has_nan,
    "infinite_pct": lambda rows: rows.has_inf,
    "nan_pct": lambda rows: rows.has_nan,
}
LARGEST = ("max_residual", "max_abs")  # over all inputs, not means over them
_NOTE = (
    "Of each input the mean over its samples, or whether any fails, less that of {reference} with the same training "
    "seed; in brackets 95 % intervals of the mean, over training seeds and inputs, cut to what it can be; "
    "bold: 0 is outside. In parentheses in how many of the training seeds the figure is lower / higher."
)


def by_input(run: Results, dataset: str, heat: str, key: str) -> pd.Series:
    """A figure of each input, over its samples, by image; empty for what no input has."""
    rows = run.of_set(dataset, None if heat == NO_HEAT else heat)
    base, _, over = key.rpartition("_")
    images = rows.image
    if key in _FAILS:
        return 100.0 * _FAILS[key](rows).groupby(images, sort=False).any()
    if key == "pixel_error_pixel_pct":
        pixels = rows.groupby("image", sort=False)[["pixel_errors", "n_pixels"]].sum()
        return 100.0 * pixels.pixel_errors / pixels.n_pixels
    if key in LARGEST:
        return rows.groupby("image", sort=False)[key].max()
    if key in rows:
        return rows.groupby("image", sort=False)[key].mean()
    if base in rows and over in _OVER_SAMPLES:
        return rows.groupby("image", sort=False)[base].agg(_OVER_SAMPLES[over])
    return pd.Series(dtype="float64")


def half_interval(*means: pd.Series) -> float:
    """Half of the 95 % interval of a mean over training seeds and inputs; NaN if there is one of each.

    Student's t with the variance of a mean over seeds and that of one over inputs added, and the degrees of freedom of
    such a sum (Welch, 1947; Satterthwaite, 1946).

    Args:
        *means: A figure of each training seed; its means over seeds, of each input; or one of these alone.
    """
    parts = [one for one in means if len(one) > 1 and np.isfinite(one.astype(float)).all()]
    if not parts:
        return math.nan
    variances, freedoms = np.array([one.sem() ** 2 for one in parts]), np.array([len(one) - 1 for one in parts])
    total = variances.sum()
    if total == 0:
        return 0.0
    return math.sqrt(total) * float(stdtrit(total**2 / (variances**2 / freedoms).sum(), 0.975))


def interval(mean: float, half: float, limits: Limits) -> tuple[float, float]:
    """Ends of mean ± half, NaN if half is; cut to the limits of the figure."""
    (low, high), (least, most) = (mean - half, mean + half), limits
    return low if least is None else max(low, least), high if most is None else min(high, most)


def limit_difference(limits: Limits) -> Limits:
    """Limits of the difference of two figures with the same limits."""
    least, most = limits
    return (None, None) if least is None or most is None else (least - most, most - least)


def differences(
    models: Models, reference: str, keys: Sequence[str], columns: Mapping[str, Column], temperature: float | None
) -> str:
    """Markdown: a table of what each model differs by from the reference, paired by training seed and input."""
    shown = [key for key in keys if key not in LARGEST]
    theirs = models[reference]
    body = [
        [dataset, heat, label, *(_difference(runs, theirs, dataset, heat, column(columns, key)) for key in shown)]
        for dataset, heat in _places(drawing([theirs[0], *(runs[0] for runs in models.values())]), temperature)
        for label, runs in models.items()
        if label != reference
    ]
    body = [row for row in body if {*row[3:]} != {"–"}]
    if not body:
        return f"## Differences to {reference}\n\nNo figure is known and finite for every input.\n"
    headers = ["data set", "τ", "model", *(f"Δ {column(columns, key).label}" for key in shown)]
    table = tables.align(*drop_empty(body, headers), 3, "markdown")
    return f"## Differences to {reference}\n\n{table}\n\n{_NOTE.format(reference=reference)}\n"


def drop_empty(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Rows and headers without columns that have no value."""
    kept = [k for k in range(len(headers)) if any(row[k] not in ("", "–") for row in rows)]
    return [[row[k] for k in kept] for row in rows], [headers[k] for k in kept]


def _difference(runs: Sequence[Results], others: Sequence[Results], dataset: str, heat: str, figure: Column) -> str:
    ours, theirs = ([by_input(run, dataset, _line(run, heat), figure.key) for run in of] for of in (runs, others))
    found = pd.concat([our - their for our, their in zip(ours, theirs, strict=False)], axis=1)
    if len(found) == 0 or not np.isfinite(found.to_numpy(dtype=float)).all():
        return "–"
    of_seeds, of_inputs = found.mean(), found.mean(axis=1)
    mean = float(of_seeds.mean())
    half, signs = half_interval(of_seeds, of_inputs), f"({(of_seeds < 0).sum()} / {(of_seeds > 0).sum()})"
    if math.isnan(half):
        return f"{signed(mean)} {signs}"
    low, high = interval(mean, half, limit_difference(figure.limits))
    text = f"{signed(mean)} [{signed(low)}, {signed(high)}] {signs}"
    return f"**{text}**" if abs(mean) > half else text


def _line(run: Results, heat: str) -> str:
    """What stands for a temperature among a run's figures."""
    return NO_HEAT if run.protocol.deterministic else heat


def _places(run: Results, temperature: float | None) -> Iterator[tuple[str, str]]:
    """Data sets and temperatures of a run."""
    for dataset in run.metrics["datasets"]:
        for heat in lines(run.metrics, dataset):
            if is_at(heat, temperature):
                yield dataset, heat


def write_inputs(models: Models, recipe: RecipeOptions, path: Path) -> None:
    """Write a CSV file with a row per model, training seed, data set, temperature and input."""
    parts = []
    for label, runs in models.items():
        for number, run in enumerate(runs):
            seed = number if recipe.seeds is None else recipe.seeds[number]
            for dataset, heat in _places(run, recipe.temperature):
                one = pd.DataFrame({key: by_input(run, dataset, heat, key) for key in recipe.columns})
                one = one.rename_axis("input").reset_index()
                places = {"model": label, "seed": seed, "data set": dataset, "τ": heat}
                parts.append(one.assign(**places)[[*places, "input", *recipe.columns]])
    text = pd.concat(parts).to_csv(index=False, float_format="%.5g")
    write_atomically(path, text)


def rank_failures(models: Models, temperature: float | None) -> dict[str, list[tuple[float, float]]]:
    """Points of `ood.plot`: each model's inputs of all data sets, their ranks by its own score, and failed samples, %.

    Ranks instead of scores, so that the training seeds, whose encoders differ, can be drawn as one.
    """
    curves = {}
    for label, runs in models.items():
        parts = []
        for run in runs:
            frames = [
                run.of_set(dataset, None if heat == NO_HEAT else heat) for dataset, heat in _places(run, temperature)
            ]
            rows = pd.concat(frames)
            if "ood" not in rows or rows.ood.isna().any():
                continue
            grouped = rows.assign(failed=100.0 * (rows.pixel_errors > 0)).groupby(["dataset", "image"], sort=False)
            found = grouped[["ood", "failed"]].mean()
            parts.append(found.assign(ood=found.ood.rank(pct=True)))
        if parts:
            curves[label] = list(pd.concat(parts).itertuples(index=False, name=None))
    return curves


def try_claims(claims: Sequence[Claim], models: Models, temperature: float | None) -> str:
    """Markdown: a table of claims, whether each holds, and with how many training seeds; bold where not with all."""
    body = []
    for claim in claims:
        held = [_holds(claim, models, number, temperature) for number in range(len(models[claim.model]))]
        text = "not measured" if None in held else f"{held.count(True)} of {len(held)}"
        body.append([claim.says, text if all(held) else f"**{text}**"])
    table = tables.align(body, ["claim", "holds with training seeds"], 1, "markdown")
    return f"## Claims\n\n{table}\n\nWith a training seed a claim holds if it does in each of its data sets.\n"


def _holds(claim: Claim, models: Models, number: int, temperature: float | None) -> bool | None:
    """Whether a claim holds with a training seed; None: a figure is not there."""
    runs = {label: models[label][min(number, len(models[label]) - 1)] for label in claim.labels}
    sets = claim.sets or runs[claim.model].metrics["datasets"]
    places = [place for place in _places(drawing([*runs.values()]), temperature) if place[0] in sets]
    found = {label: np.array([_figure(run, *place, claim.metric) for place in places]) for label, run in runs.items()}
    if not places or any(np.isnan(values).any() for values in found.values()):
        return None
    if claim.beside is not None:
        with np.errstate(invalid="ignore"):  # infinite ones differ by NaN, which is never less
            found = {label: abs(values - found[claim.beside]) for label, values in found.items()}
    ours = found[claim.model]
    if claim.at_most is not None:
        return bool((ours <= claim.at_most).all())
    if claim.not_above is not None:
        return bool((ours <= found[claim.not_above]).all())
    return bool((ours < found[str(claim.below)]).all())


def _figure(run: Results, dataset: str, heat: str, key: str) -> float:
    figures = lines(run.metrics, dataset) if dataset in run.metrics["datasets"] else {}
    value = figures.get(_line(run, heat), {}).get(key)
    return math.nan if value is None else float(value)
