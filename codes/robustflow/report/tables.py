"""Tables of one evaluated model for the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from robustflow.report.columns import DENSITY, cell, column, fidelity, lines, overview, shown

__all__ = ["aligned", "cell", "columns_of", "footnotes", "rows_of", "table"]

# Shown where they were computed.
OPTIONAL = ("lpips", "lpips_gtmean", "diversity_score", "ood_mean")


def rows_of(report: Mapping[str, Any], columns: Sequence[str]) -> list[list[str]]:
    """One row per data set and temperature of a metrics.json: data set, tau, then the columns; likewise of means."""
    return [
        [name, heat, *(cell(values.get(key)) for key in columns)]
        for name, dataset in report["datasets"].items()
        for heat, values in lines(dataset).items()
    ]


def columns_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Headings of the columns that tables of a metrics.json have, whether computed or not, by key."""
    wanted = (key for key in fidelity(report) if key not in (*OPTIONAL, "diversity_sigma"))
    return {key: column(key).label for key in (*overview(report), *wanted)}


def aligned(rows: Sequence[Sequence[str]], headers: Sequence[str], n_texts: int, style: str) -> str:
    """Table whose first columns are texts and whose others are numbers, aligned right."""
    alignment = ["left"] * n_texts + ["right"] * (len(headers) - n_texts)
    return tabulate(rows, headers, style, disable_numparse=True, colalign=alignment)


def footnotes(reports: Sequence[Mapping[str, Any]]) -> str:
    """What a reader of the table of these metrics.json may not expect."""
    return f"bits/dim: {DENSITY}" if shown(reports, ["bits_per_dim"]) else "bits/dim: not known without ground truth"


def table(report: Mapping[str, Any]) -> str:
    """Table of one model for the screen."""
    columns = {**columns_of(report), **{key: column(key).label for key in shown([report], OPTIONAL)}}
    return aligned(rows_of(report, list(columns)), ["data set", "τ", *columns.values()], 1, "simple")
