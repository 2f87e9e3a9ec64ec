"""Do inputs that score as out of distribution fail more often? Patches, scored and sampled."""

import csv
import io
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from robustflow import data
from robustflow.data.bicubic import upsample
from robustflow.data.degradations import Enhance, Enhancement
from robustflow.diagnostics.ood import mahalanobis
from robustflow.evaluation.metrics.failures import PIXEL_RANGE, measure_failures
from robustflow.evaluation.records import to_json
from robustflow.evaluation.sampling import draw_samples
from robustflow.models import Model, data_sets
from robustflow.models.loading import load_model
from robustflow.options.schema import RunOptions, ValOptions
from robustflow.utils import precision
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)

_QUARTERS = 4


@dataclass(frozen=True)
class Patch:
    """One patch.

    Attributes:
        dataset: Name of the data set.
        image: Name of the image it was cut from.
        position: Row and column of its first pixel in the HR image.
        score: OOD score.
        percentile: Share of the training patches that score lower, %.
        pixel_error: Whether any pixel of any sample is an error.
        finite: Whether all samples are finite.
        max_residual: Largest |sample − bicubic upsampling of the patch|; inf unless finite.
    """

    dataset: str
    image: str
    position: tuple[int, int]
    score: float
    percentile: float
    pixel_error: bool
    finite: bool
    max_residual: float


@dataclass(frozen=True)
class Ranked:
    """The patches of a data set, and what was left out: images smaller than a patch, and the share of all pixels, %."""

    patches: list[Patch]
    n_images: int
    n_small: int
    dropped_pct: float

    def summary(self) -> dict[str, Any]:
        """Means over the patches, and %PixelErr of each quarter of them, that of the lowest scores first."""
        ranked = sorted(self.patches, key=lambda patch: patch.score)
        ends = [round(k * len(ranked) / _QUARTERS) for k in range(_QUARTERS + 1)]
        quarters = [ranked[first:last] for first, last in itertools.pairwise(ends)]
        scores = [patch.score for patch in ranked]
        return {
            "n_images": self.n_images,
            "n_patches": len(ranked),
            "n_images_too_small": self.n_small,
            "dropped_pixels_pct": self.dropped_pct,
            "mean_score": sum(scores) / len(scores) if scores else None,
            "mean_percentile": sum(patch.percentile for patch in ranked) / len(ranked) if ranked else None,
            "pixel_error_pct": _error_pct(ranked),
            "pixel_error_pct_by_quarter": [_error_pct(quarter) for quarter in quarters],
        }


def _error_pct(patches: Sequence[Patch]) -> float | None:
    return 100 * sum(patch.pixel_error for patch in patches) / len(patches) if patches else None


class Ranker:
    """Scores and samples the patches of data sets.

    Args:
        model: In eval mode.
        score: Its OOD score.
        val: Samples, temperature (the last one), seed; latents follow from the seed and the patch's place.
        side: Side of the patches, LR pixels.
        batch: Patches scored at once.
    """

    def __init__(self, model: Model, score: mahalanobis.OODScore, val: ValOptions, side: int, batch: int = 16) -> None:
        self.model, self.score, self.val, self.side, self.batch = model, score, val, side, batch
        self.device = model.device

    def rank(self, name: str, items: data.EvaluationSet) -> Ranked:
        """Cut every image into patches that do not overlap, from the top left; score and sample each."""
        patches: list[Patch] = []
        n_small, pixels, used = 0, 0, 0
        for item in tqdm(items, desc=name, leave=False, unit="image", disable=None):
            places = list(_places(item.lr, self.side))
            n_small += not places
            pixels += item.lr.shape[-2] * item.lr.shape[-1]
            used += len(places) * self.side**2
            patches += self._of_image(name, item, places)
        return Ranked(patches, len(items), n_small, 100 * (1 - used / pixels))

    def _of_image(self, dataset: str, item: data.EvaluationItem, places: list[tuple[int, int]]) -> Iterator[Patch]:
        cut = [item.condition[:, top : top + self.side, left : left + self.side].contiguous() for top, left in places]
        chunks = [torch.stack(cut[k : k + self.batch]) for k in range(0, len(cut), self.batch)]
        encoder = self.model.encoder
        scores = [
            each
            for c in chunks
            for each in self.score.score(mahalanobis.features_of(encoder, c, self.model.encoder_input)).tolist()
        ]
        for lr, (top, left), score in tqdm(
            zip(cut, places, scores, strict=True), total=len(cut), desc=item.name, leave=False, disable=None
        ):
            scale = self.score.scale
            position = (top * scale, left * scale)
            yield Patch(
                *(dataset, item.name, position, score, self.score.percentile(score)),
                *self._failures(lr, f"{item.name}_{position[0]}_{position[1]}"),
            )

    def _failures(self, lr: Tensor, name: str) -> tuple[bool, bool, float]:
        """Whether any sample has a pixel error, whether all are finite, the largest residual."""
        lr, val = lr.to(self.device), self.val
        upsampled = lr[:3] if self.score.scale == 1 else upsample(lr.double(), self.score.scale).to(lr)
        drawn = draw_samples(
            self.model,
            lr,
            name=name,
            heats=val.heats[-1:],
            n=val.n_sample,
            seed=val.seed,
            batch=val.sample_batch,
        )
        found = [measure_failures(sample, upsampled) for _, samples in drawn for sample in samples]
        return (
            any(each["pixel_errors"] > 0 for each in found),
            not any(each["has_inf"] or each["has_nan"] for each in found),
            max(each["max_residual"] for each in found),
        )


