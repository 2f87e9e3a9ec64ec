"""Studies of one model as tables: the best of n samples, over seeds."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from robustflow.report import tables
from robustflow.report.columns import cell, column, columns_of

log = logging.getLogger(__name__)


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
    return tables.align(rows, ["data set", "τ", "best of", *(one.label for one in shown)], 3, "markdown")


def over_seeds(results: Sequence[Mapping[str, Any]]) -> str:
    """Table of the mean ± standard deviation (of a sample, n − 1) over results that differ in the seed alone."""
    log.info("%s", tables.footnotes(results))
    columns = tables.choose_columns(*results)
    frame = pd.concat([tables.to_frame([result]) for result in results])
    groups = frame.groupby(["dataset", "heat"], sort=False)
    rows = [[*names, *(_spread(of_line[one.key]) for one in columns)] for names, of_line in groups]
    return tables.align(rows, ["data set", "τ", *(one.label for one in columns)], 2, "markdown")


def _spread(values: pd.Series) -> str:
    if values.isna().any():
        return "–"
    mean = values.mean()
    return cell(mean) if len(values) < 2 or math.isinf(mean) else f"{cell(mean)} ± {cell(values.std())}"
