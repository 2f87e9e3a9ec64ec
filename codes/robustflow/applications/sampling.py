"""Samples of one LR image: best of n by a metric, their spread, and how well they agree with the LR image."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.applications import edit
from robustflow.applications.back_projection import back_projected
from robustflow.applications.model import Model
from robustflow.applications.page import Table, table_of
from robustflow.data.images import to_uint8, write_png
from robustflow.errors import UserError
from robustflow.evaluation.metrics import fidelity, perceptual
from robustflow.evaluation.metrics.robustness import pixel_errors
from robustflow.evaluation.sampler import latent_generator

log = logging.getLogger(__name__)

METRICS = ("psnr", "ssim", "lpips")
# White in the map of standard deviations, of the image's range.
_WHITE_STD = 0.25


class Request(NamedTuple):
    """What to draw.

    Attributes:
        n: Samples.
        temperature: Of the latents.
        seed: With the image's name and the sample's number it decides the latents, as in tests.
        best_of: Metric that chooses the best sample; None without reference.
        back_projection: Iterations for a second version of each sample; 0: none.
    """

    n: int
    temperature: float
    seed: int
    best_of: str | None
    back_projection: int


def run(
    model: Model, name: str, lr: Tensor, reference: Tensor | None, request: Request, output: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Draw samples of an LR image (3, h, w), as read; write them, their spread, and the best.

    Args:
        model: See `Model`.
        name: Of the LR image.
        lr: LR image.
        reference: HR image (3, H, W), as read, or None.
        request: What to draw. What back-projection makes of the samples is written and measured apart from them.
        output: Folder for the pictures.

    Returns:
        What was measured, plain values; and pictures to show.
    """
    lpips = _lpips(model, request, reference)
    samples = _drawn(model, name, lr, request)
    rows = [_row(model, number, sample, lr, reference, lpips) for number, sample in enumerate(samples)]
    result: dict[str, Any] = {
        "samples": rows,
        "reference": reference is not None,
        "best_of": request.best_of,
        "best": None if request.best_of is None else _best(rows, request.best_of),
    }
    for number, sample in enumerate(samples):
        write_png(output / f"{name}_sample_{number:02d}.png", sample)
    if request.back_projection > 0:
        projected = back_projected(samples, model.batch(lr)[0].cpu(), model.scale, request.back_projection)
        result["back_projection"] = {
            "iterations": request.back_projection,
            "samples": [_row(model, k, sample, lr, reference, lpips) for k, sample in enumerate(projected)],
        }
        for number, sample in enumerate(projected):
            write_png(output / f"{name}_sample_{number:02d}_back_projected.png", sample)
    return result, _spread(output, name, samples, lr, reference, result["best"])


def table(result: dict[str, Any]) -> Table:
    """All samples; those that were back-projected in rows of their own."""
    rows = {f"{row['sample']}{' (best)' if row['sample'] == result['best'] else ''}": row for row in result["samples"]}
    for row in result.get("back_projection", {}).get("samples", []):
        rows[f"{row['sample']} back-projected"] = row
    of_reference = {key: key.upper() for key in METRICS} if result["reference"] else {}
    of_lr = {"lr_psnr": "LR-PSNR"} if any("lr_psnr" in row for row in rows.values()) else {}
    return table_of("", "sample", {**of_lr, **of_reference, "pixel_errors": "%PixelErr"}, rows)


def _lpips(model: Model, request: Request, reference: Tensor | None) -> perceptual.Perceptual | None:
    if reference is None:
        return None
    found = perceptual.load(model.device)
    if isinstance(found, perceptual.Perceptual):
        return found
    if request.best_of == "lpips":
        raise UserError(f"--best-of lpips: cannot be computed: {found.reason}, or choose psnr or ssim")
    log.info("lpips: not computed; %s", found.reason)
    return None


@torch.no_grad()
def _drawn(model: Model, name: str, lr: Tensor, request: Request) -> Tensor:
    """Samples (n, 3, H, W), on the CPU, those of tests; in tiles and batches as the options say."""
    val = model.options.val
    draw = model.task.drawing(model.flow, model.batch(lr), val.tile, val.tile_overlap)
    samples: list[Tensor] = []
    with tqdm(total=request.n, desc="sample", unit="sample", leave=False, disable=None) as bar:
        while len(samples) < request.n:
            numbers = range(len(samples), min(len(samples) + val.sample_batch, request.n))
            generators = [latent_generator(request.seed, name, number) for number in numbers]
            samples += draw(request.temperature, generators).cpu()
            bar.update(len(numbers))
    return torch.stack(samples)


def _row(
    model: Model,
    number: int,
    sample: Tensor,
    lr: Tensor,
    reference: Tensor | None,
    lpips: perceptual.Perceptual | None,
) -> dict[str, Any]:
    """Metrics of a sample (3, H, W); None where they cannot be computed."""
    row: dict[str, Any] = {"sample": number, "pixel_errors": pixel_errors(sample), **dict.fromkeys(METRICS)}
    if model.makes_lr:
        row["lr_psnr"] = edit.lr_psnr(model, sample, lr)
    if not sample.isfinite().all():
        log.warning("sample %d has pixels that are not finite; they are magenta", number)
    elif reference is not None:
        image, clean = to_uint8(sample), to_uint8(reference)
        row |= {"psnr": fidelity.psnr(image, clean), "ssim": fidelity.ssim(image, clean)}
        row["lpips"] = None if lpips is None else lpips.distance(image, clean)
    return row


def _best(rows: list[dict[str, Any]], metric: str) -> int | None:
    """Number of the best sample; None if none could be measured."""
    sign = -1 if metric == "lpips" else 1
    measured = [row for row in rows if row[metric] is not None]
    return max(measured, key=lambda row: sign * row[metric])["sample"] if measured else None


def _spread(
    output: Path, name: str, samples: Tensor, lr: Tensor, reference: Tensor | None, best: int | None
) -> dict[str, Tensor]:
    """Write the best sample and the standard deviation; pictures to show, by their labels."""
    shown = {"input": lr}
    if best is not None:
        shown[f"sample {best}, the best of {len(samples)}"] = samples[best]
        write_png(output / f"{name}_best.png", samples[best])
    else:
        shown |= {f"sample {number}": sample for number, sample in enumerate(samples[:2])}
    if len(samples) > 1:
        deviation = samples.nan_to_num(0).clamp(0, 1).std(0, correction=0).mean(0, keepdim=True).expand(3, -1, -1)
        write_png(output / f"{name}_std.png", deviation / _WHITE_STD)
        shown[f"standard deviation, white: {_WHITE_STD:g} of the range"] = deviation / _WHITE_STD
    if reference is not None:
        shown["reference"] = reference
    return shown
