"""How well restoration works: degraded, super-resolved and restored images against clean ones (SRFlow, Table 2)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor
from tqdm import tqdm

from robustflow.data import BundledSource
from robustflow.data.degradations import Degradation, build
from robustflow.data.images import read_image, to_float, to_uint8, write_png
from robustflow.evaluation.metrics.failures import pixel_errors
from robustflow.latent import edit
from robustflow.latent.inputs import find_images
from robustflow.latent.measure import Figures, Likeness
from robustflow.latent.space import Collection, LatentSpace
from robustflow.models import FlowModel
from robustflow.registry import DEGRADATIONS, Options
from robustflow.report import sheet
from robustflow.report.application import Album
from robustflow.utils.errors import UserError, reason_of
from robustflow.utils.seeds import derive_seed
from robustflow.utils.yaml_tree import Mistake, Reader, plain

# "noise=X" is in levels of 255, as papers give it; a mapping's values are in their options' own units.
_NOISE_UNIT = 255
_BETWEEN = re.compile(r"[^\w.+-]+")  # words of such a name, in file names
_NOISE = "noise=X: standard deviation of white Gaussian noise, of 255"


def describe_degradations() -> str:
    """What `parse_degradation` reads."""
    return "; ".join(map(_describe, DEGRADATIONS.entries()))


def _describe(kind: str) -> str:
    options = DEGRADATIONS.options_class(kind)
    if not (keys := _keys(options)):
        return kind
    return _NOISE if kind == "noise" else f"{kind}=X: {options.model_fields[keys[0]].description}".rstrip(".")


def _keys(options: type[Options]) -> list[str]:
    """Options of a degradation's own."""
    return [key for key in options.model_fields if key not in ("type", "on")]


def parse_degradation(text: str) -> tuple[str, Degradation]:
    """Read a degradation that is registered: its name, with the options given, and what it is.

    "noise=20", "enhance=unit": a value of its first option. "fog={density: 0.3}": options by name, as in YAML.
    "invert": none. UserError if it is none of them.
    """
    kind, _, value = text.partition("=")
    try:
        options = DEGRADATIONS.options_class(kind)
        name, values = _read_values(kind, value, _keys(options)) if "=" in text else (kind, {})
        return name, build(options.model_validate({"type": kind, **values}))  # type: ignore[arg-type]
    except ValueError as error:
        reason = reason_of(error.errors()[0]) if isinstance(error, ValidationError) else str(error).splitlines()[-1]
        raise UserError(f"--degrade: expected {describe_degradations()}; got {text}: {reason}") from error


def _read_values(kind: str, text: str, keys: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Name and options of a degradation, of what stands behind "=". ValueError for what it does not have."""
    mistakes: list[Mistake] = []
    value = plain(Reader("--degrade", mistakes).read(text))
    if mistakes:
        raise ValueError(mistakes[0].message)
    if isinstance(value, dict):
        if unknown := value.keys() - set(keys):
            raise ValueError(f"expected {', '.join(keys) or 'no options'}, got {', '.join(sorted(unknown))}")
        return f"{kind}({', '.join(f'{key}={each}' for key, each in value.items())})", value
    if not keys:
        raise ValueError("expected no value")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    in_levels = kind == "noise" and type(value) in (int, float)
    return f"{kind}={value}", {keys[0]: value / _NOISE_UNIT if in_levels else value}


def run(
    model: FlowModel,
    images: Path | str,
    degradations: Mapping[str, Degradation],
    output: Path,
    album: Album,
    *,
    temperature: float,
    collections: Sequence[Collection],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Degrade clean images, super-resolve their LR images, restore them; write pictures.

    Args:
        model: Of super-resolution.
        images: Folder of clean images, or one image; or the split of the bundled photographs.
        degradations: What clean images suffer, one at a time, by names such as "noise=20".
        output: Folder for the pictures.
        album: Gets them, too.
        temperature: Of restoration and of super-resolution, which is shown at temperature 0, too.
        collections: What restoration normalises, see `edit.restore`.
        seed: Of noise, normalisation and samples, with the image's name.

    Returns:
        Figures by degradation: "mean", over images, None for a metric that one of them lacks; and "images".
    """
    likeness = Likeness(model.device)

    def generator(name: str, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(seed, name, purpose))

    found: dict[str, dict[str, dict[str, Figures]]] = {kind: {} for kind in degradations}
    for name, file in tqdm(_find_clean(images).items(), desc="restore-study", unit="image", leave=False, disable=None):
        clean = to_uint8(read_image(file) if isinstance(file, Path) else file)
        for kind, degradation in degradations.items():
            given = degradation(clean, generator(name, "degrade"))
            space = LatentSpace.of(model, given)
            pictures = {"degraded": to_float(given)}
            for heat in dict.fromkeys((0.0, temperature)):
                pictures[f"super-resolved at {heat:g}"] = space.sample(heat, generator(name, "sample"))
            pictures["restored"] = edit.restore(space, given, temperature, generator(name, "restore"), collections)
            # Let go before that of the next image is made.
            del space
            stem = f"{name}_{_BETWEEN.sub('_', kind).strip('_')}"
            for row, picture in pictures.items():
                write_png(output / f"{stem}_{row.replace(' ', '_')}.png", picture)
            sheet.write(output / f"{stem}_side_by_side.png", {**pictures, "clean": clean})
            album.add(name, {**pictures, "clean": clean}, kind)
            found[kind][name] = {
                row: {**likeness(to_uint8(picture, mark=False).cpu(), clean), "pixel_errors": pixel_errors(picture)}
                for row, picture in pictures.items()
            }
    return {kind: {"mean": _average(of_images.values()), "images": of_images} for kind, of_images in found.items()}


def _find_clean(images: Path | str) -> dict[str, Path | Tensor]:
    if isinstance(images, Path):
        return dict(find_images(images))
    source = BundledSource(images, 1)
    return {name: source.pair(index)[0] for index, name in enumerate(source.names)}


def _average(found: Iterable[Mapping[str, Figures]]) -> dict[str, Figures]:
    """Means by row of the table."""
    tables = [pd.DataFrame(rows, dtype="float64") for rows in found]
    mean = sum(tables[1:], tables[0]) / len(tables)
    return mean.astype(object).where(mean.notna(), None).to_dict()
