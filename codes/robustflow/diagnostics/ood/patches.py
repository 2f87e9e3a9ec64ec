"""Do inputs that score as out of distribution fail more often? Patches, scored and sampled."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm import tqdm

from robustflow import data
from robustflow.data.bicubic import upsample
from robustflow.diagnostics.ood.mahalanobis import OODScore
from robustflow.evaluation.metrics.failures import PIXEL_RANGE, measure_failures
from robustflow.evaluation.sampling import draw_samples
from robustflow.models import Model
from robustflow.options.schema import RunOptions, ValOptions
from robustflow.utils import precision
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

_QUARTERS = 4
_COLUMNS = ["dataset", "image", "position", "score", "percentile", "pixel_error", "finite", "max_residual"]


def rank(
    model: Model, score: OODScore, val: ValOptions, side: int, name: str, items: data.EvaluationSet, batch: int = 16
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Cut every image of a data set into patches that do not overlap, from the top left; score and sample each.

    Args:
        model: In eval mode.
        score: Its OOD score.
        val: Samples, temperature (the last one), seed; latents follow from the seed and the patch's place.
        side: Side of the patches, LR pixels.
        name: Of the data set.
        items: Its images.
        batch: Patches scored at once.

    Returns:
        Means over the patches, see `summarize`, and what was left out: images smaller than a patch, and the share of
        all pixels, %. One row per patch: ``dataset``, ``image``, ``position`` (row and column of the first pixel in the
        HR image), ``score``, ``percentile`` (share of the training patches that score lower, %), ``pixel_error`` (any
        pixel of any sample is one), ``finite`` (all samples are), ``max_residual`` (largest |sample − bicubic
        upsampling of the patch|; inf unless finite).
    """
    rows: list[dict[str, Any]] = []
    n_small, pixels = 0, 0
    for item in tqdm(items, desc=name, leave=False, unit="image", disable=None):
        found = [{"dataset": name, **row} for row in _rank_image(model, score, val, side, item, batch)]
        n_small += not found
        pixels += item.lr.shape[-2] * item.lr.shape[-1]
        rows += found
    left_out = {"n_images_too_small": n_small, "dropped_pixels_pct": 100 * (1 - len(rows) * side**2 / pixels)}
    patches = pd.DataFrame(rows, columns=_COLUMNS)
    return {"n_images": len(items), "n_patches": len(rows), **left_out, **summarize(patches)}, patches


def summarize(patches: pd.DataFrame) -> dict[str, Any]:
    """Means over patches, and %PixelErr of each quarter of them, that of the lowest scores first; None without any."""
    ranked = patches.sort_values("score", kind="stable")
    ends = [round(k * len(ranked) / _QUARTERS) for k in range(1, _QUARTERS)]
    failed = 100 * ranked.pixel_error.to_numpy(dtype=float)
    return {
        "mean_score": _mean(ranked.score.to_numpy()),
        "mean_percentile": _mean(ranked.percentile.to_numpy()),
        "pixel_error_pct": _mean(failed),
        "pixel_error_pct_by_quarter": [_mean(quarter) for quarter in np.split(failed, ends)],
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _rank_image(
    model: Model, score: OODScore, val: ValOptions, side: int, item: data.EvaluationItem, batch: int
) -> Iterator[dict[str, Any]]:
    height, width = item.lr.shape[-2:]
    places = [(top, left) for top in range(0, height - side + 1, side) for left in range(0, width - side + 1, side)]
    if not places:
        return
    cut = [item.condition[:, top : top + side, left : left + side].contiguous() for top, left in places]
    scores = score.of_patches(model, cut, batch).tolist()
    scored = zip(cut, places, scores, strict=True)
    for lr, (top, left), value in tqdm(scored, total=len(cut), desc=item.name, leave=False, disable=None):
        position = (top * score.scale, left * score.scale)
        yield {
            "image": item.name,
            "position": position,
            "score": value,
            "percentile": score.percentile(value),
            **_sample(model, lr, val, score.scale, f"{item.name}_{position[0]}_{position[1]}"),
        }


def _sample(model: Model, lr: Tensor, val: ValOptions, scale: int, name: str) -> dict[str, Any]:
    """Whether any sample has a pixel error, whether all are finite, the largest residual."""
    lr = lr.to(model.device)
    upsampled = lr[:3] if scale == 1 else upsample(lr.double(), scale).to(lr)
    drawn = draw_samples(
        *(model, lr), name=name, heats=val.heats[-1:], n=val.n_sample, seed=val.seed, batch=val.sample_batch
    )
    found = pd.DataFrame([measure_failures(sample, upsampled) for _, samples in drawn for sample in samples])
    return {
        "pixel_error": bool((found.pixel_errors > 0).any()),
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


def describe_protocol(options: RunOptions, score: OODScore, side: int, enhance: str | None) -> dict[str, Any]:
    """How patches are cut, scored and sampled; the protocol of ood.json."""
    return {
        "score": "squared Mahalanobis distance of the encoder's taps, averaged over the patch, to training patches",
        "patch": side * options.scale,
        "scale": options.scale,
        "precision": precision.resolve(options.precision, training=False),
        "heat": options.val.heats[-1],
        "n_sample": options.val.n_sample,
        "seed": options.val.seed,
        "pixel_error": f"any pixel of any float sample outside {list(PIXEL_RANGE)}, before clamping",
        "lr": "cut from the whole input"
        if options.scale == 1
        else "cut from the LR image of the whole image; MATLAB bicubic where none is given",
        "enhance": enhance,
        "fitted": score.describe(),
    }