def _places(lr: Tensor, side: int) -> Iterator[tuple[int, int]]:
    for top in range(0, lr.shape[-2] - side + 1, side):
        for left in range(0, lr.shape[-1] - side + 1, side):
            yield top, left


def rank(
    options: RunOptions, folder: Path | None, enhance: Enhancement | None, patch: int | None, output: Path | None
) -> dict[str, Any]:
    """Rank the patches of the test sets, or of a folder of HR images; write ood.json, ood.csv and ood.png.

    Args:
        options: Of the model; of ``val`` the last temperature, number and seed of samples.
        folder: HR images, in place of the test sets; LR images are made from them.
        enhance: Filter of the folder's images, or None.
        patch: Side of the patches, HR pixels; None: that of the patches the score was fitted on.
        output: Folder for the results; None: results/<name>, or its sub-folder input with ``folder``.
    """
    own = Path(options.path.results) / options.name
    place = output if output is not None else own if folder is None else own / "input"
    data_sets.require_apart(options, folder, place)
    sets = _sets(options, folder, enhance)
    model = load_model(options)
    options, file = model.options, model.file
    score = mahalanobis.load_beside(file, model.encoder)
    if score is None:
        raise UserError(
            f"{mahalanobis.file_beside(file)}: expected the OOD score of {file.name}, found none that fits; "
            "fit it with robustflow ood fit and the same options"
        )
    side = _checked_side(patch, score)
    ranker = Ranker(model, score, options.val, side)
    protocol = _protocol(options, score, side, enhance)
    found: dict[str, Ranked] = {}
    report: dict[str, Any] = {}
    for name, items in sets.items():
        found[name] = ranker.rank(name, items)
        report = {
            "name": options.name,
            "weights": str(file),
            "protocol": protocol,
            "training": {"mean_score": score.mean_score, "n_patches": score.n_patches},
            "datasets": {name: ranked.summary() for name, ranked in found.items()},
            "patches": [asdict(each) for ranked in found.values() for each in ranked.patches],
        }
        # After each set, so that a fault in a later one loses nothing.
        write(place, report)
    log.info("results in %s", place)
    return report


def _checked_side(patch: int | None, score: mahalanobis.OODScore) -> int:
    """Side of the patches, LR pixels."""
    fitted = score.patch * score.scale
    if patch is None or patch == fitted:
        return score.patch
    if patch <= 0 or patch % score.scale != 0:
        raise UserError(f"--patch: expected a multiple of the scale {score.scale}, got {patch}")
    log.warning("OOD score fitted on patches of %d x %d: the size alone changes the scores of others", fitted, fitted)
    return patch // score.scale


