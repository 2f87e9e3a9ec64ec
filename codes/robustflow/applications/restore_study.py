"""How well restoration works: degraded, super-resolved and restored images against clean ones (SRFlow, Table 2)."""

import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from robustflow.applications import edit, sheet
from robustflow.applications.degradations import Degradation, degraded
from robustflow.applications.model import Model, inputs, size_of
from robustflow.data import BundledSource
from robustflow.data.images import read_image, to_uint8, write_png
from robustflow.data.seeds import derive_seed
from robustflow.evaluation.metrics import fidelity, perceptual
from robustflow.evaluation.records import to_json
from robustflow.files import write_atomically

log = logging.getLogger(__name__)

METRICS = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}
Measured = dict[str, float | None]


def run(
    model: Model, folder: Path | None, degradation: Degradation, temperature: float, seed: int, output: Path
) -> dict[str, Any]:
    """Degrade clean images, super-resolve their LR images, restore them; write pictures, study.json and study.md.

    Args:
        model: See `Model`.
        folder: Of clean images, or one image; None: the bundled test photographs.
        degradation: What they suffer.
        temperature: Of restoration and of super-resolution, which is shown at temperature 0, too.
        seed: Of noise, normalisation and samples, with the image's name.
        output: Folder for the results.
    """
    lpips = perceptual.load(model.device)
    if isinstance(lpips, perceptual.NotComputed):
        log.info("lpips: not computed; %s", lpips.reason)
    images = _clean(folder)
    found: dict[str, dict[str, Measured]] = {}
    for name, file in tqdm(images.items(), desc=str(degradation), unit="image", leave=False, disable=None):
        clean = to_uint8(read_image(file) if isinstance(file, Path) else file)
        pictures = _pictures(model, clean, degradation, temperature, seed, name)
        for row, picture in pictures.items():
            write_png(output / f"{name}_{row.replace(', τ ', '_')}.png", picture)
        sheet.write(output / f"{name}_side_by_side.png", {**pictures, "clean": clean})
        found[name] = {row: _measured(picture, clean, lpips) for row, picture in pictures.items()}
    result = {
        "name": model.options.name,
        "degradation": str(degradation),
        "temperature": temperature,
        "seed": seed,
        "mean": _means(found),
        "images": found,
    }
    write_atomically(output / "study.json", to_json(result).encode())
    write_atomically(output / "study.md", f"{table(result)}\n".encode())
    return result


def table(result: Mapping[str, Any]) -> str:
    """The means over all images: one row per kind of picture."""
    rows = [
        [row, *("–" if values[metric] is None else f"{values[metric]:.4g}" for metric in METRICS)]
        for row, values in result["mean"].items()
    ]
    headers = [f"{result['degradation']}, {len(result['images'])} images", *METRICS.values()]
    return tabulate(rows, headers, "github", disable_numparse=True)


def _clean(folder: Path | None) -> dict[str, Path | Tensor]:
    if folder is not None:
        return dict(inputs(folder))
    source = BundledSource("test", 1)
    return {name: source.pair(index)[0] for index, name in enumerate(source.names)}


def _pictures(
    model: Model, clean: Tensor, degradation: Degradation, temperature: float, seed: int, name: str
) -> dict[str, Tensor]:
    """The rows of the table, as uint8 pictures."""

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(seed, name, purpose))

    given = degraded(clean, degradation, generator("degrade"))
    space = model.space(model.lr_of(given), size_of(given))
    heats = dict.fromkeys((0.0, temperature))
    sampled = {
        f"super-resolved, τ {heat:g}": space.decode(space.draw(heat, [generator("sample")]))[0] for heat in heats
    }
    restored = edit.restored(model, given, temperature, generator("restore"))
    pictures = {"degraded": given, **sampled, "restored": restored}
    return {row: to_uint8(picture).cpu() for row, picture in pictures.items()}


def _measured(picture: Tensor, clean: Tensor, lpips: perceptual.Perceptual | perceptual.NotComputed) -> Measured:
    return {
        "psnr": fidelity.psnr(picture, clean),
        "ssim": fidelity.ssim(picture, clean),
        "lpips": None if isinstance(lpips, perceptual.NotComputed) else lpips.distance(picture, clean),
    }


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
