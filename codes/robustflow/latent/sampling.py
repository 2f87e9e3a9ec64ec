"""Samples of one LR image: best of n by a metric, their spread, and how well they agree with the LR image."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.data.images import to_float, to_uint8, write_png
from robustflow.evaluation import sampling
from robustflow.evaluation.metrics import diversity
from robustflow.latent.edit import back_project
from robustflow.latent.measure import METRICS, SMALLEST, Likeness, measure
from robustflow.latent.space import size_of
from robustflow.models import FlowModel
from robustflow.report import sheet
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

# Samples shown where none is the best.
_SHOWN = 2


def draw(
    model: FlowModel,
    name: str,
    lr: Tensor,
    reference: Tensor | None,
    output: Path,
    *,
    n: int,
    temperature: float,
    seed: int,
    best_of: str | None,
    back_projection: int,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Draw samples of an LR image; write them as they come, their spread, and the best.

    Args:
        model: In eval mode.
        name, lr: The LR image, (3, h, w), as read, and what it is called.
        reference: HR image (3, H, W), as read, see `require_reference`, or None.
        output: Folder for the pictures; those that an earlier call drew beyond these are removed.
        n, temperature: Samples, and temperature of their latents.
        seed: With the image's name and the sample's number it decides the latents, as in tests.
        best_of: Metric that chooses the best sample; None without reference.
        back_projection: Iterations for a second version of each sample, written and measured apart; 0: none.

    Returns:
        What was measured, plain values; and pictures to show, by their labels.
    """
    likeness = None if reference is None else _load_likeness(model, best_of, reference)

    def describe(number: int, image: Tensor) -> dict[str, Any]:
        return {"sample": number, **measure(model, image, lr), **_compare(image, reference, likeness)}

    rows: list[dict[str, Any]] = []
    projected: list[dict[str, Any]] = []
    kept: dict[int, Tensor] = {}
    spread = diversity.Spread()
    for number, sample in enumerate(_draw(model, name, lr, temperature, n, seed)):
        stem = f"{name}_sample_{number:02d}"
        sheet.write_decoded(output / f"{stem}.png", sample)
        rows.append(describe(number, sample))
        if n > 1:
            spread.add(sample)
        if _best(rows, best_of) == number:
            kept = {number: sample}
        elif best_of is None and number < _SHOWN:
            kept[number] = sample
        if back_projection > 0:
            again = back_project(sample, to_float(lr), model.scale, back_projection, model.options.kernel)
            write_png(output / f"{stem}_back_projected.png", again)
            projected.append(describe(number, again))
    best = _best(rows, best_of)
    if best_of is not None and best is None:
        log.warning("%s: no sample is the best by %s: none is finite", name, best_of)
    found: dict[str, Any] = {"samples": rows, "reference": reference is not None, "best_of": best_of, "best": best}
    if projected:
        found["back_projection"] = {"iterations": back_projection, "samples": projected}
    _remove_earlier(output, name, n, projected=bool(projected))
    shown = {"input": lr, **_write_chosen(output, name, kept, best, n, spread.picture())}
    return found, shown if reference is None else {**shown, "reference": reference}


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


def list_rows(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of all samples by what they are called; those that were back-projected in rows of their own."""
    rows = {f"{row['sample']}{' (best)' if row['sample'] == found['best'] else ''}": row for row in found["samples"]}
    projected = found.get("back_projection", {}).get("samples", [])
    return {**rows, **{f"{row['sample']} back-projected": row for row in projected}}


def _load_likeness(model: FlowModel, best_of: str | None, reference: Tensor) -> Likeness:
    """Metrics to a reference. UserError if what shall choose the best cannot be computed."""
    if best_of is not None and min(size_of(reference)) < (smallest := SMALLEST[best_of]):
        raise UserError(f"--best-of {best_of}: expected {smallest} x {smallest} pixels or more; choose psnr")
    found = Likeness(model.device)
    if best_of == "lpips" and isinstance(found.lpips, str):
        raise UserError(f"--best-of lpips: cannot be computed; choose psnr or ssim, or {found.lpips}")
    return found


def _compare(sample: Tensor, reference: Tensor | None, likeness: Likeness | None) -> dict[str, float | None]:
    """Metrics to the reference, if there is one, of what is in both images, which begin at the same corner."""
    if reference is None or likeness is None:
        return {}
    if not sample.isfinite().all():
        return dict.fromkeys(METRICS)
    height, width = (min(sides) for sides in zip(size_of(sample), size_of(reference), strict=True))
    return likeness(*(to_uint8(image)[..., :height, :width].contiguous() for image in (sample, reference)))


@torch.no_grad()
def _draw(model: FlowModel, name: str, lr: Tensor, temperature: float, n: int, seed: int) -> Iterator[Tensor]:
    """Samples (3, H, W), on the CPU, those of tests; in tiles and batches as the options say."""
    val = model.options.val
    prepared = model.prepare(to_float(lr)[None].to(model.device), val.tile, val.tile_overlap)
    drawn = sampling.batches(prepared, temperature, n, name=name, seed=seed, batch=val.sample_batch)
    with tqdm(total=n, desc="sample", unit="sample", leave=False, disable=None) as bar:
        for some in drawn:
            yield from some.cpu()
            bar.update(len(some))


def _remove_earlier(output: Path, name: str, n: int, *, projected: bool) -> None:
    """Remove what an earlier call drew beyond n samples, and back-projected ones unless this one made them anew."""
    sheet.remove_beyond(output, f"{name}_sample", n)
    if not projected:
        sheet.remove_beyond(output, f"{name}_sample", 0, "_back_projected")


def _write_chosen(
    output: Path, name: str, kept: Mapping[int, Tensor], best: int | None, n: int, deviation: Tensor | None
) -> dict[str, Tensor]:
    """Write the best of n samples and their standard deviation, in place of those of earlier calls; what is shown."""
    shown = {f"sample {number}{f', the best of {n}' if number == best else ''}": kept[number] for number in kept}
    _write_or_remove(output / f"{name}_best.png", None if best is None else kept[best])
    _write_or_remove(output / f"{name}_std.png", deviation)
    return shown if deviation is None else {**shown, "std of samples": deviation}


def _best(rows: Sequence[Mapping[str, Any]], metric: str | None) -> int | None:
    """Number of the best sample, the first of equals; None without a metric, or if none could be measured."""
    if metric is None:
        return None
    sign = -1 if metric == "lpips" else 1
    measured = [row for row in rows if row[metric] is not None]
    return max(measured, key=lambda row: sign * row[metric])["sample"] if measured else None


def _write_or_remove(file: Path, picture: Tensor | None) -> None:
    """Write a picture; without one, leave none of an earlier call."""
    if picture is None:
        file.unlink(missing_ok=True)
    else:
        write_png(file, picture)