def _sets(options: RunOptions, folder: Path | None, enhance: Enhancement | None) -> dict[str, data.EvaluationSet]:
    """Whole images: patches are cut from all of each image, not from the fixed crops of a set."""
    if folder is not None:
        if options.scale == 1:
            return _inputs(options, folder, enhance)
        # Folders of HR images are often all named HR.
        name = "/".join(folder.resolve().parts[-2:]) + ("" if enhance is None else f", enhanced ({enhance})")
        source: data.Source = data.open_folders(str(folder), None, options.scale)
        degradations = [] if enhance is None else [Enhance(enhance)]
        return {name: data.EvaluationSet(source, options.scale, degradations=degradations)}
    if enhance is not None:
        raise UserError("--enhance: expected --input beside it; for test sets, set datasets.<name>.enhance")
    whole = {"GT_size": None, "n_crops": None}
    return {
        name: data_sets.evaluation_set(options, dataset.model_copy(update=whole))
        for name, dataset in data_sets.tested(options).items()
    }


def _inputs(options: RunOptions, folder: Path, enhance: Enhancement | None) -> dict[str, data.EvaluationSet]:
    """Images of a folder as inputs: none are made from others where input and output are of one size."""
    if enhance is not None:
        raise UserError("--enhance: expected none with scale 1: it filters images that inputs are made from")
    return {"/".join(folder.resolve().parts[-2:]): data_sets.evaluation_of_folder(options, folder)}


def _protocol(
    options: RunOptions, score: mahalanobis.OODScore, side: int, enhance: Enhancement | None
) -> dict[str, Any]:
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
        "fitted": score.described(),
    }


def write(folder: Path, report: dict[str, Any]) -> None:
    """Write ood.json, ood.csv and ood.png, each atomically."""
    from robustflow.diagnostics.ood.plot import plot  # matplotlib takes a while to load

    write_atomically(folder / "ood.json", to_json(report).encode())
    text = io.StringIO()
    columns = ["dataset", "image", "top", "left", "score", "percentile", "pixel_error", "finite", "max_residual"]
    writer = csv.writer(text)
    writer.writerow(columns)
    for each in report["patches"]:
        values = {**each, "top": each["position"][0], "left": each["position"][1]}
        writer.writerow([values[column] for column in columns])
    write_atomically(folder / "ood.csv", text.getvalue().encode())
    plot(curves_of(report), folder / "ood.png")


def curves_of(report: dict[str, Any]) -> dict[str, list[tuple[float, bool]]]:
    """(score, failed) of the patches of an ood.json by data set, and of all if there are several sets."""
    curves: dict[str, list[tuple[float, bool]]] = {name: [] for name in report["datasets"]}
    for each in report["patches"]:
        curves[each["dataset"]].append((each["score"], each["pixel_error"]))
    together = [point for curve in curves.values() for point in curve]
    return curves if len(curves) == 1 else {**curves, "all": together}


def table(report: dict[str, Any]) -> str:
    """Table of an ood.json for the screen: a row per data set, the training patches first."""
    quarters = [f"quarter {k}" for k in range(1, _QUARTERS + 1)]
    headers = ["data set", "patches", "left out %", "mean OOD score", "mean percentile", "%PixelErr", *quarters]
    training = report["training"]
    first = ["(training)", str(training["n_patches"]), "", _cell(training["mean_score"]), "50"]
    rows = [first + [""] * (len(headers) - len(first))]
    for name, found in report["datasets"].items():
        keys = ("dropped_pixels_pct", "mean_score", "mean_percentile", "pixel_error_pct")
        values = [*(found[key] for key in keys), *found["pixel_error_pct_by_quarter"]]
        rows.append([name, str(found["n_patches"]), *map(_cell, values)])
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    note = "quarter k: %PixelErr of the patches of that quarter of the scores, lowest first"
    return tabulate(rows, headers, disable_numparse=True, colalign=alignment) + f"\n{note}"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def read(folder: Path) -> dict[str, Any]:
    """Read a results folder's ood.json."""
    try:
        report: dict[str, Any] = json.loads((folder / "ood.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{folder}: expected a results folder with ood.json ({error}); run robustflow ood rank"
        ) from error
    return report
