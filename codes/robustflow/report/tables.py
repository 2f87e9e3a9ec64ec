"""Tables of evaluated models: on the screen, in Markdown, LaTeX and CSV, all of one data frame; of studies of one."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
from tabulate import tabulate

from robustflow.evaluation.description import describe_ood_fit
from robustflow.evaluation.metrics import Column
from robustflow.models import protocol
from robustflow.models.protocol import DENSITY, NO_LIKELIHOOD
from robustflow.report.columns import (
    NO_HEAT,
    cell,
    column,
    columns_of,
    keys_with_values,
    lines,
    mark,
    overview,
    say_bars,
)

log = logging.getLogger(__name__)

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
    "∞": r"$\infty$",
    "†": r"$\dagger$",
    "Δ": r"$\Delta$",
    "|": r"\textbar{}",
}
_STYLES = {"markdown": "github", "latex": "latex_raw"}
_BOLD: dict[str, Callable[[str], str]] = {"markdown": "**{}**".format, "latex": r"\textbf{{{}}}".format}


def to_frame(reports: Sequence[Mapping[str, Any]], models: Sequence[str] = ("",)) -> pd.DataFrame:
    """One row per data set, temperature or mean, and model, in this order: ``dataset``, ``heat``, ``model``, figures.

    Deterministic models come first in a data set, with a row each.

    Args:
        reports: Contents of metrics.json; data sets are those of the first, temperatures of the first of each kind.
        models: Their names.
    """
    named = list(zip(models, reports, strict=True))
    fixed = [each for each in named if protocol.read(each[1]).deterministic]
    kinds = [kind for kind in (fixed, [each for each in named if each not in fixed]) if kind]
    rows = [
        {"dataset": name, "heat": heat, "model": model, **lines(report, name).get(heat, {})}
        for name in reports[0]["datasets"]
        for kind in kinds
        for heat in lines(kind[0][1], name)
        for model, report in kind
    ]
    return pd.DataFrame(rows)


def mark_best(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Where a figure is the best of its data set and temperature, as printed; nowhere if all are equal, or alone.

    That of a deterministic model takes part at every temperature, and has to be the best at all.
    """
    groups: list[pd.DataFrame] = []
    for _, of_set in frame.groupby("dataset", sort=False):
        fixed = of_set[of_set.heat == NO_HEAT]
        drawn = of_set[of_set.heat != NO_HEAT].groupby("heat", sort=False)
        groups += [pd.concat([fixed, of_heat]) for _, of_heat in drawn] or [fixed]
    marks = [pd.DataFrame({one.key: _is_best(group[one.key], one.better) for one in columns}) for group in groups]
    return pd.concat(marks).groupby(level=0).all()


def _is_best(values: pd.Series, better: str | None) -> pd.Series:
    known = values.dropna()
    if better is None or known.map(cell).nunique() < 2:
        return pd.Series(False, index=values.index)
    return values.map(cell) == cell(known.min() if better == "low" else known.max())


def write_table(frame: pd.DataFrame, columns: Sequence[Column], style: str) -> str:
    """A frame of `to_frame` as text: "simple", "markdown" or "latex", the best figures bold, or "csv" with every digit.

    Without a column ``model`` there is one model.
    """
    if style == "csv":
        return _csv(frame, columns)
    titles = {"dataset": "data set", "heat": "τ", "model": "model"}
    names = [name for name in titles if name in frame]
    escape, number = (latex, _latex_number) if style == "latex" else (str, str)
    bold = _BOLD.get(style, str)
    best = mark_best(frame, columns)
    cells = frame[names].map(escape)
    for one in columns:
        texts = frame[one.key].map(partial(mark, column=one)).map(number)
        cells[one.key] = texts.where(~best[one.key], texts.map(bold))
    headers = [escape(title) for title in (*(titles[name] for name in names), *(one.label for one in columns))]
    return align(cells.to_numpy().tolist(), headers, len(names), style)


def _csv(frame: pd.DataFrame, columns: Sequence[Column]) -> str:
    """Every digit; intervals beside their figures."""
    found = frame[["dataset", "heat", "model"]].copy()
    for one in columns:
        found[one.key] = frame[one.key]
        interval = f"{one.key.removesuffix('_pct')}_ci"
        if one.key.endswith("_pct") and interval in frame:
            ends = [ci if isinstance(ci, list) else [None, None] for ci in frame[interval]]
            found[[f"{one.key}_low", f"{one.key}_high"]] = pd.DataFrame(ends, index=frame.index, dtype="float64")
    return found.to_csv(index=False)


