"""What is probably wrong with data sets, said as warnings: training and tests can go on."""

import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustflow.data.bicubic import downsample
from robustflow.data.images import list_images, read_header, read_image, to_uint8
from robustflow.data.sources.base import LazyImage, Pairs, Source
from robustflow.data.sources.folders import FolderOptions, ImageFolderOptions, PatchFolderOptions
from robustflow.data.sources.low_light import LoLOptions, LoLv2Options, LowLightOptions
from robustflow.data.sources.pairs import pair_files
from robustflow.data.sources.prepared import Index, PreparedOptions, is_current, read_index
from robustflow.options.schema import DatasetOptions
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

_PAIRS = 3
# Of 255. Rounding and other bicubic filters with antialiasing stay below it; other filters, without antialiasing,
# shifted or compressed by JPEG, do not.
_LARGEST_RESIDUAL = 1.0
_OF_FILES = (FolderOptions, ImageFolderOptions, PatchFolderOptions)  # folders of image files, paired by name
_SHOWN = 3
_COMPARED = 2**16  # bytes at each end of a file


def warn(datasets: Mapping[str, DatasetOptions], scale: int, *, used: str) -> None:
    """Log what looks wrong with the data sets whose key begins with ``used`` and with their independence of others.

    Args:
        datasets: All data sets of a run, by key.
        scale: Super-resolution factor.
        used: "train" (validation is used then, too) or "test".
    """
    for key, dataset in datasets.items():
        if scale > 1 and (key.startswith(used) or (used == "train" and key == "val")):
            _warn_of_other_lr(key, dataset, scale)
    # Not those that come with robustflow, nor LR images alone.
    of_user = {key: dataset for key, dataset in datasets.items() if getattr(dataset, "dataroot_GT", None) is not None}
    training = of_user.pop("train", None)
    if training is not None and of_user:
        _warn_of_overlaps(training, of_user)


def residual(hr: Tensor, lr: Tensor, scale: int) -> float:
    """Root mean square difference of an LR image and the bicubic LR image of its HR image, levels of 255.

    The HR image may have been cropped to multiples of the scale before or not: the smaller difference counts.

    Args:
        hr: (3, H, W), uint8 or floating in [0, 1].
        lr: (3, H // scale, W // scale), likewise.
        scale: Super-resolution factor.
    """
    height, width = lr.shape[-2:]
    made = (
        downsample(large, scale)[..., :height, :width] for large in (hr[..., : height * scale, : width * scale], hr)
    )
    found = [torch.mean((to_uint8(small).float() - to_uint8(lr).float()) ** 2).item() for small in made]
    return math.sqrt(min(found))


def _warn_of_other_lr(key: str, dataset: DatasetOptions, scale: int) -> None:
    """Warn of LR images that are not the bicubic ones of their HR images, by the first few pairs of files."""
    if getattr(dataset, "dataroot_GT", None) is None or getattr(dataset, "dataroot_LQ", None) is None:
        return
    # The source itself would read the headers of all files.
    source = _first_files(dataset, scale) if type(dataset) in _OF_FILES else DATASETS.build(dataset, scale=scale)
    found: dict[str, float] = {}
    for index in range(min(_PAIRS, len(source))):
        hr, lr = source.pair(index)
        if hr is not None and lr is not None:
            found[source.names[index]] = residual(hr, lr, scale)
    worst = max(found, key=lambda name: found[name], default="")
    if found and found[worst] > _LARGEST_RESIDUAL:
        log.warning(
            "datasets.%s: %s: not the bicubic LR image (root mean square difference %.1f of 255; rounding makes up to "
            "%g): another filter, a shift or JPEG. LR-PSNR and published figures assume bicubic; without dataroot_LQ "
            "LR images are made so.",
            *(key, worst, found[worst], _LARGEST_RESIDUAL),
        )


def _first_files(dataset: Any, scale: int) -> Source:
    """The first pairs of files; none of a set with faults: whoever opens it names all of them."""
    try:
        gt, lq = Path(dataset.dataroot_GT), Path(dataset.dataroot_LQ)
        files = pair_files(gt, lq, scale, dataset.pair_by, dataset.filename_tmpl)[:_PAIRS]
        names = [f"{small} beside {large}" for large, small in files]
        sizes = {file: _image_size(file) for pair in files for file in pair}
        images = {file: LazyImage(file, size, partial(read_image, file)) for file, size in sizes.items()}
        return Pairs([(images[large], images[small]) for large, small in files], names, scale)
    except UserError:
        return Pairs([], [], scale)


