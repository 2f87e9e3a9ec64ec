"""How unlike the training patches an input is, to the model's own encoder (Hong et al., ICCV 2023, supplement S1.1).

The score is the squared Mahalanobis distance of the encoder's features to a Gaussian fitted on training patches; it is
kept beside the weights. Most directions of the features hardly vary, so the covariance is shrunk (Ledoit, Wolf) unless
the empirical one is asked for: what little they do, rounding errors included, would otherwise decide the score.

A mean score says little without its estimator, the number N of patches fitted on, that of features, c, and whether the
patches scored are those fitted on. By the empirical covariance (over N − 1) it is c (N − 1) / N in sample, whatever the
features' distribution; out of sample, of Gaussian features, c (N² − 1) / (N (N − c − 2)). With c = 256 that is 345, 294
and 263 for N = 1000, 2000 and 10,000; from fits to nine tenths of them, as `cross_score` makes, 359, 299 and 264. By a
shrunk covariance both are lower. The published mean in training, 236.78 with c = 256, is thus neither of an empirical
covariance with an inverse; how it was estimated, and N, are not published: the order of published means can be compared
with ours, their sizes cannot.

Command line: ``robustflow ood fit|rank|plot|table``.
"""

import hashlib
import json
import logging
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from robustflow import data
from robustflow.data.bicubic import mirror_pad
from robustflow.diagnostics.ood.gaussian import fit_gaussian, squared_mahalanobis
from robustflow.evaluation.description import NOT_RECORDED, describe_ood_fit
from robustflow.models import Model, data_sets, weights
from robustflow.options.schema import RunOptions
from robustflow.utils import memory
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically
from robustflow.utils.seeds import derive_seed

log = logging.getLogger(__name__)

SUFFIX = ".ood.safetensors"
PATCH = 160
N_PATCHES = 2000
WARN_ABOVE = 99.0
CAN_EXPLODE = ("affine", "exp_affine")  # couplings whose inverse has steep slopes far out
_FORMAT = "robustflow ood 1"
_PERCENTS = np.linspace(0, 100, 1001)
OUT_OF_SAMPLE = "out of sample, ten-fold"
_FOLDS = 10
# Sides of the condition are mirrored up to a multiple of this: enough for flows of log2(scale) + 3 levels.
_MULTIPLE = 8


@torch.no_grad()
def features_of(model: Model, lr: Tensor) -> Tensor:
    """The encoder's taps of lr (b, c', h, w), in [0, 1], any size, averaged over space: (b, c), float64, on the CPU.

    What the encoder needs beyond h and w is mirrored; those places do not count in the average. Features depend on the
    size: averages over large images vary less, and borders count more in small ones. `OODScore.cut` gives patches as
    large as those it was fitted on.
    """
    height, width = lr.shape[-2:]
    encoder, learning = model.encoder, model.encoder.training
    padded = mirror_pad(lr, 0, -width % _MULTIPLE, 0, -height % _MULTIPLE).to(next(encoder.parameters()))
    encoder.eval()
    try:
        taps = encoder(model.encoder_input(padded)).taps
    finally:
        encoder.train(learning)
    # Channels last would make this sum depend on the batch.
    rows, columns = (
        -(-n * m // k) for n, m, k in zip((height, width), taps.shape[-2:], padded.shape[-2:], strict=True)
    )
    return taps[..., :rows, :columns].double().contiguous().mean((-2, -1)).cpu()


def colourfulness(rgb: Tensor) -> Tensor:
    """Hasler and Suesstrunk's (2003) of images (b, 3, h, w) in [0, 1]: (b,), 0 of a grey one, above 0.3 of a gaudy one.

    sqrt(var(rg) + var(yb)) + 0.3 sqrt(mean(rg)² + mean(yb)²) with rg = R − G and yb = (R + G) / 2 − B.
    """
    red, green, blue = rgb.double().unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], 1).flatten(2)
    return opponents.std(2, correction=0).norm(dim=1) + 0.3 * opponents.mean(2).norm(dim=1)


