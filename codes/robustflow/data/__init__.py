"""Data: image files and bundled photographs to crops and evaluation items."""

from pathlib import Path
from typing import Any

from robustflow.data.augment import TrainingCrops
from robustflow.data.bundled import BundledOptions, BundledSource
from robustflow.data.conditions import ConditionOf, ConditionSource
from robustflow.data.cuts import Cut, collate
from robustflow.data.degrade import Enhancement
from robustflow.data.evaluation_set import EvaluationItem, EvaluationSet
from robustflow.data.folders import FileSource, FolderOptions, open_folders, open_inputs
from robustflow.data.low_light import BundledLowLightOptions, BundledLowLightSource, LoLOptions, LoLv2Options
from robustflow.data.lrhr import ImageFolderOptions, PatchFolderOptions, PickleOptions, PickleSource, open_patches
from robustflow.data.prepared import PreparedOptions, PreparedSource, open_prepared
from robustflow.data.source import Source, register_source
from robustflow.options.schema import DatasetOptions
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError

__all__ = [
    "BundledLowLightOptions",
    "BundledLowLightSource",
    "BundledOptions",
    "BundledSource",
    "Cut",
    "EvaluationItem",
    "EvaluationSet",
    "FileSource",
    "FolderOptions",
    "ImageFolderOptions",
    "LoLOptions",
    "LoLv2Options",
    "PatchFolderOptions",
    "PickleOptions",
    "PickleSource",
    "PreparedOptions",
    "PreparedSource",
    "Source",
    "TrainingCrops",
    "build_evaluation",
    "build_training",
    "collate",
    "evaluation_of_folder",
    "open_folders",
    "open_patches",
    "open_prepared",
    "register_source",
]


def build_training(
    options: DatasetOptions, scale: int, seed: int, condition_of: ConditionOf | None = None
) -> TrainingCrops:
    """Build the training crops that ``options`` describe.

    Args:
        options: Of any mode, with a GT_size.
        scale: Super-resolution factor.
        seed: Seed of order, crops, flips, rotations, noise and shifts; ``options.seed`` is for fixed crops.
        condition_of: The task's ``whole_image_condition``.
    """
    if options.GT_size is None:
        raise UserError("expected GT_size, the side of the training crops, got null")
    source, degradations = _source(options, scale, seed, condition_of)
    return TrainingCrops(
        source,
        scale,
        options.GT_size,
        use_flip=options.use_flip,
        use_rot=options.use_rot,
        hr_shift=options.hr_shift,
        seed=seed,
        **degradations,
    )


def build_evaluation(options: DatasetOptions, scale: int, condition_of: ConditionOf | None = None) -> EvaluationSet:
    """Build the fixed images or crops that ``options`` describe; ``condition_of``: the task's whole_image_condition."""
    source, degradations = _source(options, scale, options.seed, condition_of)
    return EvaluationSet(
        source,
        scale,
        size=options.GT_size,
        n_crops=options.n_crops,
        seed=options.seed,
        **degradations,
    )


def evaluation_of_folder(path: str | Path, scale: int, condition_of: ConditionOf | None = None) -> EvaluationSet:
    """Whole LR images without ground truth, from a folder or a single file."""
    source: Source = open_inputs(path, scale)
    return EvaluationSet(source if condition_of is None else ConditionSource(source, condition_of), scale)


def _source(
    options: DatasetOptions, scale: int, seed: int, condition_of: ConditionOf | None
) -> tuple[Source, dict[str, Any]]:
    """The source, and what is left for those who cut it to alter: nothing if conditions are of whole images."""
    source: Source = DATASETS.build(options, scale=scale)
    degradations = _degradations(options)
    if condition_of is None:
        return source, degradations
    altering = {key: degradations.pop(key) for key in ("lr_noise", "lr_gain", "lr_invert")}
    return ConditionSource(source, condition_of, seed=seed, **altering), degradations


def _degradations(options: DatasetOptions) -> dict[str, Any]:
    enhancement: Enhancement | None = None
    if options.enhance is not False:
        enhancement = "published" if options.enhance is True else options.enhance
    return {
        "enhancement": enhancement,
        "lr_noise": options.lr_noise,
        "lr_gain": options.lr_gain,
        "lr_invert": options.lr_invert,
    }
