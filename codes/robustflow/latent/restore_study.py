"""How well restoration works: degraded, super-resolved and restored images against clean ones (SRFlow, Table 2)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.data import BundledSource
from robustflow.data.degradations import JPEG, Blur, Degradation, Noise
from robustflow.data.images import read_image, to_float, to_uint8, write_png
from robustflow.evaluation.metrics.failures import pixel_errors
from robustflow.latent import edit
from robustflow.latent.inputs import find_images
from robustflow.latent.measure import Figures, Likeness
from robustflow.latent.space import Collection, LatentSpace
from robustflow.models import FlowModel
from robustflow.report import sheet
from robustflow.report.application import Album
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

_KINDS: dict[str, tuple[str, Callable[[float], Degradation]]] = {
    "noise": ("standard deviation of white Gaussian noise, of 255, 0.1 or more", lambda std: Noise(std / 255)),
    "jpeg": ("quality of JPEG compression, 1 to 100", lambda quality: JPEG(int(quality))),
    "blur": ("standard deviation of a Gaussian blur, pixels, 0.1 or more", Blur),
}
DESCRIBED = "; ".join(f"{kind}=X: {meaning}" for kind, (meaning, _) in _KINDS.items())


def parse_degradation(text: str) -> tuple[str, Degradation]:
    """Read "noise=20", "jpeg=10" or "blur=1.5": its name and what it is. UserError if it is none of them."""
    match = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)", text)
    kind, strength = (match[1], float(match[2])) if match is not None else ("", 0.0)
    fits = 1 <= strength <= 100 and strength.is_integer() if kind == "jpeg" else 0.1 <= strength <= 1000
    if kind not in _KINDS or not fits:
        raise UserError(f"--degrade: expected {DESCRIBED}; got {text}")
    return f"{kind}={strength:g}", _KINDS[kind][1](strength)


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
    found: dict[str, dict[str, dict[str, Figures]]] = {kind: {} for kind in degradations}
    for name, file in tqdm(_find_clean(images).items(), desc="restore-study", unit="image", leave=False, disable=None):
        clean = to_uint8(read_image(file) if isinstance(file, Path) else file)
        for kind, degradation in degradations.items():
            pictures = _make(model, clean, degradation, temperature, collections, partial(derive_seed, seed, name))
            stem = f"{name}_{kind.replace('=', '_')}"
            for row, picture in pictures.items():
                write_png(output / f"{stem}_{row.replace(' ', '_')}.png", picture)
            sheet.write(output / f"{stem}_side_by_side.png", {**pictures, "clean": clean})
            album.add(name, {**pictures, "clean": clean}, kind)
            found[kind][name] = {row: _measure(picture, clean, likeness) for row, picture in pictures.items()}
    return {kind: {"mean": _average(of_images.values()), "images": of_images} for kind, of_images in found.items()}


def _find_clean(images: Path | str) -> dict[str, Path | Tensor]:
    if isinstance(images, Path):
        return dict(find_images(images))
    source = BundledSource(images, 1)
    return {name: source.pair(index)[0] for index, name in enumerate(source.names)}


def _make(
    model: FlowModel,
    clean: Tensor,
    degradation: Degradation,
    temperature: float,
    collections: Sequence[Collection],
    seed: Callable[[str], int],
) -> dict[str, Tensor]:
    """The rows of the table, not clamped; ``seed``: of what is random for a purpose."""

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(seed(purpose))

    given = degradation(clean, generator("degrade"))
    space = LatentSpace.of(model, given)
    sampled = {
        f"super-resolved at {heat:g}": space.sample(heat, generator("sample"))
        for heat in dict.fromkeys((0.0, temperature))
    }
    restored = edit.restore(space, given, temperature, generator("restore"), collections)
    return {"degraded": to_float(given), **sampled, "restored": restored}


def _measure(picture: Tensor, clean: Tensor, likeness: Likeness) -> Figures:
    """Metrics of a picture (3, H, W), not clamped; pixel errors in percent."""
    return {**likeness(to_uint8(picture).cpu(), clean), "pixel_errors": pixel_errors(picture)}


def _average(found: Iterable[Mapping[str, Figures]]) -> dict[str, Figures]:
    """Means by row of the table."""
    tables = [pd.DataFrame(rows, dtype="float64") for rows in found]
    mean = sum(tables[1:], tables[0]) / len(tables)
    return mean.astype(object).where(mean.notna(), None).to_dict()