def _warn_of_overlaps(training: DatasetOptions, others: Mapping[str, DatasetOptions]) -> None:
    """Warn of files of HR images that are training files, too, and of images that cannot be compared with those."""
    learnt = _files("train", training)
    for key, other in others.items():
        # The same photographs were published in several of these sets, in files of their own.
        both_low_light = isinstance(training, LowLightOptions) and isinstance(other, LowLightOptions)
        by_pixels = both_low_light and training.mode != other.mode
        files = _files(key, other) if learnt or by_pixels else []
        if files and not learnt:
            _warn_of_lol(key, training, other)
        try:
            same = _find_same(files, learnt, by_pixels=by_pixels)
        except (UserError, OSError):
            # Whoever opens the set says what is wrong.
            continue
        if same:
            shown = ", ".join(f"{file} ({of_training})" for file, of_training in same[:_SHOWN])
            log.warning(
                "datasets.%s: %d of %d files are training files, too%s: %s%s; figures on what was learnt say little",
                *(key, len(same), len(files), ", by their pixels" if by_pixels else ""),
                *(shown, " ..." if len(same) > _SHOWN else ""),
            )


def _files(key: str, dataset: DatasetOptions) -> list[Path]:
    """Files of HR images, as the user has them; none of a set that is not here: it is not used here."""
    root: str | Sequence[str] = getattr(dataset, "dataroot_GT", ())
    try:
        if isinstance(dataset, PreparedOptions):
            return _originals(key, read_index(Path(str(root))))
        places = [Path(place) for place in ([root] if isinstance(root, str) else root)]
        return [file for place in places for file in ([place] if place.is_file() else list_images(place))]
    except (UserError, OSError):
        return []


def _originals(key: str, index: Index) -> list[Path]:
    """Files that images were prepared from, those that are still as they were; warn of the others."""
    origin = Path(index.origin)
    kept = [entry for entry in index.images if is_current(entry, origin)] if origin.is_dir() else []
    if len(kept) < len(index.images):
        log.warning(
            "datasets.%s: %d of %d images not compared with those of other sets: the files they were prepared from are "
            "no longer in %s, or changed",
            *(key, len(index.images) - len(kept), len(index.images), origin),
        )
    return [origin / entry.image for entry in kept]


def _warn_of_lol(key: str, training: DatasetOptions, other: DatasetOptions) -> None:
    """Warn of images known to be in two sets, where one is not here to be compared with."""
    in_both = isinstance(other, LoLv2Options) and other.split == "test" and other.subset != "Synthetic"
    if in_both and isinstance(training, LoLOptions) and training.split == "train":
        log.warning(
            "datasets.%s: LOL-v2's captured test set has images that LOL trains on; which ones was not found out, as "
            "datasets.train is not here; figures on what was learnt say little",
            key,
        )


def _find_same(files: list[Path], others: list[Path], *, by_pixels: bool) -> list[tuple[Path, Path]]:
    """Files that have a like among the others, and that one: of the same content, or showing the same.

    Few are read, or decoded: those of sizes that are found in both.
    """
    size_of, digest = (_image_size, _hash_pixels) if by_pixels else (_file_size, _hash_ends)
    sizes = {file: size_of(file) for file in (*files, *others)}
    shared = {sizes[file] for file in files} & {sizes[other] for other in others}
    by_digest = {digest(other): other for other in others if sizes[other] in shared}
    digests = {file: digest(file) for file in files if sizes[file] in shared}
    return [(file, by_digest[found]) for file, found in digests.items() if found in by_digest]


def _image_size(path: Path) -> tuple[int, int]:
    return read_header(path).size


def _file_size(path: Path) -> int:
    return path.stat().st_size


@lru_cache(maxsize=2**12)
def _hash_pixels(path: Path) -> bytes:
    image = to_uint8(read_image(path))
    return hashlib.blake2b(repr(image.shape).encode() + image.numpy().tobytes()).digest()


def _hash_ends(path: Path) -> bytes:
    """Hash of the size and both ends of a file: enough to tell images apart."""
    size = _file_size(path)
    with path.open("rb") as file:
        start = file.read(_COMPARED)
        file.seek(-min(size, _COMPARED), os.SEEK_END)
        return hashlib.blake2b(b"%d " % size + start + file.read()).digest()
