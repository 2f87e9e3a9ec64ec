"""What is known of one evaluated image, kept in a file of its own: an interrupted evaluation goes on where it was."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from robustflow.evaluation.metrics.robustness import Failures
from robustflow.utils.files import write_atomically

# Counts in the fingerprint: records of another format are made anew.
FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One sample of one image; a figure is None where there is no reference, or the sample is not finite.

    Attributes:
        dataset: Name of the data set.
        image: Name of the image.
        heat: Temperature.
        sample: Number, from 0.
        failures: Failures of the float sample.
        lr_psnr: dB, against the LR reference of the protocol.
        lr_psnr_gt: dB, against the downsampled ground truth.
        lr_psnr_lr: dB, against the input.
        psnr: dB, RGB; ``psnr_y``: of luma.
        ssim: Mean over RGB; ``ssim_y``: of luma.
        lpips: Learned perceptual distance.
        further: Figures that the protocol adds, by the name of their column; the same ones in all rows.
    """

    dataset: str
    image: str
    heat: float
    sample: int
    failures: Failures
    lr_psnr: float | None = None
    lr_psnr_gt: float | None = None
    lr_psnr_lr: float | None = None
    psnr: float | None = None
    ssim: float | None = None
    psnr_y: float | None = None
    ssim_y: float | None = None
    lpips: float | None = None
    further: Mapping[str, float | None] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Columns of the CSV file."""
        own = {key: value for key, value in vars(self).items() if key not in ("failures", "further")}
        return {**own, **self.further, **vars(self.failures)}

    def figure(self, key: str) -> float | None:
        """A figure by the name of its column."""
        found: float | None = self.further[key] if key in self.further else getattr(self, key)
        return found

    def without_names(self) -> dict[str, Any]:
        """All but data set and image."""
        return {key: value for key, value in self.flat().items() if key not in ("dataset", "image")}


@dataclass(frozen=True)
class OfHeat:
    """What concerns all samples of one image at one temperature.

    Attributes:
        diversity_sigma: Mean over pixels of the standard deviation over finite samples, on the 0-255 scale.
        diversity_score: Of the NTIRE challenge, percent; None without LPIPS.
    """

    diversity_sigma: float | None
    diversity_score: float | None


@dataclass(frozen=True)
class Latents:
    """Histogram of an image's latents, which should be N(0, 1): counts between edges, mean and standard deviation."""

    edges: list[float]
    counts: list[int]
    mean: float
    std: float


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
        latents: Of the ground truth; None without one.
        rows: One per temperature and sample.
        heats: By temperature, as written in file names.
        means: Of the mean of all samples of a temperature, likewise; its ``sample`` is their number. Empty unless the
            protocol has it.
    """

    fingerprint: str
    dataset: str
    image: str
    size: tuple[int, int]
    bits_per_dim: float | None
    ood: float | None
    latents: Latents | None
    rows: list[Row]
    heats: dict[str, OfHeat]
    means: dict[str, Row] = field(default_factory=dict)


def path_of(folder: Path, dataset: str, image: str) -> Path:
    """File of an image's record."""
    return folder / "records" / dataset / f"{image}.json"


def remove(folder: Path, dataset: str, image: str) -> None:
    """Remove an image's record and pictures."""
    path_of(folder, dataset, image).unlink(missing_ok=True)
    first = folder / dataset / image
    pattern = re.compile(re.escape(first.name) + r"_(lr|gt|t[-+.e\d]+_(\d+|std|mask|mean))\.png")
    for file in first.parent.glob("*.png") if first.parent.is_dir() else ():
        if pattern.fullmatch(file.name) is not None:
            file.unlink()


def write(folder: Path, record: Record) -> None:
    """Write a record, atomically."""
    values = {**asdict(record), "rows": [row.without_names() for row in record.rows]}
    values["means"] = {heat: row.without_names() for heat, row in record.means.items()}
    if not record.means:
        del values["means"]
    write_atomically(path_of(folder, record.dataset, record.image), to_json(values).encode(), durable=False)


def read(folder: Path, dataset: str, image: str, fingerprint: str) -> Record | None:
    """Read an image's record; None if there is none of this fingerprint."""
    try:
        values = json.loads(path_of(folder, dataset, image).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(values, dict) or values.get("fingerprint") != fingerprint:
        return None
    latents = values["latents"]
    return Record(
        **{
            **values,
            "size": tuple(values["size"]),
            "latents": None if latents is None else Latents(**latents),
            "rows": [_row(dataset, image, row) for row in values["rows"]],
            "heats": {heat: OfHeat(**of_heat) for heat, of_heat in values["heats"].items()},
            "means": {heat: _row(dataset, image, row) for heat, row in values.get("means", {}).items()},
        }
    )


def _row(dataset: str, image: str, values: Mapping[str, Any]) -> Row:
    of_failures, of_row = ({field.name for field in fields(kind)} for kind in (Failures, Row))
    failures = Failures(**{key: value for key, value in values.items() if key in of_failures})
    own = {key: value for key, value in values.items() if key in of_row}
    further = {key: value for key, value in values.items() if key not in of_failures | of_row}
    return Row(dataset, image, failures=failures, further=further, **own)


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
