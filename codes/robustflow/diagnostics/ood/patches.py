"""Do inputs that score as out of distribution fail more often? Patches, scored and sampled."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from robustflow import data
from robustflow.data.bicubic import upsample
from robustflow.diagnostics.ood.mahalanobis import OODScore
from robustflow.evaluation.metrics.failures import PIXEL_RANGE, measure_failures
from robustflow.evaluation.sampling import draw_samples
from robustflow.models import Model
from robustflow.options.schema import ValOptions
from robustflow.utils import precision
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

log = logging.getLogger(__name__)

_QUARTERS = 4
_COLUMNS = [
    *("dataset", "image", "position", "score", "percentile"),
    *("failed_samples_pct", "failed_pixels_pct", "finite", "max_residual"),
]

Place = tuple[int, int]  # row and column of a patch's first pixel in the LR image


def rank(
    model: Model,
    score: OODScore,
    val: ValOptions,
    side: int,
    name: str,
    items: data.EvaluationSet,
    batch: int = 16,
    *,
    stride: int | None = None,
    n_patches: int | None = None,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Cut every image of a data set into patches, see `place`; score and sample each.

    Args:
        model: In eval mode.
        score: Its OOD score.
        val: Samples, temperature (the last one), seed; latents follow from the seed and the patch's place.
        side: Side of the patches, LR pixels.
        name: Of the data set.
        items: Its images.
        batch: Patches scored at once.
        stride: See `place`, LR pixels; likewise ``n_patches``.
        n_patches: Patches to take of the data set; None: all of the grid.

    Returns:
        Means over the patches, see `summarize`, and what was left out: images smaller than a patch, and the share of
        all pixels, %. One row per patch: ``dataset``, ``image``, ``position`` (row and column of the first pixel in the
        HR image), ``score``, ``percentile`` (share of the training patches that score lower, %),
        ``failed_samples_pct`` (share of the samples with a pixel error, %), ``failed_pixels_pct`` (share of the pixels
        of all samples that are one, %), ``finite`` (all samples are), ``max_residual`` (largest |sample − bicubic
        upsampling of the patch|; inf unless finite).
    """
    places = place(items, side, stride, n_patches, val.seed)
    n_placed = sum(map(len, places))
    if n_patches is not None and n_placed < n_patches:
        log.warning("%s: expected %d patches, found %d: a smaller --stride gives more", name, n_patches, n_placed)
    rows: list[dict[str, Any]] = []
    n_small, pixels, covered = 0, 0, 0
    for number, of_item in enumerate(tqdm(places, desc=name, leave=False, unit="image", disable=None)):
        taken = np.zeros(items.size_of_lr(number), dtype=bool)
        for top, left in of_item:
            taken[top : top + side, left : left + side] = True
        n_small += min(taken.shape) < side
        pixels, covered = pixels + taken.size, covered + int(taken.sum())
        if of_item:
            ranked = _rank_image(model, score, val, side, items[number], of_item, batch)
            rows += [{"dataset": name, **row} for row in ranked]
    left_out = {"n_images_too_small": n_small, "dropped_pixels_pct": 100 * (1 - covered / pixels)}
    patches = pd.DataFrame(rows, columns=_COLUMNS)
    return {"n_images": len(items), "n_patches": len(rows), **left_out, **summarize(patches)}, patches


def place(
    items: data.EvaluationSet, side: int, stride: int | None = None, n_patches: int | None = None, seed: int = 0
) -> list[list[Place]]:
    """Where patches of a side (LR pixels) lie in each image: on a grid from its top left.

    Args:
        items: Whole images.
        side: Of the patches.
        stride: From one to the next, LR pixels; None: the side, so that they touch.
        n_patches: Take at most so many of all images' together, each as likely as any other; None: all.
        seed: Seed of that choice.
    """
    step = side if stride is None else stride
    grid = [
        (number, top, left)
        for number, (height, width) in enumerate(map(items.size_of_lr, range(len(items))))
        for top in range(0, height - side + 1, step)
        for left in range(0, width - side + 1, step)
    ]
    if n_patches is not None:
        generator = torch.Generator().manual_seed(derive_seed("ood patches", seed))
        grid = [grid[k] for k in sorted(torch.randperm(len(grid), generator=generator)[:n_patches].tolist())]
    places: list[list[Place]] = [[] for _ in range(len(items))]
    for number, top, left in grid:
        places[number].append((top, left))
    return places


def cut(item: data.EvaluationItem, places: Sequence[Place], side: int) -> list[Tensor]:
    """Patches (c, side, side) of what the task is given of an image."""
    return [item.condition[:, top : top + side, left : left + side].contiguous() for top, left in places]