@dataclass(frozen=True)
class OODScore:
    """Gaussian of the features of training patches.

    Attributes:
        mean: (c,), float64.
        factor: Lower Cholesky factor (c, c) of the covariance.
        quantiles: Scores of training patches at 0, 0.1 ... 100 %, (1001,); each scored by a Gaussian fitted without it.
        mean_score: Their mean.
        shrinkage: Share of the scaled identity in the covariance, see `gaussian.shrinkage_of`; 0: the empirical one.
        n_patches: Training patches fitted on.
        patch: Their side, LR pixels.
        scale: Super-resolution factor: patches have sides of ``patch * scale`` HR pixels.
        encoder: Digest of the encoder, see `digest`.
        mean_score_of: Whether ``mean_score`` is in or out of sample; files written earlier do not say.
        in_sample_mean: Mean score of the patches by the Gaussian fitted to all of them; None in such files.
        least_colour: `colourfulness` that 99 % of the training patches exceed; None in such files.
    """

    mean: Tensor
    factor: Tensor
    quantiles: Tensor
    mean_score: float
    shrinkage: float
    n_patches: int
    patch: int
    scale: int
    encoder: str
    mean_score_of: str = NOT_RECORDED
    in_sample_mean: float | None = None
    least_colour: float | None = None

    def score(self, features: Tensor) -> Tensor:
        """Squared Mahalanobis distance of features (b, c), as `features_of` gives them: (b,), float64."""
        return squared_mahalanobis(features, self.mean, self.factor)

    def percentile(self, score: float) -> float:
        """Share of the training patches whose score is below this one, %; 100 means above all of them."""
        return float(np.interp(score, self.quantiles.numpy(), _PERCENTS))

    def quantile(self, percent: float) -> float:
        """Score that this share of the training patches, %, does not exceed."""
        return float(np.interp(percent, _PERCENTS, self.quantiles.numpy()))

    def describe(self) -> dict[str, float | int | str]:
        """What a score depends on, for protocols; see `description.describe_ood_fit`."""
        estimator = "empirical" if self.shrinkage == 0 else "shrunk"
        known = {name: getattr(self, name) for name in _VALUES if getattr(self, name) is not None}
        return {"covariance": estimator, "n_features": len(self.mean), **known}

    def cut(self, lr: Tensor) -> list[Tensor]:
        """Patches of lr (c', h, w), any size: as large as those fitted on, covering all of it.

        The last ones of each direction overlap the one before; an image that is smaller is mirrored, as the encoder's
        own borders would raise the score of a small patch. The mean of their scores is the image's.
        """
        lr = mirror_pad(lr, 0, max(self.patch - lr.shape[-1], 0), 0, max(self.patch - lr.shape[-2], 0))
        height, width = lr.shape[-2:]
        boxes = [(top, left) for top in _starts(height, self.patch) for left in _starts(width, self.patch)]
        return [lr[:, top : top + self.patch, left : left + self.patch] for top, left in boxes]

    def of_patches(self, model: Model, patches: Sequence[Tensor], batch: int = 16) -> Tensor:
        """Scores (n,) of patches (c', h, w) of one size, ``batch`` at a time."""
        chunks = [torch.stack([*patches[k : k + batch]]) for k in range(0, len(patches), batch)]
        return torch.cat([self.score(features_of(model, chunk)) for chunk in chunks])

    def bind(self, model: Model) -> Callable[[Tensor], tuple[float, float]]:
        """Score, by this model, and colourfulness of an image (c', h, w): means over its patches."""

        def measure(lr: Tensor) -> tuple[float, float]:
            patches = self.cut(lr)
            colours = torch.cat([colourfulness(patch[None, :3]) for patch in patches])
            return float(self.of_patches(model, patches).mean()), float(colours.mean())

        return measure


def _starts(length: int, side: int) -> list[int]:
    """Where intervals of ``side`` begin that cover ``length``."""
    return [*range(0, length - side, side), max(length - side, 0)]


def unlike(score: OODScore, of_inputs: Mapping[str, float]) -> dict[str, float]:
    """Those of some inputs' scores that less than 1 % of the training patches reach, the highest first."""
    found = {name: value for name, value in of_inputs.items() if not score.percentile(value) < WARN_ABOVE}
    return dict(sorted(found.items(), key=lambda item: -math.inf if math.isnan(item[1]) else -item[1]))


