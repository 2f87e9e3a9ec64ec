"""Reading results folders: what test.py wrote, as values."""

import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustflow.evaluation import description, frames
from robustflow.evaluation.description import add_finite
from robustflow.evaluation.metrics import Column
from robustflow.evaluation.metrics.failures import KEYS, Failures
from robustflow.evaluation.records import heat_key, path_of
from robustflow.models import protocol
from robustflow.report.columns import columns_of
from robustflow.utils.errors import UserError
from robustflow.utils.files import require_inside

# What earlier versions did with samples that are not finite.
LEFT_OUT = "left out; figures of all samples are not known where one is not finite"
# Figures that were of all samples in earlier versions, too, or are of none.
_OF_ALL = {one.key for one in (*description.BEFORE, *Failures().columns, *description.AFTER)}
_COLUMNS = (*frames.NAMES, "heat", "sample", *KEYS)


@dataclass(frozen=True)
class Results:
    """A results folder.

    Attributes:
        metrics: Content of metrics.json.
        frame: See `frames.to_frame`; besides its columns ``tau``, the temperature as text.
        latents: Histograms of the latents by data set and image: edges, counts, mean, std.
        options: Content of options.yml, or None.
        ood: Content of ood.json, or None.
    """

    folder: Path
    metrics: dict[str, Any]
    frame: pd.DataFrame
    latents: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    options: str | None = None
    ood: Mapping[str, Any] | None = None

    @property
    def heats(self) -> list[str]:
        """All temperatures, ascending."""
        found = {heat for dataset in self.metrics["datasets"].values() for heat in dataset["heats"]}
        return sorted(found, key=float)

    @property
    def protocol(self) -> protocol.Protocol:
        """The model's protocol."""
        return protocol.read(self.metrics)

    @property
    def left_out(self) -> bool:
        """Whether samples that are not finite were left out, as earlier versions did."""
        return self.metrics["protocol"]["non_finite"] == LEFT_OUT

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Columns by key."""
        return columns_of(self.metrics)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """Rows of the frame that are samples, not means of them."""
        return self.frame[self.frame.averaged.isna()]

    def of_set(self, dataset: str, heat: str | None = None) -> pd.DataFrame:
        """Rows of the samples of a data set, at one temperature or at all."""
        rows = self.samples[self.samples.dataset == dataset]
        return rows if heat is None else rows[rows.tau == heat]

    def of_image(self, dataset: str, image: str) -> pd.DataFrame:
        """Rows of an image, means included."""
        return self.frame[(self.frame.dataset == dataset) & (self.frame.image == image)]


def reference(runs: Sequence[Results]) -> Results:
    """The first run that draws samples, or, of deterministic models alone, the first: its temperatures are shown."""
    return next((run for run in runs if not run.protocol.deterministic), runs[0])


def sample_file(folder: Path, row: Mapping[str, Any]) -> Path:
    """The PNG of a row of a frame: of a sample, or of the mean of samples."""
    number = f"{int(row['sample']):02d}" if pd.isna(row["averaged"]) else "mean"
    return folder / row["dataset"] / f"{row['image']}_t{row['tau']}_{number}.png"


def worst_row(rows: pd.DataFrame, extent: str) -> dict[str, Any]:
    """The row that goes furthest; of equals, such as infinite ones, the first at the highest temperature."""
    furthest = rows[rows[extent] == rows[extent].max()]
    return furthest.loc[furthest.heat.idxmax()].to_dict()


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read a results folder's metrics.json."""
    path = folder / "metrics.json"
    report = _json(path)
    if not {"name", "protocol", "datasets"} <= report.keys():
        raise UserError(f"{path}: expected name, protocol and datasets, got something else; run test.py")
    described, sets = report["protocol"], report["datasets"]
    if not isinstance(described, dict) or not isinstance(sets, dict) or not all(map(_has_heats, sets.values())):
        raise UserError(f"{path}: expected figures by data set and temperature; run test.py again")
    return report if "non_finite" in report["protocol"] else _read_older(report)


def _read_older(report: dict[str, Any]) -> dict[str, Any]:
    """Report of an earlier version, whose figures are of finite samples alone, by the names of today."""
    columns = columns_of(report)
    keys = {key for key in columns if key not in _OF_ALL and not key.endswith("_finite")}
    named = {new.key: new for one in columns.values() for new in (add_finite([one]) if one.key in keys else [one])}

    def rename(dataset: Mapping[str, Any]) -> dict[str, Any]:
        renamed = dict(dataset)
        for kind in renamed.keys() & {"heats", "means"}:
            renamed[kind] = {heat: _rename_finite(values, keys) for heat, values in dataset[kind].items()}
        return renamed

    # As they are worded today, so that what is the same can be compared.
    protocol = {
        key: re.sub(r", finite samples|(?<=over )finite (?=samples)", "", value) if isinstance(value, str) else value
        for key, value in report["protocol"].items()
    }
    return {
        **report,
        "protocol": {**protocol, "non_finite": LEFT_OUT},
        "columns": [one._asdict() for one in named.values()],
        "datasets": {name: rename(dataset) for name, dataset in report["datasets"].items()},
    }