def summarize(patches: pd.DataFrame) -> dict[str, Any]:
    """Means over patches, and %PixelErr of each quarter of them, that of the lowest scores first; None without any.

    %PixelErr: patches of which any sample has a pixel error.
    """
    ranked = patches.sort_values("score", kind="stable")
    ends = [round(k * len(ranked) / _QUARTERS) for k in range(1, _QUARTERS)]
    failed = 100 * (ranked.failed_samples_pct > 0).to_numpy(dtype=float)
    return {
        "mean_score": _mean(ranked.score.to_numpy()),
        "mean_percentile": _mean(ranked.percentile.to_numpy()),
        "pixel_error_pct": _mean(failed),
        **{key: _mean(ranked[key].to_numpy()) for key in ("failed_samples_pct", "failed_pixels_pct")},
        "pixel_error_pct_by_quarter": [_mean(quarter) for quarter in np.split(failed, ends)],
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _rank_image(
    model: Model,
    score: OODScore,
    val: ValOptions,
    side: int,
    item: data.EvaluationItem,
    places: Sequence[Place],
    batch: int,
) -> Iterator[dict[str, Any]]:
    """Score and sample the patches of an image; a row of each."""
    pieces = cut(item, places, side)
    scored = zip(pieces, places, score.of_patches(model, pieces, batch).tolist(), strict=True)
    for lr, (top, left), value in tqdm(scored, total=len(pieces), desc=item.name, leave=False, disable=None):
        position = (top * score.scale, left * score.scale)
        yield {
            "image": item.name,
            "position": position,
            "score": value,
            "percentile": score.percentile(value),
            **_sample(model, lr, val, score.scale, f"{item.name}_{position[0]}_{position[1]}"),
        }


def _sample(model: Model, lr: Tensor, val: ValOptions, scale: int, name: str) -> dict[str, Any]:
    """Shares of samples and of pixels that fail, %, whether all samples are finite, the largest residual."""
    lr = lr.to(model.device)
    upsampled = lr[:3] if scale == 1 else upsample(lr.double(), scale).to(lr)
    drawn = draw_samples(
        *(model, lr), name=name, heats=val.heats[-1:], n=val.n_sample, seed=val.seed, batch=val.sample_batch
    )
    found = pd.DataFrame([measure_failures(sample, upsampled) for _, samples in drawn for sample in samples])
    return {
        "failed_samples_pct": 100 * float((found.pixel_errors > 0).mean()),
        "failed_pixels_pct": 100 * float(found.pixel_errors.sum() / found.n_pixels.sum()),
        "finite": not bool((found.has_inf | found.has_nan).any()),
        "max_residual": float(found.max_residual.max()),
    }


def side_of(patch: int | None, score: OODScore) -> int:
    """Side in LR pixels of patches of a side in HR pixels; None: of those the score was fitted on."""
    fitted = score.patch * score.scale
    if patch is None or patch == fitted:
        return score.patch
    if patch <= 0 or patch % score.scale != 0:
        raise UserError(f"--patch: expected a multiple of the scale {score.scale}, got {patch}")
    log.warning("OOD score fitted on patches of %d x %d: the size alone changes the scores of others", fitted, fitted)
    return patch // score.scale


def stride_of(stride: int | None, scale: int) -> int | None:
    """Distance of patches in LR pixels, of one in HR pixels; None: they touch."""
    if stride is None:
        return None
    if stride <= 0 or stride % scale != 0:
        raise UserError(f"--stride: expected a multiple of the scale {scale}, got {stride}")
    return stride // scale


def describe_protocol(
    model: Model, score: OODScore, side: int, enhance: str | None, stride: int | None, n_patches: int | None
) -> dict[str, Any]:
    """How patches are cut, scored and sampled; the protocol of ood.json."""
    options = model.options
    return {
        "score": "squared Mahalanobis distance of the encoder's taps, averaged over the patch, to training patches",
        "patch": side * options.scale,
        "stride": (side if stride is None else stride) * options.scale,
        "n_patches": n_patches,
        "scale": options.scale,
        "precision": precision.resolve(options.precision, training=False, device=model.device),
        "heat": options.val.heats[-1],
        "n_sample": options.val.n_sample,
        "seed": options.val.seed,
        "pixel_error": f"pixel of a float sample outside {list(PIXEL_RANGE)} or not finite, before clamping",
        "pixel_error_pct": "patches of which any sample has a pixel error",
        "failed_samples_pct": "samples of a patch with a pixel error; mean over patches",
        "failed_pixels_pct": "pixels of all samples of a patch that are pixel errors; mean over patches",
        "lr": "cut from the whole input"
        if options.scale == 1
        else "cut from the LR image of the whole image, made as the options of its data set say where none is given",
        "enhance": enhance,
        "fitted": score.describe(),
    }
