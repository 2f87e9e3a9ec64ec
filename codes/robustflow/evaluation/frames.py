"""All results of an evaluation as one data frame, and its summary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustflow.evaluation import records
from robustflow.evaluation.metrics import Metric, SampleMetric
from robustflow.evaluation.metrics.base import first_of_image, mean
from robustflow.evaluation.metrics.failures import KEYS
from robustflow.evaluation.records import Record, heat_key
from robustflow.utils.files import write_atomically

NAMES = ("dataset", "image")
FLAGS = ("has_inf", "has_nan")
COUNTS = ("sample", "pixel_errors", "n_pixels")


def to_frame(found: Sequence[Record]) -> pd.DataFrame:
    """One row per image, temperature and sample, in this order, then the means over samples, of all data sets.

    Columns: ``dataset``, ``image``, ``heat``, ``sample``, those of the metrics, and what the samples of an image share.
    ``averaged``: of how many samples a row is the mean; NaN for samples. Other values that do not exist are NaN, too,
    and so is ``*_finite``, a metric's value, of samples that are not finite.
    """
    rows = [
        {
            "dataset": record.dataset,
            "image": record.image,
            **row,
            **_values_if_finite(row),
            **record.heats.get(heat_key(row["heat"]), {}),
            "bits_per_dim": record.bits_per_dim,
            "ood": record.ood,
        }
        for record in found
        for row in record.rows
    ]
    means = [mean for record in found for mean in rows_of_means(record.dataset, record.image, record.means)]
    return type_columns(pd.DataFrame([*rows, *means]))


def rows_of_means(dataset: str, image: str, means: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the frame that are ``means`` of a record."""
    return [
        {"dataset": dataset, "image": image, **row, **_values_if_finite(row), "averaged": row["sample"]}
        for row in means.values()
    ]


def _values_if_finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the metrics of a sample under `*_finite`, None unless it is finite."""
    failed = row["has_inf"] or row["has_nan"]
    keys = (key for key in row if key not in ("heat", "sample", *KEYS))
    return {f"{key}_finite": None if failed else row[key] for key in keys}


def type_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Names as objects, flags and counts as such, all else as floats, NaN where there is no value.

    Raises:
        ValueError: for what is no number.
    """
    frame = frame if "averaged" in frame else frame.assign(averaged=float("nan"))
    kinds = {**dict.fromkeys(NAMES, "object"), **dict.fromkeys(FLAGS, "bool"), **dict.fromkeys(COUNTS, "int64")}
    return frame.astype({key: kinds.get(key, "float64") for key in frame.columns})


def write_results(folder: Path, report: Mapping[str, Any], found: Sequence[Record]) -> None:
    """Write metrics.json and metrics.csv, the frame of the samples, each atomically."""
    write_atomically(folder / "metrics.json", records.to_json(report))
    if found:
        frame = to_frame(found)
        samples = frame[frame.averaged.isna()].drop(columns="averaged")
        write_atomically(folder / "metrics.csv", samples.to_csv(index=False, lineterminator="\r\n"))


def summarize_data_set(found: Sequence[Record], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Summary of a data set, as in metrics.json."""
    frame = to_frame(found)
    bits_per_dim = mean(first_of_image(frame, "bits_per_dim"))
    samples, means = (frame[one] for one in (frame.averaged.isna(), frame.averaged.notna()))
    heats = {heat_key(heat): summarize(part, metrics) for heat, part in samples.groupby("heat", sort=False)}
    of_means = {
        heat_key(heat): {**summarize(part, metrics), "n_averaged": int(part.averaged.iloc[0])}
        for heat, part in means.groupby("heat", sort=False)
    }
    return {
        "n_images": len(found),
        "heats": heats,
        **({"means": of_means} if of_means else {}),
        "bits_per_dim": bits_per_dim,
        # The published codes divide by pixel positions, not by dimensions.
        "nll_published": None if bits_per_dim is None else 3 * bits_per_dim,
        "ood_mean": mean(first_of_image(frame, "ood")),
    }


def summarize(frame: pd.DataFrame, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Summary of the samples of a data set at one temperature.

    Rates are in percent, ``*_ci`` their 95 % Wilson intervals. ``*_finite``: of finite samples alone, ``n_finite`` of
    ``n_samples``; ``n_images_finite`` of ``n_images`` have no others. ``best_of_n``: see `best_of_n`.
    """
    finite = ~(frame.has_inf | frame.has_nan)
    # Values of finite samples alone, under the usual names.
    names = {key: key.removesuffix("_finite") for key in frame if key.endswith("_finite")}
    of_finite = frame.drop(columns=list(names.values())).rename(columns=names)
    found: dict[str, Any] = {}
    for metric in metrics:
        found |= metric.summarize(frame)
        if metric.finite_too:
            found |= {f"{key}_finite": value for key, value in metric.summarize(of_finite).items()}
    ranked = [metric for metric in metrics if _gives_one_value(metric) and metric.better is not None]
    return {
        **found,
        "best_of_n": {metric.name: best_of_n(frame, metric.name, metric.better) for metric in ranked},
        "n_samples": len(frame),
        "n_finite": int(finite.sum()),
        "n_images": frame.image.nunique(),
        "n_images_finite": int(finite.groupby(frame.image).all().sum()),
    }


def _gives_one_value(metric: Metric) -> bool:
    """Whether each sample has a value under the metric's name, and no other."""
    return metric.keys == (metric.name,) if isinstance(metric, SampleMetric) else getattr(metric, "each", False)


def best_of_n(frame: pd.DataFrame, key: str, better: str | None) -> list[float | None]:
    """Means over images of the best among the first 1, 2, … samples; images without any are left out."""
    (images, of_images), (samples, of_samples) = pd.factorize(frame.image), pd.factorize(frame["sample"], sort=True)
    table = np.full((len(of_images), len(of_samples)), np.nan)
    table[images, samples] = frame[key]
    # Where a sample has no value, the best is that of those before it: fmin and fmax leave NaN out.
    best = (np.fmin if better == "low" else np.fmax).accumulate(table, axis=1)
    return [mean(values) for values in best.T.tolist()]
