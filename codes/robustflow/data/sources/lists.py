"""Mode ``LRHR_PKL`` of the SRFlow family: pickled lists of images."""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from robustflow.data.sources.base import LazyImage, Pairs, register_source
from robustflow.data.sources.folders import name_images
from robustflow.data.sources.restricted_pickle import load_arrays
from robustflow.options.schema import DatasetOptions
from robustflow.options.values import PathText
from robustflow.utils.errors import UserError, for_all


def _paths(value: Any) -> Any:
    """Let one path count as a list of one."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, str) else value


Paths = Annotated[tuple[PathText, ...], Field(min_length=1)]


class PickleOptions(DatasetOptions):
    """Pickled lists of images: uint8 arrays (height, width, 3), RGB; a file is held in memory, once per process."""

    mode: Literal["LRHR_PKL"]
    dataroot_GT: Annotated[Paths, BeforeValidator(_paths)] = Field(
        description="File or list of files (.pklv4) of HR images; they are held in memory."
    )
    dataroot_LQ: Annotated[Paths | None, BeforeValidator(_paths)] = Field(
        None,
        description="Files of LR images, as many and in the same order; null: made, see downsampling.",
    )

    def faults(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield (option, message) if HR and LR files cannot be paired."""
        if self.dataroot_LQ is not None and len(self.dataroot_LQ) != len(self.dataroot_GT):
            yield "dataroot_LQ", _unequal(self.dataroot_GT, self.dataroot_LQ)


@register_source("LRHR_PKL", PickleOptions)
def open_lists(dataroot_GT: Sequence[str], dataroot_LQ: Sequence[str] | None, scale: int) -> Pairs:
    """Open pickled lists of uint8 arrays (height, width, 3), RGB.

    The files are read now and stay in memory until the process ends, whatever their size: files of some GB need that
    much. Loader processes share that memory where they are forked, and read the files once each where they are spawned.
    Image 7 of ``DIV2K.pklv4`` is named ``DIV2K_0007``; the first is 0.

    LR files and their images are in the order of the HR ones; None: they are to be made. UserError naming file and
    number, if an image is no such array or a pair does not fit; or as `load_arrays`.
    """
    if dataroot_LQ is not None and len(dataroot_LQ) != len(dataroot_GT):
        raise UserError(f"dataroot_LQ: {_unequal(dataroot_GT, dataroot_LQ)}")
    pairs: list[tuple[LazyImage | None, LazyImage | None]] = []
    names: list[str] = []
    stems = name_images([Path(Path(file).name) for file in dataroot_GT])
    lq_files = [None] * len(dataroot_GT) if dataroot_LQ is None else dataroot_LQ
    for gt, lq, stem in zip(dataroot_GT, lq_files, stems, strict=True):
        hr = _pictures(gt)
        lr = [None] * len(hr) if lq is None else _pictures(lq)
        if len(hr) != len(lr):
            raise UserError(f"{lq}: expected {len(hr)} LR images, as many as HR images in {gt}, got {len(lr)}")
        pairs += zip(hr, lr, strict=True)
        names += [f"{stem}_{index:04d}" for index in range(len(hr))]
    return Pairs(pairs, names, scale)


def _pictures(file: str) -> Sequence[LazyImage | None]:
    """The images of a file: paths and numbers alone, for a source that is sent to another process takes no images."""
    images = enumerate(_load(file))
    return [LazyImage(Path(file, f"{n:04d}"), (i.shape[1], i.shape[2]), partial(_image, file, n)) for n, i in images]


def _image(file: str, number: int) -> Tensor:
    return _load(file)[number]


@cache
def _load(file: str) -> list[Tensor]:
    """Images of a file, (3, h, w) uint8."""
    arrays = load_arrays(file)
    if not arrays:
        raise UserError(f"{file}: expected a list of images, got an empty list")

    def require_image(number: int) -> None:
        array = arrays[number]
        if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
            raise UserError(
                f"{file}: expected RGB images (height, width, 3), got an array of shape {array.shape} as item {number}"
            )

    for_all(range(len(arrays)), require_image)
    return [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]


def _unequal(gt: Sequence[str], lq: Sequence[str]) -> str:
    return f"expected {len(gt)} file(s) of LR images, as many as of HR images, got {len(lq)}"
