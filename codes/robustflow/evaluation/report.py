"""Tables of one evaluated model for the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from robustflow.evaluation.columns import OVERVIEW, cell, column, shown, values_at

__all__ = ["COLUMNS", "FIDELITY", "aligned", "cell", "rows_of", "table"]

COLUMNS = {key: column(key).label for key in OVERVIEW}
FIDELITY = {key: column(key).label for key in ("psnr", "ssim")}
# Shown where they were computed.
OPTIONAL = {key: column(key).label for key in ("lpips", "diversity_score", "ood_mean")}


def rows_of(report: Mapping[str, Any], columns: Sequence[str]) -> list[list[str]]:
    """One row per data set and temperature of a metrics.json: data set, tau, then the columns."""
    return [
        [name, heat, *(cell(values_at(dataset, heat).get(key)) for key in columns)]
        for name, dataset in report["datasets"].items()
        for heat in dataset["heats"]
    ]


def aligned(rows: Sequence[Sequence[str]], headers: Sequence[str], n_texts: int, style: str) -> str:
    """Table whose first columns are texts and whose others are numbers, aligned right."""
    alignment = ["left"] * n_texts + ["right"] * (len(headers) - n_texts)
    return tabulate(rows, headers, style, disable_numparse=True, colalign=alignment)


def table(report: Mapping[str, Any]) -> str:
    """Table of one model for the screen."""
    columns = {**COLUMNS, **FIDELITY, **{key: OPTIONAL[key] for key in shown([report], list(OPTIONAL))}}
    return aligned(rows_of(report, list(columns)), ["data set", "τ", *columns.values()], 1, "simple")
