"""What is known of one evaluated image, kept in a file of its own: an interrupted evaluation goes on where it was."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from robustflow.utils.files import write_atomically

# Counts in the fingerprint: records of another format are made anew.
FORMAT = 2


@dataclass(frozen=True)
class Record:
    """One evaluated image.

    Attributes:
        fingerprint: Of everything the record depends on.
        dataset: Name of the data set.
        image: Name of the image.
        size: Height and width of its samples, pixels.
        bits_per_dim: Of the ground truth; None without one.
        ood: Out-of-distribution score of the input; None where none was fitted.
        latents: Histogram of the ground truth's latents: edges, counts, mean, std; None without ground truth.
        rows: One per temperature (heat) and sample: the values of metrics of samples, by name.
        heats: Values of metrics of sets of samples, by temperature, as written in file names.
        means: Row of the mean of all samples of a temperature, likewise; its ``sample`` is their number. Empty unless
            the protocol has it.
        colour: Colourfulness of the input; None where no out-of-distribution score was fitted.
    """

    fingerprint: str
    dataset: str
    image: str
    size: tuple[int, int]
    bits_per_dim: float | None
    ood: float | None
    latents: dict[str, Any] | None
    rows: list[dict[str, Any]]
    heats: dict[str, dict[str, Any]]
    means: dict[str, dict[str, Any]] = field(default_factory=dict)
    colour: float | None = None


def path_of(folder: Path, dataset: str, image: str) -> Path:
    """File of an image's record."""
    return folder / "records" / dataset / f"{image}.json"


def list_pictures(folder: Path, dataset: str) -> dict[str, list[Path]]:
    """Pictures of a data set, of an earlier evaluation or this one, by the image's name."""
    found: dict[str, list[Path]] = {}
    pattern = re.compile(r"(.+)_(lr|gt|t[-+.e\d]+_(\d+|std|mask|mean))\.png")
    place = folder / dataset
    for file in place.glob("*.png") if place.is_dir() else ():
        match = pattern.fullmatch(file.name)
        if match is not None:
            found.setdefault(match[1], []).append(file)
    return found


def remove(folder: Path, dataset: str, image: str, pictures: Iterable[Path]) -> None:
    """Remove an image's record and ``pictures``."""
    for file in (path_of(folder, dataset, image), *pictures):
        file.unlink(missing_ok=True)


def write(folder: Path, record: Record) -> None:
    """Write a record, atomically."""
    values = {key: value for key, value in asdict(record).items() if key != "means" or value}
    write_atomically(path_of(folder, record.dataset, record.image), to_json(values), durable=False)


def read(folder: Path, dataset: str, image: str, fingerprint: str) -> Record | None:
    """Read an image's record; None if there is none of this fingerprint."""
    try:
        values = json.loads(path_of(folder, dataset, image).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(values, dict) or values.get("fingerprint") != fingerprint:
        return None
    return Record(**{**values, "size": tuple(values["size"])})


def fingerprint(common: Mapping[str, Any], *tensors: Tensor | None) -> str:
    """Digest of what results depend on: options and weights (``common``, plain values), and the image's tensors."""
    digest = hashlib.sha256(json.dumps({**common, "format": FORMAT}, sort_keys=True).encode())
    for tensor in tensors:
        digest.update(b"none" if tensor is None else f"{tuple(tensor.shape)}".encode())
        if tensor is not None:
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def to_json(values: Mapping[str, Any]) -> str:
    """Standard JSON, which lacks two values: infinity becomes 1e999, which parsers read as infinity, and NaN null."""
    literals = {"NaN": "null", "Infinity": "1e999", "-Infinity": "-1e999"}
    text = json.dumps(values, indent=2)
    return re.sub(r'"(?:\\.|[^"\\])*"|NaN|-?Infinity', lambda match: literals.get(match[0], match[0]), text) + "\n"


def known_bits(bits: Tensor) -> float:
    """Bits per dimension, one value, for a record. NaN means that encoding failed: infinitely unlikely."""
    return math.inf if bits.isnan() else bits.item()


def heat_key(heat: float) -> str:
    """A temperature as it stands in file names and JSON."""
    return f"{heat:g}"