def pale(score: OODScore, of_inputs: Mapping[str, float]) -> dict[str, float]:
    """Those of some inputs' `colourfulness` that 99 % of the training patches exceed, the lowest first."""
    least = -math.inf if score.least_colour is None else score.least_colour
    return dict(sorted(((name, value) for name, value in of_inputs.items() if value < least), key=lambda one: one[1]))


def warnings(
    dataset: str, above: Mapping[str, float], without: Mapping[str, float], n_inputs: int, coupling: str = ""
) -> Iterator[str]:
    """Yield what to tell the user of the inputs of a data set; nothing if all are like the training patches.

    Args:
        dataset: Its name.
        above: See `unlike`.
        without: See `pale`.
        n_inputs: Of the data set.
        coupling: Type of the model's coupling.
    """
    if above:
        highest = next(iter(above))
        explosion = f" (coupling {coupling} can explode)" if coupling in CAN_EXPLODE else ""
        yield (
            f"{dataset}: {len(above)} of {n_inputs} inputs have an OOD score above {WARN_ABOVE:g} % of the training "
            f"patches, the highest {above[highest]:.4g} ({highest}): the model may fail there{explosion}; the report "
            "lists them"
        )
    if without:
        palest = next(iter(without))
        yield (
            f"{dataset}: {len(without)} of {n_inputs} inputs have less colour than {WARN_ABOVE:g} % of the training "
            f"patches, the least {without[palest]:.2g} ({palest}; grey has 0): the model may tint them; the report "
            "lists them"
        )


