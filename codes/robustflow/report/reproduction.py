"""A table of a paper: published and measured values side by side."""

import difflib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robustflow.evaluation.metrics import Column
from robustflow.options.recipe import RecipeOptions, RunOfRecipe
from robustflow.report import seeds, tables
from robustflow.report.columns import cell, column, count, is_at, lines, protocol_of
from robustflow.report.ood import plot
from robustflow.report.results import Results, reference
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

_NAMES = ["data set", "τ", "model"]


def write(recipe: RecipeOptions, found: Sequence[tuple[RunOfRecipe, Results]], output: Path) -> str:
    """Write table.md and table.csv of the results of a recipe; return the Markdown.

    Args:
        recipe: What was run.
        found: Results of each run, which has its label, and training seed.
        output: Folder of the files.

    Raises:
        UserError: for metrics that no model has, and published figures of a data set that was not tested.
    """
    require_known(recipe, list({key: None for _, results in found for key in results.columns}))
    frame = to_frame(recipe, found)
    text = _markdown(recipe, found, frame)
    write_atomically(output / "table.csv", frame.to_csv(index=False))
    models = _by_label(found)
    if recipe.reference is not None:
        columns = found[0][1].columns
        text += f"\n{seeds.differences(models, recipe.reference, recipe.columns, columns, recipe.temperature)}"
        seeds.write_inputs(models, recipe, output / "inputs.csv")
        curves = seeds.rank_failures(models, recipe.temperature)
        if curves:
            plot(curves, output / "ood.png")
    if recipe.claims:
        text += f"\n{seeds.try_claims(recipe.claims, models, recipe.temperature)}"
    write_atomically(output / "table.md", text)
    return text


def require_measured(
    recipe: RecipeOptions, heats: Mapping[str, Collection[float]], sets: Mapping[str, Collection[str]]
) -> None:
    """Raise UserError for a temperature, or a data set of claims and published figures, that is not tested.

    Args:
        recipe: What is to be run.
        heats: Temperatures by the label of a model; none of one that makes one image per input.
        sets: Names of data sets by the label of a model.
    """
    for label, of_model in heats.items():
        if recipe.temperature is not None and of_model and recipe.temperature not in of_model:
            known = ", ".join(map(str, of_model))
            raise UserError(f"temperature: expected one of val.heats ({known}) of {label}, got {recipe.temperature}")
    wanted = [(str(run.label), "published", tuple(run.published)) for run in recipe.runs]
    for one in recipe.claims:
        wanted += [(label, "claims", one.sets or tuple(sets[one.model])) for label in one.labels]
    for label, what, names in wanted:
        strange = [name for name in names if name not in sets[label]]
        if strange:
            known = ", ".join(sets[label])
            raise UserError(f"{what}: expected data sets of {label} ({known}), got {', '.join(strange)}")


