"""The data sets of a run, with what its task makes of whole input images."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from robustflow import data
from robustflow.data import EvaluationSet, TrainingCrops
from robustflow.models.base import Model
from robustflow.options.schema import DatasetOptions, RunOptions
from robustflow.registry import MODELS
from robustflow.utils import files
from robustflow.utils.errors import UserError

# Keys of data sets whose images are all those of a folder.
_ROOTS = ("dataroot_GT", "dataroot_LQ")


def training_crops(options: RunOptions, seed: int) -> TrainingCrops:
    """Crops of datasets.train, which must be there; see `data.build_training`."""
    return data.build_training(options.datasets["train"], options.scale, seed, _condition_of(options))


def evaluation_set(options: RunOptions, dataset: DatasetOptions) -> EvaluationSet:
    """Images or crops of a data set of the run; see `data.build_evaluation`."""
    return data.build_evaluation(dataset, options.scale, _condition_of(options))


def evaluation_of_folder(options: RunOptions, path: str | Path) -> EvaluationSet:
    """Input images without ground truth, from a folder or a single file."""
    return data.evaluation_of_folder(path, options.scale, _condition_of(options))


def select_tested(options: RunOptions) -> dict[str, DatasetOptions]:
    """Options of the data sets whose key begins with "test", by the names of their results.

    UserError if there are none, or two of one name.
    """
    chosen = {key: dataset for key, dataset in options.datasets.items() if key.startswith("test")}
    if not chosen:
        raise UserError("datasets: expected at least one whose name begins with test, or --input, found neither")
    named: dict[str, DatasetOptions] = {}
    for key, dataset in chosen.items():
        name = dataset.name or key
        if name in named:
            raise UserError(f"datasets.{key}.name: '{name}' names two data sets")
        named[name] = dataset
    return named


def require_apart(options: RunOptions, inputs: str | Path | None, *places: Path) -> None:
    """Raise UserError if pictures in a place would be taken for images of ``inputs`` or of a data set the next time."""
    roots = (getattr(dataset, key, None) or () for dataset in options.datasets.values() for key in _ROOTS)
    folders = (root for some in roots for root in ([some] if isinstance(some, str | Path) else some))
    files.require_apart(places, [inputs, *folders])


def _condition_of(options: RunOptions) -> Callable[[Tensor], Tensor] | None:
    kind: type[Model] = MODELS.entry_of(options.model)
    return kind.whole_image_condition()