def digest(encoder: nn.Module) -> str:
    """Hash of an encoder's tensors and tapped blocks: the same wherever they are stored, on any device."""
    hashed = hashlib.sha256(repr(getattr(encoder, "taps", None)).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hashed.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def file_beside(weights_file: Path) -> Path:
    """Where the score of a model is kept: X.ood.safetensors beside X.safetensors or X.pth."""
    return weights_file.with_suffix(SUFFIX)


_TENSORS = ("mean", "factor", "quantiles")
# Of all else the type, of which a file has the text; what earlier files lack has a default.
_VALUES: dict[str, Any] = {
    one.name: next(iter(get_args(one.type)), one.type) for one in fields(OODScore) if one.name not in _TENSORS
}


def save(path: Path, ood: OODScore) -> None:
    """Write a score atomically."""
    tensors = {name: getattr(ood, name).contiguous() for name in _TENSORS}
    values = {name: str(value) for name, value in ood.describe().items()}
    metadata = {"format": _FORMAT, "values": json.dumps(values)}
    write_atomically(path, safetensors.torch.save(tensors, metadata))


def load(path: Path) -> OODScore:
    """Read a score. UserError if the file is damaged or none of ours."""
    tensors, metadata = weights.read(path)
    if metadata.get("format") != _FORMAT or set(tensors) != set(_TENSORS):
        raise UserError(f"{path}: expected an OOD score ({_FORMAT}), got another file; fit it again")
    try:
        values = json.loads(metadata["values"])
        known: dict[str, Any] = {name: read(values[name]) for name, read in _VALUES.items() if name in values}
        return OODScore(**{**tensors, **known})
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: damaged OOD score ({error}); fit it again") from error


def load_beside(weights_file: Path, encoder: nn.Module) -> OODScore | None:
    """The score of a model, from beside its weights; None, with a warning in the log, if it is not this model's.

    Args:
        weights_file: The model's weights.
        encoder: Its encoder, with these weights loaded.
    """
    path = file_beside(weights_file)
    if not path.is_file():
        return None
    try:
        found = load(path)
    except UserError as error:
        log.warning("OOD score not used: %s", error)
        return None
    if found.encoder != digest(encoder):
        log.warning(
            "%s: OOD score not used: it was fitted with another encoder than that of %s; fit it again with "
            "robustflow ood fit",
            path,
            weights_file.name,
        )
        return None
    return found


def training_patches(options: RunOptions, patch: int | None, seed: int) -> data.TrainingCrops:
    """Patches of the training set, not flipped, turned or shifted; other alterations of the set are kept.

    Args:
        options: With datasets.train.
        patch: Side in HR pixels; None: 160, or GT_size where the scale does not divide 160 or an image is smaller.
        seed: Seed of their places.
    """
    if "train" not in options.datasets:
        raise UserError("datasets.train: expected the training set, whose patches the OOD score is fitted on; got none")
    crops = data_sets.training_crops(options, seed)
    if patch is None:
        sizes = [crops.source.size(index) for index in range(len(crops))]
        fits = PATCH % options.scale == 0 and all(size is not None and min(size) >= PATCH for size in sizes)
        patch = PATCH if fits else crops.size
    return crops.upright(patch, derive_seed("ood", seed))


def fit(
    model: Model,
    crops: data.TrainingCrops,
    n_patches: int = N_PATCHES,
    *,
    batch: int = 16,
    shrinkage: float | None = None,
    n_workers: int = 0,
) -> OODScore:
    """Fit the score on the first ``n_patches`` crops.

    Args:
        model: With its weights, on the device to compute on.
        crops: Training patches.
        n_patches: At least 10, better several times the number of features.
        batch: Patches computed at once.
        shrinkage: Share of the scaled identity in the covariance, 0: the empirical one; None: that of Ledoit and Wolf.
        n_workers: Loader processes.

    Raises:
        UserError: Too few patches, above all for an empirical covariance: nine tenths must outnumber the features.
    """
    if n_patches < _FOLDS:
        raise UserError(f"--n-patches: expected at least {_FOLDS}, got {n_patches}")
    memory.require_shared(n_workers, "datasets.train.n_workers")
    # Ctrl-C is for the main process to answer.
    loader = DataLoader(crops, batch, sampler=range(n_patches), num_workers=n_workers, worker_init_fn=_without_signals)
    progress = tqdm(loader, desc="OOD score", unit="batch", leave=False, disable=None)
    found = [(features_of(model, each["lr"]), colourfulness(each["lr"][:, :3])) for each in progress]
    features, colours = (torch.cat(parts) for parts in zip(*found, strict=True))
    mean, factor, used = fit_gaussian(features, shrinkage)
    scores = cross_score(features, shrinkage)
    return OODScore(
        mean=mean,
        factor=factor,
        quantiles=torch.from_numpy(np.quantile(scores.numpy(), _PERCENTS / 100)),
        mean_score=scores.mean().item(),
        shrinkage=used,
        n_patches=n_patches,
        patch=crops.size // crops.scale,
        scale=crops.scale,
        encoder=digest(model.encoder),
        mean_score_of=OUT_OF_SAMPLE,
        in_sample_mean=squared_mahalanobis(features, mean, factor).mean().item(),
        least_colour=float(np.quantile(colours.numpy(), 1 - WARN_ABOVE / 100)),
    )


def _without_signals(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cross_score(features: Tensor, shrinkage: float | None = None) -> Tensor:
    """Score (n,) of each of the features (n, c) by a Gaussian fitted to the nine tenths without it.

    By the Gaussian of all, features that it was fitted on would score lower than new ones of the same distribution: for
    Gaussian ones and an empirical covariance by the factor (n − c − 2) / (n + 1).
    """
    fold, scores = torch.arange(len(features)) % _FOLDS, features.new_empty(len(features))
    for k in range(_FOLDS):
        mean, factor, _ = fit_gaussian(features[fold != k], shrinkage)
        scores[fold == k] = squared_mahalanobis(features[fold == k], mean, factor)
    return scores


def fit_and_save(
    options: RunOptions,
    weights_file: Path,
    model: Model,
    *,
    n_patches: int = N_PATCHES,
    patch: int | None = None,
    batch: int = 16,
    seed: int = 0,
    shrinkage: float | None = None,
) -> OODScore:
    """Fit the score of a model on its training set and write it beside its weights; arguments as those of `fit`."""
    crops = training_patches(options, patch, seed)
    workers = options.datasets["train"].n_workers
    ood = fit(model, crops, n_patches, batch=batch, shrinkage=shrinkage, n_workers=workers)
    save(file_beside(weights_file), ood)
    fitted = describe_ood_fit(ood.describe())
    log.info("%s: %s; 99 %% of them below %.4g", file_beside(weights_file), fitted, ood.quantile(99))
    return ood
