"""A table of a paper: published and measured values side by side."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from robustflow.options.recipe import RecipeOptions, RunOfRecipe
from robustflow.report import tables
from robustflow.report.columns import NO_HEAT, cell, column, lines, protocol_of
from robustflow.report.results import Results
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

_NAMES = ["data set", "τ", "model"]
# What is over the samples of an input, by the end of its key.
_OVER_SAMPLES: dict[str, Any] = {"min": "min", "mean": "mean", "std": lambda values: values.std(ddof=0)}


def write(recipe: RecipeOptions, found: Sequence[tuple[RunOfRecipe, Results]], output: Path) -> str:
    """Write table.md and table.csv of the results of a recipe; return the Markdown.

    Args:
        recipe: What was run.
        found: Results of each run and training seed.
        output: Folder of the files.

    Raises:
        UserError: for metrics that no model has, and published figures of a data set that was not tested.
    """
    known = list({key: None for _, results in found for key in results.columns})
    unknown = [key for key in recipe.columns if key not in known]
    if unknown:
        raise UserError(f"columns: expected metrics ({', '.join(known)}), got {', '.join(unknown)}")
    frame = to_frame(recipe, found)
    text = _markdown(recipe, found, frame)
    write_atomically(output / "table.md", text.encode())
    write_atomically(output / "table.csv", frame.to_csv(index=False).encode())
    return text


def to_frame(recipe: RecipeOptions, found: Sequence[tuple[RunOfRecipe, Results]]) -> pd.DataFrame:
    """One row per data set, temperature, model and metric: measured, its 95 % interval, published, seeds, inputs."""
    models: dict[str, tuple[RunOfRecipe, list[Results]]] = {}
    for given, results in found:
        models.setdefault(given.label or given.name or results.label, (given, []))[1].append(results)
    rows = [row for label, (given, runs) in models.items() for row in _rows(recipe, label, given, runs)]
    frame = pd.DataFrame(rows)
    order = list(dict.fromkeys(frame["data set"]))
    return frame.sort_values("data set", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def _rows(recipe: RecipeOptions, label: str, given: RunOfRecipe, runs: Sequence[Results]) -> Iterator[dict[str, Any]]:
    sets = runs[0].metrics["datasets"]
    unknown = given.published.keys() - sets.keys()
    if unknown:
        raise UserError(f"{label}: published figures of {', '.join(sorted(unknown))}; tested: {', '.join(sets)}")
    for name, dataset in sets.items():
        for heat in lines(runs[0].metrics, name):
            for key in recipe.columns:
                mean, low, high = measure(runs, name, heat, key)
                yield {
                    **dict(zip(_NAMES, (name, heat, label), strict=True)),
                    "metric": key,
                    "measured": mean,
                    "low": low,
                    "high": high,
                    "published": given.published.get(name, {}).get(key),
                    "seeds": len(runs),
                    "inputs": dataset["n_images"],
                }


def measure(runs: Sequence[Results], dataset: str, heat: str, key: str) -> tuple[float | None, float, float]:
    """Mean of a metric over training seeds, and its 95 % interval, NaN where there is none.

    Rates of one seed have their Wilson interval. Otherwise Student's t, with the variance of a mean over seeds and that
    of one over inputs added, of as many degrees of freedom as the fewer of both have.
    """
    found = [lines(run.metrics, dataset).get(heat, {}) for run in runs]
    values = pd.Series([math.nan if one.get(key) is None else one[key] for one in found], dtype="float64")
    if values.isna().any():
        return None, math.nan, math.nan
    mean = float(values.mean())
    wilson = found[0].get(f"{key.removesuffix('_pct')}_ci")
    if len(runs) == 1 and key.endswith("_pct") and wilson is not None:
        return mean, wilson[0], wilson[1]
    inputs = _by_input(runs, dataset, heat, key)
    parts = [one for one in (values, inputs) if len(one) > 1 and one.notna().all()]
    if not parts or not math.isfinite(mean):
        return mean, math.nan, math.nan
    half = math.hypot(*(one.sem() for one in parts)) * stats.t.ppf(0.975, min(map(len, parts)) - 1)
    return mean, mean - half, mean + half


def _by_input(runs: Sequence[Results], dataset: str, heat: str, key: str) -> pd.Series:
    """Means over seeds and samples, by input; empty for what no input has."""
    rows = [run.of_set(dataset, None if heat == NO_HEAT else heat) for run in runs]
    base, _, over = key.rpartition("_")
    if key == "pixel_error_pct":
        parts = [100.0 * (one.pixel_errors > 0).groupby(one.image).any() for one in rows]
    elif all(key in one for one in rows):
        parts = [one.groupby("image")[key].mean() for one in rows]
    elif all(base in one for one in rows) and over in _OVER_SAMPLES:
        parts = [one.groupby("image")[base].agg(_OVER_SAMPLES[over]) for one in rows]
    else:
        return pd.Series(dtype="float64")
    return pd.concat(parts, axis=1).mean(axis=1, skipna=False)


def _markdown(recipe: RecipeOptions, found: Sequence[tuple[RunOfRecipe, Results]], frame: pd.DataFrame) -> str:
    columns = {key: column(found[0][1].columns, key) for key in recipe.columns}
    published = [key for key in recipe.columns if frame.published[frame.metric == key].notna().any()]
    headers = [*_NAMES]
    for key, one in columns.items():
        unit = f", {one.unit}" if one.unit else ""
        headers += [f"{one.label}{unit}", *([f"{one.label}, published"] if key in published else [])]
    body = []
    for names, rows in frame.groupby(_NAMES, sort=False):
        by_key = rows.set_index("metric")
        texts = [str(name) for name in names]
        for key in recipe.columns:
            texts.append(_figure(by_key.loc[key]))
            texts += [cell(by_key.loc[key, "published"])] if key in published else []
        body.append(texts)
    protocol: Mapping[str, Any] = found[0][1].metrics["protocol"]
    seeds, inputs = frame.seeds.max(), sorted({*zip(frame["data set"], frame.inputs, strict=True)})
    facts = [
        f"Published: {recipe.source}; – where it gives none.",
        f"Measured: {protocol['n_sample']} samples per input, seed {protocol['seed']}; "
        + "; ".join(f"{name}: {n} inputs" for name, n in inputs)
        + (f"; {seeds} training seeds" if seeds > 1 else "")
        + ". In brackets 95 % intervals: of one training Wilson's for rates and Student's t over inputs for means, of "
        "several over seeds and inputs.",
        *(f"{one.label}: {protocol_of(key, protocol)}." for key, one in columns.items() if protocol_of(key, protocol)),
    ]
    table = tables.align(body, headers, len(_NAMES), "markdown")
    return (
        "\n\n".join(filter(None, [f"# {recipe.title}", recipe.notes, table, "\n".join(f"- {one}" for one in facts)]))
        + "\n"
    )


def _figure(row: pd.Series) -> str:
    text = cell(row.measured)
    return text if math.isnan(row.low) else f"{text} [{cell(row.low)}, {cell(row.high)}]"
