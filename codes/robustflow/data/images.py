"""Image files to tensors and back."""

import io
import logging
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import torch
from natsort import natsorted
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from robustflow.data import decoding
from robustflow.data.colour import use_of_profile
from robustflow.utils import memory
from robustflow.utils.errors import UserError, describe_error, enumerate_some, for_all
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)

# Bounds what a forged header can ask for; 16384 x 16384 is far above any photograph of a data set.
MAX_PIXELS = 2**28
_MAX_BYTES = 8 * MAX_PIXELS
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp"})
# Other images, which are left out; what is of neither kind is no image.
_OTHER_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("heic", "heif", "avif", "gif", "jp2", "j2k", "jpx", "jxl", "ppm", "pgm", "pbm", "pnm", "pfm", "exr", "hdr"),
        *("tga", "dds", "psd", "apng", "svg", "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2", "raw"),
    )
)
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_EXPECTED = "a complete PNG, JPEG, BMP, TIFF or WebP file with one image"
# What files begin with that Pillow does not take for one of these.
_OTHER_KINDS = {
    f"a kind of TIFF that cannot be read ({decoding.READABLE})": rb"II[*+]\0|MM\0[*+]",
    "a GIF file": b"GIF8",
    "a HEIC or AVIF file": b"....ftyp",
    "a JPEG 2000 file": b"....jP|\xffO\xffQ",
    "a PPM file": b"P[1-7fF]\\s",
    "a JPEG XL file": b"....JXL|\xff\x0a",
}
_MAGENTA = (255, 0, 255)
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
# What Pillow raises for damaged files, by format; anything else is a fault of ours and must not be hidden.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError),
    *(struct.error, zlib.error, cv2.error),
)


@dataclass(frozen=True)
class Header:
    """What a file says of its image, before any pixel is decoded.

    Attributes:
        size: Height and width of the upright image, pixels.
        deep: 16 bits per channel: `read_image` gives float32.
        converted: Colours become sRGB by the file's profile.
        note: In what it is not taken as the file means it, to be said once for all files; or None.
    """

    size: tuple[int, int]
    deep: bool
    converted: bool
    note: str | None


def read_image(path: str | Path, *, profiles: bool = True) -> Tensor:
    """Read a PNG, JPEG, BMP, TIFF or WebP file as an upright RGB image.

    Grey becomes three equal channels, palettes and CMYK are converted, colours of 8 bits with a profile (ICC) become
    sRGB, transparency is laid over white.

    Args:
        path: The file.
        profiles: Heed colour profiles; False: take all colours as sRGB.

    Returns:
        (3, h, w), contiguous: uint8, or float32 in [0, 1] (value / 65535) for files of 16 bits per channel.

    Raises:
        UserError: naming the file, for one that is missing, damaged, truncated, animated, of another format or kind of
            pixels, or of more than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    try:
        _check_file(path)
        data = path.read_bytes()
        with _open(io.BytesIO(data), data) as image:
            deep = decoding.is_16_bit(image, data)
            decoding.require_readable(image, deep=deep)
            pixels = decoding.read_16_bit(image, data) if deep else decoding.read_8_bit(image, profiles=profiles)
    except _DAMAGED as error:
        raise UserError(f"{path}: expected {_EXPECTED}, got {describe_error(error)}") from error
    # Always copied: of a single pixel, what Pillow gives is contiguous, and not to be written to.
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def read_header(path: str | Path) -> Header:
    """Read what can be known of an image without decoding it; UserError as `read_image`.

    A file that seems cut off is decoded, to be sure of it before it is needed; damage in its middle is not found here.
    """
    path = Path(path)
    try:
        n_bytes = _check_file(path)
        with path.open("rb") as file:
            head = file.read(32)
            file.seek(-min(n_bytes, 16), os.SEEK_END)
            tail = file.read()
        with _open(path, head) as image:
            deep = decoding.is_16_bit(image, head)
            decoding.require_readable(image, deep=deep)
            converted, note = use_of_profile(image, deep=deep)
            if not _has_end(image, head, tail, n_bytes):
                decoding.require_complete(image, n_bytes)
            width, height = image.size
            if isinstance(image, TiffImageFile):  # whether Pillow has turned its size depends on its version
                width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
            size = (width, height) if _header_orientation(image) >= 5 else (height, width)
            return Header(size, deep, converted, note)
    except _DAMAGED as error:
        raise UserError(f"{path}: expected {_EXPECTED}, got {describe_error(error)}") from error


def read_headers(files: Sequence[Path]) -> dict[Path, Header]:
    """Headers of files, in their order; log a line for all that are not taken as they mean it.

    Raises:
        UserError: naming those that cannot be used, the first five and how many; errors as `read_image`.
    """
    found = dict(zip(files, for_all(files, read_header), strict=True))
    for note in dict.fromkeys(header.note for header in found.values() if header.note is not None):
        noted = [file for file, header in found.items() if header.note == note]
        say_once(f"{len(noted)} of {len(found)} images have {note}; taken as sRGB: {enumerate_some(noted)}")
    return found


def write_png(path: str | Path, image: Tensor, *, truncate: bool = False) -> None:
    """Write an image (3, h, w) as an 8-bit PNG, see `to_uint8`.

    Parent folders are made, and the file appears complete or not at all.
    """
    if image.ndim != 3:
        raise UserError(f"{path}: expected an image (3, h, w), got {tuple(image.shape)}")
    pixels = to_uint8(image, truncate=truncate).permute(1, 2, 0).cpu().numpy()
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue(), durable=False)


def to_uint8(image: Tensor, *, truncate: bool = False, mark: bool = True) -> Tensor:
    """Round an image to the nearest of 256 levels.

    Args:
        image: (..., 3, h, w), floating, nominally in [0, 1] and clamped to it; uint8 is returned unchanged.
        truncate: Round down, as the published codes do, which caps LR-PSNR near 51 dB.
        mark: Paint pixels with a channel that is Inf or NaN magenta, so that failures are seen; False: see `clamp`.

    Returns:
        Same shape, uint8.
    """
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"expected an image (..., 3, h, w), got {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        return image
    return torch.cat([_levels(image[..., rows, :], truncate, mark) for rows in memory.bands_of(image)], dim=-2)


def _levels(image: Tensor, truncate: bool, mark: bool) -> Tensor:
    image = image.detach().to(torch.promote_types(image.dtype, torch.float32))
    levels = clamp(image).mul(255)
    levels = (levels.floor() if truncate else levels.round()).to(torch.uint8)
    if not mark:
        return levels
    broken = ~image.isfinite().all(dim=-3, keepdim=True)
    return torch.where(broken, levels.new_tensor(_MAGENTA).view(3, 1, 1), levels)


def clamp(image: Tensor) -> Tensor:
    """Clamp an image to [0, 1] as published evaluations do: Inf becomes 1, -Inf and NaN 0."""
    return image.nan_to_num(0).clamp(0, 1)


def to_float(image: Tensor) -> Tensor:
    """Image in [0, 1]: uint8 divided by 255 as float32, floating unchanged."""
    # By a tensor: GPUs multiply by the inverse of a number, which is not the same in the last digit.
    return image.float() / image.new_full((), 255, dtype=torch.float32) if image.dtype == torch.uint8 else image


def list_images(folder: str | Path) -> list[Path]:
    """Image files in a folder and its sub-folders, in natural order (2 before 10); hidden ones are left out.

    Images of other kinds (HEIC, GIF, ...) are left out, too, which is logged.

    Raises:
        UserError: for a folder that is missing, is not a folder, or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected a folder of images, got {'a file' if folder.exists() else 'nothing there'}"
        )
    # Sorted twice: "1" and "01" are equal in natural order, and must not stay in the file system's order.
    try:
        files = sorted(_walk(folder))
    except OSError as error:
        raise UserError(
            f"{error.filename}: expected a folder to read images from, got: {describe_error(error)}"
        ) from error
    found = natsorted(files, key=lambda file: file.relative_to(folder).as_posix())
    images = [file for file in found if file.suffix.lower() in SUFFIXES]
    others = [file.relative_to(folder) for file in found if file.suffix.lower() not in SUFFIXES]
    left_out = f"{len(others)} of kinds that are not read ({enumerate_some(others)})" if others else ""
    if not images:
        kinds = ", ".join(sorted(SUFFIXES))
        came = f"only {left_out}" if left_out else "none"
        raise UserError(f"{folder}: expected images ({kinds}), found {came}{_name_what_it_is(folder)}")
    if left_out:
        say_once(f"{folder}: images left out: {left_out}; convert them to PNG to use them")
    return images