def _rename_finite(values: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """Figures of finite samples as such, and as those of all samples where no others were drawn."""
    of_all = values.get("n_finite") == values.get("n_samples")
    measured = {key: value for key, value in values.items() if key in keys}
    named = {f"{key}_finite": value for key, value in measured.items()}
    return {**values, **(measured if of_all else dict.fromkeys(measured)), **named}


def _has_heats(dataset: Any) -> bool:
    heats = dataset.get("heats") if isinstance(dataset, dict) else None
    return isinstance(heats, dict) and all(isinstance(of_heat, dict) for of_heat in heats.values())


def read_samples(folder: Path) -> pd.DataFrame:
    """The frame of a results folder's metrics.csv."""
    path = folder / "metrics.csv"
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        missing = [key for key in _COLUMNS if key not in frame]
        if missing:
            raise ValueError(f"{', '.join(missing)}: missing")
        values = frame.columns.difference([*frames.NAMES, *frames.FLAGS])
        frame[values] = frame[values].replace({"": "nan", "None": "nan"})
        frame[list(frames.FLAGS)] = frame[list(frames.FLAGS)] == "True"
        return frames.type_columns(frame)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: expected a results folder with metrics.csv, found none; run test.py first"
        ) from error
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: expected the columns that test.py writes ({error}); run test.py again") from error


def read(folder: Path) -> Results:
    """Read a results folder; records/ completes the rows of metrics.csv where it exists.

    Raises:
        UserError: for a folder without metrics.json or metrics.csv, or one where they are damaged.
    """
    metrics, samples = read_metrics(folder), read_samples(folder)
    columns = {key: samples[key].to_numpy() for key in samples}
    numbers: dict[tuple[str, str], list[int]] = {}
    for number, names in enumerate(zip(samples.dataset, samples.image, strict=True)):
        numbers.setdefault(names, []).append(number)
    means: list[dict[str, Any]] = []
    latents, scores = {}, {}
    for (dataset, image), own in numbers.items():
        # Names that lead elsewhere would have other files read and shown.
        require_inside(folder, dataset, f"{image}_lr.png")
        require_inside(folder, "records", dataset, f"{image}.json")
        record = _record_of(folder, dataset, image, {key: values[own] for key, values in columns.items()})
        scores[dataset, image] = record.get("ood")
        if record.get("latents") is not None:
            latents[dataset, image] = record["latents"]
        means += frames.rows_of_means(dataset, image, record.get("means") or {})
    parts = [samples, frames.type_columns(pd.DataFrame(means))] if means else [samples]
    frame = pd.concat(parts, ignore_index=True)
    keys = zip(frame.dataset, frame.image, strict=True)
    frame["ood"] = pd.Series([scores[key] for key in keys], index=frame.index, dtype="float64")
    frame["tau"] = frame.heat.map(heat_key)
    if metrics["protocol"]["non_finite"] == LEFT_OUT:
        frame = _leave_out(frame)
    options, ood = folder / "options.yml", folder / "ood.json"
    return Results(
        folder,
        metrics,
        frame,
        latents,
        options.read_text(encoding="utf-8") if options.is_file() else None,
        _json(ood) if ood.is_file() else None,
    )


def _leave_out(frame: pd.DataFrame) -> pd.DataFrame:
    """Frame of an earlier version: what has no value where a sample is not finite has none of its others, either."""
    groups = [frame.dataset, frame.image, frame.tau, frame.averaged.notna()]
    incomplete = (frame.has_inf | frame.has_nan).groupby(groups).transform("any")
    values = frame.columns.difference([*_COLUMNS, *_OF_ALL, "averaged", "tau"])
    values = values[~values.str.endswith("_finite")]
    named = {f"{key}_finite": frame[key] for key in values}
    return frame.assign(**named, **{key: frame[key].mask(incomplete) for key in values})


def _record_of(folder: Path, dataset: str, image: str, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The record of an image; empty if none is of these samples: that of an interrupted evaluation may be there."""
    file = path_of(folder, dataset, image)
    record = _json(file) if file.is_file() else {}
    rows = record.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return {}
    keys: set[str] = set().union(*rows)
    if len(rows) != len(columns["image"]) or not keys <= columns.keys():
        return {}
    # A data frame per image would take most of the time that a page takes.
    return record if all(_are_recorded(columns[key].tolist(), [row.get(key) for row in rows]) for key in keys) else {}


def _are_recorded(values: Sequence[Any], recorded: Sequence[Any]) -> bool:
    """Whether a column of metrics.csv holds recorded values; NaN stands for None."""
    pairs = zip(values, recorded, strict=True)
    return all(ours == theirs or (theirs is None and ours != ours) for ours, theirs in pairs)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent}: expected a results folder with {path.name}, found none; run test.py first"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON ({error}); run test.py again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, got {found!r:.40}; run test.py again")
    return found


def names_of(runs: Sequence[Results]) -> list[str]:
    """Names of the runs that differ; see `tell_apart`."""
    return tell_apart([str(run.metrics["name"]) for run in runs], [run.folder for run in runs])


def tell_apart(full: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Last parts of the names of runs; where these are equal what differs in the names, as of x/affine/0 and
    x/spline/0; where they are equal, too, the folders of the results."""
    parts = [name.split("/") for name in full]
    before, after = _n_equal(parts), _n_equal([one[::-1] for one in parts])
    differing = ["/".join(one[before : len(one) - after]) for one in parts]
    found = ([one[-1] for one in parts], differing, list(full))
    return next((names for names in found if len({*names}) == len(names) and all(names)), [str(f) for f in folders])


def _n_equal(lists: Sequence[Sequence[str]]) -> int:
    """How many first items of all lists are equal."""
    return next((k for k, items in enumerate(zip(*lists, strict=False)) if len({*items}) > 1), min(map(len, lists)))
