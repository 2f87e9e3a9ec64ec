"""Samples of one LR image: best of n by a metric, their spread, and how well they agree with the LR image."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from robustflow.data.images import to_uint8, write_png
from robustflow.evaluation import sampling
from robustflow.evaluation.metrics import diversity, perceptual
from robustflow.evaluation.metrics.failures import pixel_errors
from robustflow.latent import sheet
from robustflow.latent.back_projection import back_projected
from robustflow.latent.likeness import METRICS, SMALLEST, Likeness
from robustflow.latent.model import Model, size_of
from robustflow.latent.page import Table, table_of
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

# Samples shown where none is the best.
_SHOWN = 2


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


class Drawn(NamedTuple):
    """What was found of an LR image.

    Attributes:
        figures: What was measured, plain values.
        shown: Pictures, by their labels.
    """

    figures: dict[str, Any]
    shown: dict[str, Tensor]


def run(model: Model, name: str, lr: Tensor, reference: Tensor | None, request: Request, output: Path) -> Drawn:
    """Draw samples of an LR image (3, h, w), as read; write them as they come, their spread, and the best.

    Args:
        model: See `Model`.
        name: Of the LR image.
        lr: LR image.
        reference: HR image (3, H, W), as read, see `require_reference`, or None.
        request: What to draw. What back-projection makes of the samples is written and measured apart from them.
        output: Folder for the pictures; those that an earlier call drew beyond these are removed.
    """
    measuring = _Measuring(model, lr, reference, _likeness(model, request, reference))
    small = model.batch(lr)[0].cpu()
    rows: list[dict[str, Any]] = []
    projected: list[dict[str, Any]] = []
    kept: dict[int, Tensor] = {}
    spread = diversity.Spread()
    for number, sample in enumerate(_samples(model, name, lr, request)):
        stem = f"{name}_sample_{number:02d}"
        sheet.write_decoded(output / f"{stem}.png", sample)
        rows.append(measuring.row(number, sample))
        if request.n > 1:
            spread.add(sample)
        if request.best_of is not None and _best(rows, request.best_of) == number:
            kept = {number: sample}
        elif request.best_of is None and number < _SHOWN:
            kept[number] = sample
        if request.back_projection > 0:
            again = back_projected(sample, small, model.scale, request.back_projection)
            write_png(output / f"{stem}_back_projected.png", again)
            projected.append(measuring.row(number, again))
    sheet.remove_beyond(output, f"{name}_sample", request.n)
    if not projected:
        sheet.remove_beyond(output, f"{name}_sample", 0, "_back_projected")
    result: dict[str, Any] = {"samples": rows, "reference": reference is not None, "best_of": request.best_of}
    result["best"] = None if request.best_of is None else _best(rows, request.best_of)
    if projected:
        result["back_projection"] = {"iterations": request.back_projection, "samples": projected}
    if request.best_of is not None and result["best"] is None:
        log.warning("%s: no sample is the best by %s: none is finite", name, request.best_of)
    return Drawn(result, _pictures(output, name, lr, reference, result, kept, spread))


def require_reference(reference: Tensor, lr: Tensor, scale: int, flag: str) -> None:
    """Raise UserError unless LR images of an HR image have the size of ``lr``; sides that are no multiples may."""
    fits = [
        small in (side // scale, -(-side // scale)) for side, small in zip(size_of(reference), size_of(lr), strict=True)
    ]
    if not all(fits):
        height, width = (scale * side for side in size_of(lr))
        tolerance = f"{scale} times --input, or less than {scale} pixels more or less" if scale > 1 else "as --input"
        raise UserError(
            f"{flag}: expected {width} x {height} pixels (width x height), {tolerance}, got {reference.shape[-1]} x "
            f"{reference.shape[-2]}; crop or resize it"
        )


def table(result: dict[str, Any]) -> Table:
    """All samples; those that were back-projected in rows of their own."""
    rows = {f"{row['sample']}{' (best)' if row['sample'] == result['best'] else ''}": row for row in result["samples"]}
    for row in result.get("back_projection", {}).get("samples", []):
        rows[f"{row['sample']} back-projected"] = row
    of_reference = {key: key.upper() for key in METRICS} if result["reference"] else {}
    of_lr = {"lr_psnr": "LR-PSNR"} if any("lr_psnr" in row for row in rows.values()) else {}
    return table_of("", "sample", {**of_lr, **of_reference, "pixel_errors": "%PixelErr"}, rows)


class _Measuring:
    """Metrics of samples of an LR image (3, h, w), as read, to a reference (3, H, W), as read, or None."""

    def __init__(self, model: Model, lr: Tensor, reference: Tensor | None, likeness: Likeness | None) -> None:
        self._model, self._lr, self._likeness = model, lr, likeness
        self._reference = None if reference is None else to_uint8(reference)

    def row(self, number: int, sample: Tensor) -> dict[str, Any]:
        """Those of a sample (3, H, W), not clamped; None where they cannot be computed."""
        row: dict[str, Any] = {"sample": number, "pixel_errors": pixel_errors(sample), **dict.fromkeys(METRICS)}
        if self._model.makes_lr:
            row["lr_psnr"] = self._model.lr_psnr(sample, self._lr)
        if self._reference is not None and self._likeness is not None and sample.isfinite().all():
            row |= self._likeness(*_common(to_uint8(sample), self._reference))
        return row


def _common(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """What is in both of two images that begin at the same corner."""
    height, width = (min(sides) for sides in zip(size_of(image), size_of(reference), strict=True))
    return image[..., :height, :width].contiguous(), reference[..., :height, :width].contiguous()


def _likeness(model: Model, request: Request, reference: Tensor | None) -> Likeness | None:
    """Metrics to a reference, if there is one. UserError if what shall choose the best cannot be computed."""
    if reference is None:
        return None
    if request.best_of is not None and min(size_of(reference)) < SMALLEST[request.best_of]:
        smallest = SMALLEST[request.best_of]
        raise UserError(f"--best-of {request.best_of}: expected {smallest} x {smallest} pixels or more; choose psnr")
    found = Likeness(model.device)
    if request.best_of == "lpips" and isinstance(found.lpips, perceptual.NotComputed):
        raise UserError(f"--best-of lpips: cannot be computed; choose psnr or ssim, or {found.lpips.reason}")
    return found


def _samples(model: Model, name: str, lr: Tensor, request: Request) -> Iterator[Tensor]:
    """Samples (3, H, W), on the CPU, those of tests; in tiles and batches as the options say."""
    val = model.options.val
    draw = model.flow.prepare(model.batch(lr), val.tile, val.tile_overlap)
    drawn = sampling.batches(draw, request.temperature, request.n, name=name, seed=request.seed, batch=val.sample_batch)
    with tqdm(total=request.n, desc="sample", unit="sample", leave=False, disable=None) as bar:
        for some in drawn:
            yield from some.cpu()
            bar.update(len(some))


def _best(rows: Sequence[dict[str, Any]], metric: str) -> int | None:
    """Number of the best sample, the first of equals; None if none could be measured."""
    sign = -1 if metric == "lpips" else 1
    measured = [row for row in rows if row[metric] is not None]
    return max(measured, key=lambda row: sign * row[metric])["sample"] if measured else None


def _pictures(
    output: Path,
    name: str,
    lr: Tensor,
    reference: Tensor | None,
    result: dict[str, Any],
    kept: dict[int, Tensor],
    spread: diversity.Spread,
) -> dict[str, Tensor]:
    """Write the best sample and the standard deviation; pictures to show, by their labels."""
    for stale in ("best", "std"):
        (output / f"{name}_{stale}.png").unlink(missing_ok=True)
    shown = {"input": lr}
    for number, sample in kept.items():
        best = number == result["best"]
        shown[f"sample {number}{', the best of ' + str(len(result['samples'])) if best else ''}"] = sample
        if best:
            write_png(output / f"{name}_best.png", sample)
    deviation = spread.picture()
    if deviation is not None:
        write_png(output / f"{name}_std.png", deviation)
        shown["std of samples"] = deviation
    if reference is not None:
        shown["reference"] = reference
    return shown