def latex(text: str) -> str:
    """Text as LaTeX source."""
    return r"$\infty$" if text == "inf" else "".join(_LATEX.get(character, character) for character in text)


def _latex_number(text: str) -> str:
    """A number as LaTeX source: with a minus in front, in place of a hyphen."""
    return latex(f"−{text[1:]}" if text.startswith("-") else text)


def markdown(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return " ".join(text.splitlines()).replace("|", r"\|")


def align(rows: Sequence[Sequence[str]], headers: Sequence[str], n_texts: int, style: str) -> str:
    """Table whose first columns are texts and whose others are numbers, aligned right; Markdown is escaped here."""
    alignment = ["left"] * n_texts + ["right"] * (len(headers) - n_texts)
    if style == "markdown":
        headers, *rows = ([markdown(text) for text in row] for row in (headers, *rows))
    return tabulate(rows, headers, _STYLES.get(style, style), disable_numparse=True, colalign=alignment)


def footnotes(reports: Sequence[Mapping[str, Any]]) -> str:
    """What a reader of the table of these metrics.json may not expect."""
    known = keys_with_values(reports)
    barred = [one for report in reports if "columns" in report for one in columns_of(report).values()]
    fixed = all(protocol.read(report).deterministic for report in reports)
    unknown = NO_LIKELIHOOD if fixed else "not known without ground truth"
    density = f"bits/dim: {DENSITY if 'bits_per_dim' in known else unknown}"
    fits = dict.fromkeys(f"OOD score: {describe_ood_fit(report.get('ood_fit'))}" for report in reports)
    # Tables of several models do not show the score.
    fit = fits if "ood_mean" in known and len(fits) == 1 else ()
    return "\n".join(["; ".join(filter(None, (density, say_bars(barred)))), *fit])


def choose_columns(*reports: Mapping[str, Any]) -> list[Column]:
    """Columns of the table of one model, tested once or more: the overview, and the OOD score where there is one."""
    known = keys_with_values(reports)
    return [*overview(reports), *(column(columns_of(reports[0]), key) for key in ("ood_mean",) if key in known)]


def table(report: Mapping[str, Any], style: str = "simple") -> str:
    """Table of one model."""
    frame = to_frame([report]).drop(columns="model")
    return write_table(frame, choose_columns(report), style)


def best_of_n(result: Mapping[str, Any]) -> str:
    """Table of the best of the first 1, 2, … n samples, per data set and temperature."""
    parts = {
        (name, heat): pd.DataFrame(of_heat["best_of_n"])
        for name, dataset in result["datasets"].items()
        for heat, of_heat in dataset["heats"].items()
    }
    frame = pd.concat(parts, names=["data set", "τ", "best of"]).dropna(axis=1, how="all")
    columns = columns_of(result)
    shown = [one for one in (column(columns, key) for key in frame) if "best" in one.places]
    rows = [
        [name, heat, str(number + 1), *(cell(values[one.key]) for one in shown)]
        for (name, heat, number), values in frame.iterrows()
    ]
    return align(rows, ["data set", "τ", "best of", *(one.label for one in shown)], 3, "markdown")


def over_seeds(results: Sequence[Mapping[str, Any]]) -> str:
    """Table of the mean ± standard deviation (of a sample, n − 1) over results that differ in the seed alone."""
    log.info("%s", footnotes(results))
    columns = choose_columns(*results)
    frame = to_frame(results, [""] * len(results))
    groups = frame.groupby(["dataset", "heat"], sort=False)
    rows = [[*names, *(_spread(of_line[one.key]) for one in columns)] for names, of_line in groups]
    return align(rows, ["data set", "τ", *(one.label for one in columns)], 2, "markdown")


def _spread(values: pd.Series) -> str:
    if values.isna().any():
        return "–"
    mean = values.mean()
    return cell(mean) if len(values) < 2 or math.isinf(mean) else f"{cell(mean)} ± {cell(values.std())}"