def require_known(recipe: RecipeOptions, metrics: Sequence[str]) -> None:
    """Raise UserError for metrics of a recipe that are none of these, and labels of models that it does not run."""
    unknown = [key for key in (*recipe.columns, *(one.metric for one in recipe.claims)) if key not in metrics]
    if unknown:
        came = ", ".join(_suggest(key, metrics) for key in dict.fromkeys(unknown))
        raise UserError(f"columns, claims: expected metrics (robustflow options lists them), got {came}")
    published = {key for run in recipe.runs for of_set in run.published.values() for key in of_set}
    if published - {*recipe.columns}:
        raise UserError(
            f"published: expected metrics of columns ({', '.join(recipe.columns)}), got "
            f"{', '.join(sorted(published - {*recipe.columns}))}"
        )
    labels = [run.label for run in recipe.runs]
    repeated = [str(label) for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if repeated:
        raise UserError(f"runs: expected labels that differ, got {', '.join(repeated)} more than once")
    named = [recipe.reference, *(label for one in recipe.claims for label in one.labels)]
    strange = [name for name in named if name is not None and name not in labels]
    if strange:
        raise UserError(f"claims, reference: expected labels of runs, got {', '.join(dict.fromkeys(strange))}")


def _suggest(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"'{key}'" + (f" (did you mean '{near[0]}'?)" if near else "")


def _by_label(found: Sequence[tuple[RunOfRecipe, Results]]) -> dict[str, list[Results]]:
    """Results of all training seeds of each model."""
    models: dict[str, list[Results]] = {}
    for given, results in found:
        models.setdefault(str(given.label), []).append(results)
    return models


def to_frame(recipe: RecipeOptions, found: Sequence[tuple[RunOfRecipe, Results]]) -> pd.DataFrame:
    """One row per data set, temperature, model and metric: measured, its 95 % interval, published, seeds, inputs."""
    of = {str(given.label): given for given, _ in found}
    frame = pd.DataFrame([row for label, runs in _by_label(found).items() for row in _rows(recipe, of[label], runs)])
    order = list(dict.fromkeys(frame["data set"]))
    return frame.sort_values("data set", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)


def _rows(recipe: RecipeOptions, given: RunOfRecipe, runs: Sequence[Results]) -> Iterator[dict[str, Any]]:
    sets, columns = runs[0].metrics["datasets"], runs[0].columns
    unknown = given.published.keys() - sets.keys()
    if unknown:
        raise UserError(f"{given.label}: published figures of {', '.join(sorted(unknown))}; tested: {', '.join(sets)}")
    for name, dataset in sets.items():
        for heat in lines(runs[0].metrics, name):
            for key in recipe.columns:
                mean, low, high = measure(runs, name, heat, column(columns, key))
                yield {
                    **dict(zip(_NAMES, (name, heat, given.label), strict=True)),
                    "metric": key,
                    "measured": mean,
                    "low": low,
                    "high": high,
                    "published": given.published.get(name, {}).get(key),
                    "seeds": len(runs),
                    "inputs": dataset["n_images"],
                }


def measure(runs: Sequence[Results], dataset: str, heat: str, figure: Column) -> tuple[float | None, float, float]:
    """Mean of a metric over training seeds, and its 95 % interval, NaN where there is none.

    Rates of one seed have their Wilson interval; others: see `seeds.interval`.
    """
    key, found = figure.key, [lines(run.metrics, dataset).get(heat, {}) for run in runs]
    values = pd.Series([math.nan if one.get(key) is None else one[key] for one in found], dtype="float64")
    if values.isna().any():
        return None, math.nan, math.nan
    mean = float(values.mean())
    wilson = found[0].get(f"{key.removesuffix('_pct')}_ci")
    if len(runs) == 1 and key.endswith("_pct") and wilson is not None:
        return mean, wilson[0], wilson[1]
    parts = [values]
    if key not in seeds.LARGEST:
        by_input = [seeds.by_input(run, dataset, heat, key) for run in runs]
        parts.append(pd.concat(by_input, axis=1).mean(axis=1, skipna=False))
    half = seeds.half_interval(*parts) if math.isfinite(mean) else math.nan
    return mean, *seeds.interval(mean, half, figure.limits)


def _markdown(recipe: RecipeOptions, found: Sequence[tuple[RunOfRecipe, Results]], frame: pd.DataFrame) -> str:
    columns = {key: column(found[0][1].columns, key) for key in recipe.columns}
    published = [key for key in recipe.columns if frame.published[frame.metric == key].notna().any()]
    headers = [*_NAMES]
    for key, one in columns.items():
        unit = f", {one.unit}" if one.unit else ""
        headers += [f"{one.label}{unit}", *([f"{one.label}, published"] if key in published else [])]
    body = []
    shown = recipe.temperature
    chosen = frame["τ"].map(lambda heat: is_at(heat, shown))
    for names, rows in frame[chosen].groupby(_NAMES, sort=False):
        by_key = rows.set_index("metric")
        texts = [str(name) for name in names]
        for key in recipe.columns:
            texts.append(_figure(by_key.loc[key]))
            texts += [cell(by_key.loc[key, "published"])] if key in published else []
        body.append(texts)
    protocol: Mapping[str, Any] = reference([results for _, results in found]).metrics["protocol"]
    n_seeds, inputs = frame.seeds.max(), sorted({*zip(frame["data set"], frame.inputs, strict=True)})
    facts = [
        f"Published: {recipe.source}; – where it gives none.",
        f"Measured: {count(protocol['n_sample'], 'sample')} per input, seed {protocol['seed']}; "
        + "; ".join(f"{name}: {count(n, 'input')}" for name, n in inputs)
        + (f"; {n_seeds} training seeds" if n_seeds > 1 else "")
        + ". In brackets 95 % intervals: of one training Wilson's for rates and Student's t over inputs for means, of "
        "several over seeds and inputs; all cut to what the figure can be.",
        *(f"{one.label}: {protocol_of(key, protocol)}." for key, one in columns.items() if protocol_of(key, protocol)),
    ]
    table = tables.align(*seeds.drop_empty(body, headers), len(_NAMES), "markdown")
    return (
        "\n\n".join(filter(None, [f"# {recipe.title}", recipe.notes, table, "\n".join(f"- {one}" for one in facts)]))
        + "\n"
    )


def _figure(row: pd.Series) -> str:
    text = cell(row.measured)
    return text if math.isnan(row.low) else f"{text} [{cell(row.low)}, {cell(row.high)}]"
