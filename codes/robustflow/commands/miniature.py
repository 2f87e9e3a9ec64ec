"""A recipe in small: its chain with tiny networks on a few bundled photographs, whose numbers mean nothing."""

from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from robustflow.data import BundledSource
from robustflow.data.images import write_png
from robustflow.options.schema import SHORT_FORMS, DatasetOptions, RunOptions
from robustflow.utils.yaml_tree import Dumper

# Where the photographs lie, and their height and width.
FOLDER = Path("results/small/images")
_SIZE = (128, 160)
_N_IMAGES = 4


def write_images() -> None:
    """Write `train` and `test` with crops of bundled photographs."""
    for split in ("train", "test"):
        source = BundledSource(split, 1)
        for index, name in enumerate(source.names[:_N_IMAGES]):
            file = FOLDER / split / f"{name}.png"
            if not file.is_file():
                write_png(file, _crop(source.pair(index)[0]))


def _crop(image: Tensor) -> Tensor:
    top, left = ((side - wanted) // 2 for side, wanted in zip(image.shape[-2:], _SIZE, strict=True))
    return image[:, top : top + _SIZE[0], left : left + _SIZE[1]]


def shrink(options: RunOptions) -> dict[str, Any]:
    """Settings, by dotted key, that make a run small: its network, its training, its images."""
    flow = options.network_G.flow
    settings: dict[str, Any] = {
        "network_G": {"nf": 8, "nb": 2, "gc": 4},
        "network_G.flow": {"K": 1, "hidden_channels": 8, "S": [min(1, noisy) for noisy in flow.S]},
        "network_G.flow.stackRRDB": {"blocks": [0, 1]},
        "train": {"niter": 10, "val_freq": 10, "warmup_iter": 0, "ood_patches": min(20, options.train.ood_patches)},
        "val": {"n_sample": 3},
        "logger": {"print_freq": 10, "save_checkpoint_freq": 5},
    }
    side = max(32, 4 * options.scale, 2**flow.L)
    for key, dataset in options.datasets.items():
        settings[f"datasets.{key}"] = _shrink_data(key, dataset, options.scale, side)
    start = options.path.pretrain_model_G
    if start is not None and Path(start).is_relative_to(options.path.experiments):
        name = Path(start).relative_to(options.path.experiments)
        settings["path.pretrain_model_G"] = str(Path(options.path.experiments) / "small" / name)
    return settings


def _shrink_data(key: str, dataset: DatasetOptions, scale: int, side: int) -> dict[str, Any]:
    split = "train" if key == "train" else "test"
    # Another mode begins anew, and claims and published figures name data sets.
    changed: dict[str, Any] = {"name": dataset.name, "mode": "folder", "GT_size": side}
    if scale > 1:
        changed |= dataset.model_dump(mode="json", include={"degrade", *SHORT_FORMS}, exclude_defaults=True)
    folder = str(FOLDER / split)
    changed |= {"dataroot_GT": folder, "dataroot_LQ": None}
    if scale == 1:  # dark images become bright ones
        changed |= {"dataroot_LQ": folder, "degrade": [{"type": "gain", "factor": 0.1}]}
    return {**changed, **({"batch_size": 2, "n_workers": 0} if split == "train" else {"n_crops": 4})}


def to_yaml(value: Any) -> str:
    """A value on one line, as `--override` reads it."""
    return yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
