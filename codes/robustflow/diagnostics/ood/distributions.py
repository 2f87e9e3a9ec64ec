"""Mean OOD scores of several distributions, beside those published (Hong et al., ICCV 2023, supplement S1.1)."""

from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from robustflow import data
from robustflow.diagnostics.ood.mahalanobis import OODScore
from robustflow.diagnostics.ood.patches import cut, place
from robustflow.models import Model
from robustflow.utils.errors import UserError

# Of 160 x 160 pixels and 256 features, 4x; number of patches, estimator, and whether in sample: not published.
PUBLISHED_TRAINING = 236.78
PUBLISHED_URBAN100 = 331.01
PUBLISHED_ENHANCED_URBAN100 = 511.35


def measure(
    model: Model,
    score: OODScore,
    sets: Mapping[str, tuple[data.EvaluationSet, float | None]],
    n_patches: int,
    *,
    seed: int = 0,
    batch: int = 16,
) -> list[dict[str, Any]]:
    """Mean scores of the training patches, in sample and out of it, and of other data sets.

    Args:
        model: In eval mode.
        score: Just fitted, see `mahalanobis.fit`.
        sets: Whole images and the published mean, or None, by what they are called.
        n_patches: At most so many patches of each, from a grid on which they touch, see `patches.place`.
        seed: Seed of that choice.
        batch: Patches scored at once.

    Returns:
        Per distribution: ``distribution``, ``mean_score``, ``published`` (mean score, or None), ``scored`` (in or out
        of sample), ``n_scored`` (patches), and of the fit ``n_fitted`` (patches), ``covariance``, ``shrinkage``,
        ``n_features``, ``patch`` (side, HR pixels).

    Raises:
        UserError: No image of a data set is as large as a patch.
    """
    fitted, side = score.describe(), score.patch * score.scale
    common = {
        "n_fitted": score.n_patches,
        **{key: fitted[key] for key in ("covariance", "shrinkage", "n_features")},
        "patch": side,
    }
    measured: list[tuple[str, float | None, float | None, str, int]] = [
        ("training", score.in_sample_mean, PUBLISHED_TRAINING, "in sample", score.n_patches),
        ("training", score.mean_score, None, score.mean_score_of, score.n_patches),
    ]
    for name, (items, published) in sets.items():
        places = place(items, score.patch, None, n_patches, seed)
        if not any(places):
            raise UserError(f"{name}: expected images of at least {side} x {side} pixels, found none; lower --patch")
        scores: list[float] = []
        for number, of_item in enumerate(tqdm(places, desc=name, leave=False, unit="image", disable=None)):
            if of_item:
                scores += score.of_patches(model, cut(items[number], of_item, score.patch), batch).tolist()
        measured.append((name, sum(scores) / len(scores), published, "out of sample", len(scores)))
    keys = ("distribution", "mean_score", "published", "scored", "n_scored")
    return [{**dict(zip(keys, row, strict=True)), **common} for row in measured]
