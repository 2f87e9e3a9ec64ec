"""Data: image files and bundled photographs to crops and evaluation items."""

from pathlib import Path

from robustflow.data.crops import RawCrop, collate
from robustflow.data.degradations import Degradation
from robustflow.data.degradations import build_all as build_degradations
from robustflow.data.evaluation_set import EvaluationItem, EvaluationSet
from robustflow.data.sources.base import Source, register_source
from robustflow.data.sources.bundled import BundledSource
from robustflow.data.sources.folders import open_folders, open_inputs
from robustflow.data.training_crops import TrainingCrops
from robustflow.data.whole_images import ConditionOf
from robustflow.options.schema import DatasetOptions
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError

__all__ = [
    "BundledSource",
    "Degradation",
    "EvaluationItem",
    "EvaluationSet",
    "RawCrop",
    "Source",
    "TrainingCrops",
    "build_evaluation",
    "build_training",
    "collate",
    "evaluation_of_folder",
    "open_folders",
    "register_source",
]


def build_training(
    options: DatasetOptions, scale: int, seed: int, condition_of: ConditionOf | None = None
) -> TrainingCrops:
    """Build the training crops that ``options``, with a GT_size, describe; condition_of: see `WholeImages`.

    ``seed`` is that of order, crops, flips, rotations, noise and shifts; ``options.seed`` is for fixed crops.
    """
    if options.GT_size is None:
        raise UserError("expected GT_size, the side of the training crops, got null")
    return TrainingCrops(
        DATASETS.build(options, scale=scale),
        scale,
        options.GT_size,
        use_flip=options.use_flip,
        use_rot=options.use_rot,
        hr_shift=options.hr_shift,
        seed=seed,
        degradations=build_degradations(options),
        kernel=options.downsampling,
        condition_of=condition_of,
    )


def build_evaluation(options: DatasetOptions, scale: int, condition_of: ConditionOf | None = None) -> EvaluationSet:
    """Build the fixed images or crops that ``options`` describe; condition_of: see `WholeImages`."""
    return EvaluationSet(
        DATASETS.build(options, scale=scale),
        scale,
        size=options.GT_size,
        n_crops=options.n_crops,
        seed=options.seed,
        degradations=build_degradations(options),
        kernel=options.downsampling,
        condition_of=condition_of,
    )


def evaluation_of_folder(path: str | Path, scale: int, condition_of: ConditionOf | None = None) -> EvaluationSet:
    """Whole LR images without ground truth, from a folder or a single file."""
    return EvaluationSet(open_inputs(path, scale), scale, condition_of=condition_of)
