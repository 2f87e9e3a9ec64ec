"""Reading results folders: what test.py wrote, as values."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from robustflow.evaluation.metrics.robustness import Failures
from robustflow.evaluation.records import heat_key
from robustflow.utils.errors import UserError
from robustflow.utils.files import require_inside

Row = dict[str, Any]
_INTEGERS = frozenset({"sample", "pixel_errors", "n_pixels"})
_FLAGS = frozenset({"has_inf", "has_nan"})
_TEXTS = frozenset({"dataset", "image"})
_COLUMNS = ("dataset", "image", "heat", "sample", *(field.name for field in fields(Failures)))


def extent_key(row: Row) -> str:
    """How far a sample goes: from its input, or, where it is meant to be far from an input of its size, at all."""
    return "max_abs" if "psnr_gtmean" in row else "max_residual"


@dataclass(frozen=True)
class ImageResult:
    """All that was measured on one image.

    Attributes:
        rows: One per temperature and sample; keys as the columns of metrics.csv, None where there is no value.
        size: Height and width of the samples, pixels.
        ood: OOD score.
        latents: Histogram of the latents: edges, counts, mean, std.
        heats: Figures over all samples of a temperature, by temperature.
        means: Row of the mean of the samples, by temperature, where the protocol has it.
    """

    dataset: str
    image: str
    rows: tuple[Row, ...]
    size: tuple[int, int] | None = None
    ood: float | None = None
    latents: Mapping[str, Any] | None = None
    heats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    means: Mapping[str, Row] = field(default_factory=dict)

    def at(self, heat: str) -> list[Row]:
        """Rows of one temperature, by sample."""
        return [row for row in self.rows if heat_key(row["heat"]) == heat]

    def values(self, key: str, heat: str | None = None) -> list[float]:
        """The values of a column that exist, of one temperature or of all."""
        rows = self.rows if heat is None else self.at(heat)
        return [row[key] for row in rows if row.get(key) is not None]

    @property
    def same_size(self) -> bool:
        """Whether input and output are of one size, so that samples are meant to be far from the input."""
        return extent_key(self.rows[0]) == "max_abs"

    @property
    def failed(self) -> bool:
        """Whether any sample has a pixel error."""
        return any(row["pixel_errors"] > 0 for row in self.rows)


@dataclass(frozen=True)
class Results:
    """A results folder: metrics.json, the images by data set, and what else lies there."""

    folder: Path
    metrics: dict[str, Any]
    images: dict[str, tuple[ImageResult, ...]]
    options: str | None
    ood: Any

    @property
    def label(self) -> str:
        """Short name of the run."""
        return str(self.metrics["name"]).rsplit("/", 1)[-1]

    @property
    def heats(self) -> list[str]:
        """All temperatures, ascending."""
        found = {heat for dataset in self.metrics["datasets"].values() for heat in dataset["heats"]}
        return sorted(found, key=float)


def sample_file(folder: Path, dataset: str, image: str, heat: str, sample: int) -> Path:
    """The PNG of a sample."""
    return folder / dataset / f"{image}_t{heat}_{sample:02d}.png"


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read a results folder's metrics.json."""
    report = _json(folder / "metrics.json")
    if not isinstance(report, dict) or not {"name", "protocol", "datasets"} <= report.keys():
        raise UserError(
            f"{folder / 'metrics.json'}: expected name, protocol and datasets, got something else; run test.py"
        )
    sets = report["datasets"]
    if (
        not isinstance(sets, dict)
        or not isinstance(report["protocol"], dict)
        or not all(map(_has_heats, sets.values()))
    ):
        raise UserError(f"{folder / 'metrics.json'}: expected figures by data set and temperature; run test.py again")
    return report


def _has_heats(dataset: Any) -> bool:
    heats = dataset.get("heats") if isinstance(dataset, dict) else None
    return isinstance(heats, dict) and all(isinstance(of_heat, dict) for of_heat in heats.values())


def read_rows(folder: Path) -> list[Row]:
    """Rows of a results folder's metrics.csv, typed."""
    path = folder / "metrics.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [key for key in _COLUMNS if key not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{', '.join(missing)}: missing")
            return [{key: _typed(key, text) for key, text in row.items()} for row in reader]
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
    metrics = read_metrics(folder)
    by_image: dict[tuple[str, str], list[Row]] = {}
    for row in read_rows(folder):
        by_image.setdefault((row["dataset"], row["image"]), []).append(row)
    images: dict[str, list[ImageResult]] = {name: [] for name in metrics["datasets"]}
    for (dataset, image), rows in by_image.items():
        # Names that lead elsewhere would have other files read and shown.
        require_inside(folder, dataset, f"{image}_lr.png")
        require_inside(folder, "records", dataset, f"{image}.json")
        images.setdefault(dataset, []).append(_with_record(folder, dataset, image, rows))
    options, ood = folder / "options.yml", folder / "ood.json"
    return Results(
        folder,
        metrics,
        {name: tuple(found) for name, found in images.items()},
        options.read_text(encoding="utf-8") if options.is_file() else None,
        _json(ood) if ood.is_file() else None,
    )


def _with_record(folder: Path, dataset: str, image: str, rows: list[Row]) -> ImageResult:
    file = folder / "records" / dataset / f"{image}.json"
    if not file.is_file():
        return ImageResult(dataset, image, tuple(rows))
    record = _json(file)
    if not _match(rows, record.get("rows", [])):
        return ImageResult(dataset, image, tuple(rows))
    size = record.get("size")
    return ImageResult(
        dataset,
        image,
        tuple(rows),
        None if size is None else (int(size[0]), int(size[1])),
        record.get("ood"),
        record.get("latents"),
        record.get("heats") or {},
        record.get("means") or {},
    )


def _match(rows: list[Row], recorded: list[Row]) -> bool:
    """Whether a record is of the same samples; that of another, interrupted evaluation may lie there."""
    return len(rows) == len(recorded) and all(
        {**row, **of_record} == row for row, of_record in zip(rows, recorded, strict=True)
    )


def _typed(key: str, text: str) -> Any:
    if key in _TEXTS:
        return text
    if text in ("", "None", "nan"):
        return None
    if key in _FLAGS:
        return text == "True"
    return int(text) if key in _INTEGERS else float(text)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path.parent}: expected a results folder with {path.name}, found none; run test.py first"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON ({error}); run test.py again") from error


def names_of(runs: Sequence[Results]) -> list[str]:
    """Short names of the runs, or full ones where short ones are equal."""
    short = [run.label for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]
