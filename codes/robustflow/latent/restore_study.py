"""How well restoration works: degraded, super-resolved and restored images against clean ones (SRFlow, Table 2)."""

import re
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.data import BundledSource
from robustflow.data.degradations import JPEG, Blur, Degradation, Noise
from robustflow.data.images import read_image, to_float, to_uint8, write_png
from robustflow.evaluation.metrics.failures import pixel_errors
from robustflow.latent import edit, sheet
from robustflow.latent.likeness import Likeness
from robustflow.latent.model import Model, inputs, size_of
from robustflow.latent.page import Gallery, Table, table_of
from robustflow.latent.space import Collection
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

METRICS = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "pixel_errors": "%PixelErr"}
Measured = dict[str, float | None]
_KINDS: dict[str, tuple[str, Callable[[float], Degradation]]] = {
    "noise": ("standard deviation of white Gaussian noise, of 255, 0.1 or more", lambda std: Noise(std / 255)),
    "jpeg": ("quality of JPEG compression, 1 to 100", lambda quality: JPEG(int(quality))),
    "blur": ("standard deviation of a Gaussian blur, pixels, 0.1 or more", Blur),
}
DESCRIBED = "; ".join(f"{kind}=X: {meaning}" for kind, (meaning, _) in _KINDS.items())


class Request(NamedTuple):
    """What to study.

    Attributes:
        degradations: What clean images suffer, one at a time, by names such as "noise=20".
        temperature: Of restoration and of super-resolution, which is shown at temperature 0, too.
        collections: What restoration normalises, see `edit.restored`.
        seed: Of noise, normalisation and samples, with the image's name.
    """

    degradations: Mapping[str, Degradation]
    temperature: float
    collections: tuple[Collection, ...]
    seed: int


def parse_degradation(text: str) -> tuple[str, Degradation]:
    """Read "noise=20", "jpeg=10" or "blur=1.5": its name and what it is. UserError if it is none of them."""
    match = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)", text)
    kind, strength = (match[1], float(match[2])) if match is not None else ("", 0.0)
    fits = 1 <= strength <= 100 and strength.is_integer() if kind == "jpeg" else 0.1 <= strength <= 1000
    if kind not in _KINDS or not fits:
        raise UserError(f"--degrade: expected {DESCRIBED}; got {text}")
    return f"{kind}={strength:g}", _KINDS[kind][1](strength)


def run(
    model: Model, images: Path | str, request: Request, output: Path, gallery: Gallery
) -> dict[str, dict[str, Any]]:
    """Degrade clean images, super-resolve their LR images, restore them; write pictures.

    Args:
        model: See `Model`.
        images: Folder of clean images, or one image; or the split of the bundled photographs.
        request: What to do to them.
        output: Folder for the pictures.
        gallery: Gets them, too.

    Returns:
        Figures by degradation: "mean" and "images".
    """
    likeness = Likeness(model.device)
    found: dict[str, dict[str, dict[str, Measured]]] = {kind: {} for kind in request.degradations}
    for name, file in tqdm(_clean(images).items(), desc="restore-study", unit="image", leave=False, disable=None):
        clean = to_uint8(read_image(file) if isinstance(file, Path) else file)
        for kind, degradation in request.degradations.items():
            pictures = _pictures(model, clean, request, degradation, name)
            stem = f"{name}_{kind.replace('=', '_')}"
            for row, picture in pictures.items():
                write_png(output / f"{stem}_{row.replace(' ', '_')}.png", picture)
            sheet.write(output / f"{stem}_side_by_side.png", {**pictures, "clean": clean})
            gallery.add(name, {**pictures, "clean": clean}, kind)
            found[kind][name] = {row: _measured(picture, clean, likeness) for row, picture in pictures.items()}
    return {kind: {"mean": _means(images), "images": images} for kind, images in found.items()}


def table(degradation: str, result: Mapping[str, Any]) -> Table:
    """The means over all images: one row per kind of picture."""
    return table_of(degradation, f"{len(result['images'])} images", METRICS, result["mean"])


def _clean(images: Path | str) -> dict[str, Path | Tensor]:
    if isinstance(images, Path):
        return dict(inputs(images))
    source = BundledSource(images, 1)
    return {name: source.pair(index)[0] for index, name in enumerate(source.names)}


def _pictures(model: Model, clean: Tensor, request: Request, degradation: Degradation, name: str) -> dict[str, Tensor]:
    """The rows of the table, not clamped."""

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(request.seed, name, purpose))

    given = degradation(clean, generator("degrade"))
    space = model.space(model.lr_of(given), size_of(given))
    heats = dict.fromkeys((0.0, request.temperature))
    sampled = {f"super-resolved at {heat:g}": space.sample(heat, generator("sample")) for heat in heats}
    restored = edit.restored(
        model, given, request.temperature, generator("restore"), collections=request.collections, space=space
    )
    return {"degraded": to_float(given), **sampled, "restored": restored}


def _measured(picture: Tensor, clean: Tensor, likeness: Likeness) -> Measured:
    """Metrics of a picture (3, H, W), not clamped; pixel errors in percent."""
    return {**likeness(to_uint8(picture).cpu(), clean), "pixel_errors": pixel_errors(picture)}


def _means(found: Mapping[str, Mapping[str, Measured]]) -> dict[str, Measured]:
    """Over images; None for a metric that one of them lacks."""
    rows = next(iter(found.values()))
    means: dict[str, Measured] = {}
    for row in rows:
        values = {metric: [image[row][metric] for image in found.values()] for metric in METRICS}
        means[row] = {
            metric: None if None in all_ else statistics.fmean(v for v in all_ if v is not None)
            for metric, all_ in values.items()
        }
    return means
