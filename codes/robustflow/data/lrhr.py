"""The dataset modes of the SRFlow family, by their published names.

``LRHR_IMG`` is mode ``folder``; ``LRHR_IMG_nocrop`` reads folders of patches that were cut beforehand; ``LRHR_PKL``
reads pickled lists of images.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from robustflow.data.folders import (
    FileSource,
    FolderOptions,
    PairedOptions,
    covered,
    key_of,
    open_folders,
    require_sizes,
    unique_names,
)
from robustflow.data.pairs import PairBy
from robustflow.data.restricted_pickle import load_arrays
from robustflow.data.source import Source, register_source
from robustflow.options.schema import DatasetOptions
from robustflow.options.values import PathText
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError, for_all


def _paths(value: Any) -> Any:
    """Let one path count as a list of one."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, str) else value


Paths = Annotated[tuple[PathText, ...], Field(min_length=1)]


class ImageFolderOptions(FolderOptions):
    """Image files, sub-folders included: mode `folder` by its published name."""

    mode: Literal["LRHR_IMG"]  # type: ignore[assignment]


register_source("LRHR_IMG", ImageFolderOptions)(open_folders)


class PatchFolderOptions(PairedOptions):
    """Folders of patches that were cut beforehand, all of one size and used whole; GT_size is that size."""

    mode: Literal["LRHR_IMG_nocrop"]
    dataroot_GT: PathText = Field(description="Folder of HR patches, all GT_size x GT_size pixels.")
    dataroot_LQ: PathText | None = Field(
        None, description="Folder of LR patches, paired with the HR ones by name; null: made, see downsampling."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for crops and shifts of what is used whole."""
        yield from super().contradictions(root)
        key = key_of(self, root)
        if self.n_crops is not None:
            yield f"datasets.{key}.n_crops", "expected none: patches are used whole"
        if key == "train" and self.hr_shift != 0:
            yield (
                "datasets.train.hr_shift",
                "expected 0: patches are used whole, and have no pixels beside them to shift to; take random crops of "
                "larger images with mode LRHR_IMG",
            )


@DATASETS.register("LRHR_IMG_nocrop", PatchFolderOptions)
def open_patches(
    dataroot_GT: str,
    dataroot_LQ: str | None,
    scale: int,
    GT_size: int | None = None,
    pair_by: PairBy = "stem",
    filename_tmpl: str | None = None,
    **_shared: Any,
) -> FileSource:
    """Open patches that were cut beforehand and check, from their headers, that they are of one size.

    Args:
        dataroot_GT: Folder of HR patches.
        dataroot_LQ: Folder of LR patches, or None: they are to be made.
        scale: Super-resolution factor.
        GT_size: Side of the HR patches, pixels; None: the size of the first, square or not.
        pair_by: See `pairs.pair_by_stem`; likewise ``filename_tmpl``.
        filename_tmpl: See above.
        **_shared: Options that those who use the source deal with.

    Raises:
        UserError: naming the files, if patches are of another size; or as `open_folders`.
    """
    source = open_folders(dataroot_GT, dataroot_LQ, scale, pair_by, filename_tmpl)
    size = source.size(0) if GT_size is None else (GT_size, GT_size)

    def require_size(index: int) -> None:
        height, width = source.size(index)
        if (height, width) != size:
            raise UserError(
                f"{source.file(index)}: expected a patch of {size[1]} x {size[0]} pixels (width x height; "
                f"{'as the first' if GT_size is None else 'GT_size'}), got {width} x {height}; cut the patches to one "
                "size, or take random crops with mode LRHR_IMG"
            )

    for_all(range(len(source)), require_size)
    return source


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

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) if HR and LR files cannot be paired."""
        if self.dataroot_LQ is not None and len(self.dataroot_LQ) != len(self.dataroot_GT):
            yield f"datasets.{key_of(self, root)}.dataroot_LQ", _unequal(self.dataroot_GT, self.dataroot_LQ)


@register_source("LRHR_PKL", PickleOptions)
class PickleSource(Source):
    """Images from pickled lists of uint8 arrays (height, width, 3), RGB.

    The files are read when the source is made and stay in memory until the process ends, whatever their size: files of
    some GB need that much. Loader processes share that memory where they are forked, and read the files once each
    where they are spawned. Image 7 of ``DIV2K.pklv4`` is named ``DIV2K_0007``; the first is 0.

    Args:
        dataroot_GT: Files of HR images.
        dataroot_LQ: Files of the LR images, file by file and image by image in the same order; None: they are to be
            made.
        scale: Super-resolution factor.

    Raises:
        UserError: naming file and number, if an image is no such array or a pair does not fit; or as `load_arrays`.
    """

    def __init__(self, dataroot_GT: Sequence[str], dataroot_LQ: Sequence[str] | None, scale: int) -> None:
        if dataroot_LQ is not None and len(dataroot_LQ) != len(dataroot_GT):
            raise UserError(f"dataroot_LQ: {_unequal(dataroot_GT, dataroot_LQ)}")
        # Paths and numbers alone: a source that is sent to another process must not take the images along.
        self._images: list[tuple[str, str | None, int]] = []
        self._scale = scale
        self.names = []
        lq_files = [None] * len(dataroot_GT) if dataroot_LQ is None else dataroot_LQ
        stems = unique_names([Path(Path(file).name) for file in dataroot_GT])
        for gt, lq, stem in zip(dataroot_GT, lq_files, stems, strict=True):
            if lq is not None:
                _check_pairs(gt, lq, scale)
            self._images += [(gt, lq, number) for number in range(len(_load(gt)))]
            self.names += [f"{stem}_{number:04d}" for number in range(len(_load(gt)))]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the HR image."""
        gt, _, number = self._images[index]
        return _size(_load(gt)[number])

    def pair(self, index: int) -> tuple[Tensor, Tensor | None]:
        """HR (3, H, W) uint8, and LR (3, H // scale, W // scale) uint8 or None."""
        gt, lq, number = self._images[index]
        hr, lr = covered(_load(gt)[number], None if lq is None else _load(lq)[number], self._scale)
        assert hr is not None, "there are HR images"
        return hr, lr


def _check_pairs(gt: str, lq: str, scale: int) -> None:
    hr, lr = _load(gt), _load(lq)
    if len(hr) != len(lr):
        raise UserError(f"{lq}: expected {len(hr)} LR images, as many as HR images in {gt}, got {len(lr)}")

    def require_fit(number: int) -> None:
        names = Path(gt, f"{number:04d}"), Path(lq, f"{number:04d}")
        require_sizes(names[0], _size(hr[number]), names[1], _size(lr[number]), scale)

    for_all(range(len(hr)), require_fit)


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


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _unequal(gt: Sequence[str], lq: Sequence[str]) -> str:
    return f"expected {len(gt)} file(s) of LR images, as many as of HR images, got {len(lq)}"