def _name_what_it_is(folder: Path) -> str:
    """What to do about a folder of images that are no image files; nothing for others."""
    if (folder / "index.json").is_file():
        return "; if robustflow prepare wrote it, read it with mode: prepared"
    if (folder / "data.mdb").is_file():
        return "; LMDB is not read: give the folder of images that it was made of"
    return ""


@lru_cache(maxsize=1024)
def say_once(message: str) -> None:
    """Log a warning, however often it is asked for: a set may be opened several times in a run."""
    log.warning(message)


def _walk(folder: Path) -> Iterator[Path]:
    """Visible image files, of all kinds, through links to folders too, except those that lead back up."""
    for root, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(root)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not here.resolve().is_relative_to((here / name).resolve())
        ]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES | _OTHER_SUFFIXES:
                yield here / name


def _raise(error: OSError) -> NoReturn:
    raise error


def _check_file(path: Path) -> int:
    """Size of a file, bytes; what is no file could block or never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device")
    if status.st_size > _MAX_BYTES:
        raise ValueError(f"{status.st_size} bytes, more than {_MAX_BYTES}")
    return status.st_size


@contextmanager
def _open(file: Path | io.BytesIO, head: bytes) -> Iterator[Image.Image]:
    """The image of a file that begins with ``head``, not decoded yet.

    ValueError for another kind of file, more than one image, or more than `MAX_PIXELS` pixels.
    """
    # Pillow's own limit is lower, and first warns.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"{width} x {height} pixels, more than {MAX_PIXELS}; if it is as large as that, raise MAX_PIXELS "
                    "in robustflow/data/images.py"
                )
            frames = getattr(image, "n_frames", 1)
            # A multi-picture JPEG is one photograph with previews or depth maps attached.
            if frames > 1 and image.format != "MPO":
                raise ValueError(f"{frames} frames or pages")
            yield image
    except UnidentifiedImageError as error:
        kinds = (kind for kind, magic in _OTHER_KINDS.items() if re.match(magic, head, re.DOTALL))
        raise ValueError(next(kinds, "another kind of file")) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _has_end(image: Image.Image, head: bytes, tail: bytes, n_bytes: int) -> bool:
    """Whether the file ends as its format wants, by its last bytes; True of formats that have no mark."""
    if image.format == "PNG":
        return tail[-8:-4] == b"IEND"
    if image.format in ("JPEG", "MPO"):
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if image.format == "WEBP":
        return n_bytes >= 8 + int.from_bytes(head[4:8], "little")
    if image.format == "BMP":
        return n_bytes >= int.from_bytes(head[2:6], "little")
    return n_bytes >= max(decoding.tiff_ends(image), default=0)


def _header_orientation(image: Image.Image) -> int:
    # Asking a PNG without EXIF before its pixels for EXIF would decode the whole file.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(decoding.ORIENTATION, 1))
