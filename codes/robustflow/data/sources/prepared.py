"""Images decoded once: a crop reads its own pixels only.

`robustflow prepare` writes such a folder: per image an uncompressed NumPy file (height, width, 3), as
`images.read_image` decodes it, that is mapped into memory when read; and an index of all.
"""

import json
import logging
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from robustflow.data.sources.base import LazyImage, Pairs, register_source
from robustflow.data.sources.folders import FolderOptions, find_pairs
from robustflow.registry import Options
from robustflow.utils.errors import UserError, for_all

log = logging.getLogger(__name__)

INDEX = "index.json"
FORMAT: Final = "robustflow prepared images"
VERSION: Final = 1
COMMAND = "robustflow prepare"


def file_of(image: str) -> str:
    """Path of an image's NumPy file below the folder of the index."""
    return PurePosixPath(image).with_suffix(".npy").as_posix()


class PreparedImage(Options):
    """One image in an index."""

    image: str  # path below the folder it was read from, / between its parts
    image_bytes: NonNegativeInt  # size of that file
    image_modified: int  # its time of modification, ns since 1970
    height: PositiveInt
    width: PositiveInt
    dtype: Literal["uint8", "float32"]
    file_bytes: PositiveInt  # size of the NumPy file

    @property
    def file(self) -> str:
        """Path of the NumPy file below the folder of the index."""
        return file_of(self.image)

    @property
    def offset(self) -> int:
        """Where the pixels begin in the NumPy file, bytes."""
        return self.file_bytes - self.height * self.width * 3 * np.dtype(self.dtype).itemsize


class Index(Options):
    """Contents of an index file."""

    format: Literal["robustflow prepared images"] = FORMAT
    version: Literal[1] = VERSION
    origin: str  # folder the images were read from
    complete: bool
    images: list[PreparedImage]


class PreparedOptions(FolderOptions):
    """Folders that ``robustflow prepare`` wrote, for fast crops of large images; as mode `folder`."""

    mode: Literal["prepared"]  # type: ignore[assignment]


@register_source("prepared", PreparedOptions)
def open_prepared(dataroot_GT: str | None, dataroot_LQ: str | None, scale: int, **pairing: Any) -> Pairs:
    """Open folders of prepared HR images, LR images or both, paired and named as `open_folders` does."""
    found: dict[Path | None, LazyImage | None] = {None: None}

    def find(folder: Path) -> list[Path]:
        images = _open(folder)
        for file, image in images.items():
            found[file] = image
        return list(images)

    files, names = find_pairs(find, dataroot_GT, dataroot_LQ, scale, **pairing)
    return Pairs([(found[hr], found[lr]) for hr, lr in files], names, scale)


def read_index(folder: Path) -> Index:
    """Read the index of a folder, complete or not. UserError if there is none or it is of another kind."""
    file = folder / INDEX
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "nothing there" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", str(error))
        raise UserError(
            f"{file}: expected the index of prepared images, got {reason}; write them with {COMMAND} SOURCE "
            "DESTINATION and give that DESTINATION, or read image files with mode: folder"
        ) from error
    try:
        values = json.loads(text)
        of_ours = isinstance(values, dict) and values.get("format") == FORMAT
        index = Index.model_validate_json(text) if of_ours and values.get("version") == VERSION else None
    except (ValueError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{file}: damaged ({first}); delete its folder and prepare the images again") from error
    if not of_ours:
        raise UserError(f"{file}: expected the index that {COMMAND} writes, got another file")
    if index is None:
        raise UserError(
            f"{file}: expected version {VERSION} of the index, got {values.get('version')!r}, written by another "
            "version of robustflow; prepare the images again, into another folder"
        )
    for entry in index.images:
        _require_below(file, entry)
    return index


def is_whole(folder: Path, entry: PreparedImage) -> bool:
    """Whether the NumPy file of an entry is there, in its size."""
    file = folder / entry.file
    return file.is_file() and file.stat().st_size == entry.file_bytes


def is_current(entry: PreparedImage, origin: Path) -> bool:
    """Whether an image below ``origin`` is the one that was prepared, by its size and time of modification."""
    try:
        found = (origin / entry.image).stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns) == (entry.image_bytes, entry.image_modified)


def _open(folder: Path) -> dict[Path, LazyImage]:
    """Prepared images by the path of the image below the folder; all of them are there."""
    index = read_index(folder)
    again = f"run {COMMAND} {index.origin} {folder} again"
    if not index.complete:
        raise UserError(f"{folder}: expected prepared images, got a part of them: the command was interrupted; {again}")
    if not index.images:
        raise UserError(f"{folder}: expected prepared images, found none")

    def require_whole(entry: PreparedImage) -> None:
        if not is_whole(folder, entry):
            raise UserError(f"{folder / entry.file}: expected a file of {entry.file_bytes} bytes, found none; {again}")

    for_all(index.images, require_whole)
    _warn_of_changes(index, again)
    return {
        folder / entry.image: LazyImage(folder / entry.file, (entry.height, entry.width), partial(_map, folder, entry))
        for entry in index.images
    }


def _warn_of_changes(index: Index, again: str) -> None:
    """Warn of images that changed since, if they are still where they were read."""
    origin = Path(index.origin)
    changed = [entry.image for entry in index.images if not is_current(entry, origin)] if origin.is_dir() else []
    if changed:
        log.warning(
            "%s: %d of %d images are not those that were prepared, the first %s; %s",
            *(origin, len(changed), len(index.images), changed[0], again),
        )


def _map(folder: Path, entry: PreparedImage) -> Tensor:
    """Image (3, height, width) in a NumPy file, its pixels read when used; the index says what is in the file."""
    file = folder / entry.file
    try:
        # Copy on write: torch warns of arrays that cannot be written to.
        array = np.memmap(file, entry.dtype, "c", entry.offset, (entry.height, entry.width, 3))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: expected a file of {entry.file_bytes} bytes, got: {error}; run {COMMAND} again"
        ) from error
    return torch.from_numpy(array).permute(2, 0, 1)


def _require_below(index: Path, entry: PreparedImage) -> None:
    path = PurePosixPath(entry.image)
    if path.is_absolute() or ".." in path.parts or "\0" in entry.image or not path.name or entry.offset < 0:
        raise UserError(
            f"{index}: expected images below the folder, in files that hold them, got {entry.image!r} of "
            f"{entry.width} x {entry.height} pixels in {entry.file_bytes} bytes; prepare the images again"
        )
