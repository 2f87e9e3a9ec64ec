"""Image files to tensors and back."""

import io
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import torch
from natsort import natsorted
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from robustflow.errors import UserError
from robustflow.files import write_atomically

# Bounds what a forged header can ask for; 16384 x 16384 is far above any photograph of a data set.
MAX_PIXELS = 2**28
_MAX_BYTES = 8 * MAX_PIXELS
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_EXPECTED = "a complete PNG, JPEG, BMP, TIFF or WebP file with one image"
_MAGENTA = (255, 0, 255)
_MODES_8_BIT = frozenset(
    {"1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
)
# Offsets and lengths, bytes: of strips, of tiles.
_TIFF_PARTS = ((273, 279), (324, 325))
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _ORIENTATION = 256, 257, 258, 274
# What Pillow raises for damaged files, by format; anything else is a fault of ours and must not be hidden.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
    cv2.error,
)
# EXIF orientation: what to do to an array (h, w, ...) to see it upright.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def read_image(path: str | Path) -> Tensor:
    """Read a PNG, JPEG, BMP, TIFF or WebP file as an upright RGB image.

    Grey becomes three equal channels, palettes and CMYK are converted, transparency is laid over white.

    Returns:
        (3, h, w), contiguous: uint8, or float32 in [0, 1] (value / 65535) for files of 16 bits per channel.

    Raises:
        UserError: naming the file, for one that is missing, damaged, truncated, animated, of another format, or of more
            than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    try:
        _check_file(path)
        data = path.read_bytes()
        with _opened(io.BytesIO(data)) as image:
            _check_single(image)
            pixels = _read_16_bit(image, data) if _is_16_bit(image, data) else _read_8_bit(image)
    except _DAMAGED as error:
        raise UserError(f"{path}: expected {_EXPECTED}, got {_reason(error)}") from error
    # Always copied: of a single pixel, what Pillow gives is contiguous, and not to be written to.
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of the upright image, pixels, from the file's header; UserError as `read_image`.

    A file that seems cut off is decoded, to be sure of it before it is needed; damage in its middle is not found here.
    """
    try:
        n_bytes = _check_file(Path(path))
        with _opened(path) as image:
            _check_single(image)
            if not _has_end(image, Path(path), n_bytes):
                image.load()
            width, height = image.size
            if isinstance(image, TiffImageFile):  # whether Pillow has turned its size depends on its version
                width, height = image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]
            return (width, height) if _header_orientation(image) >= 5 else (height, width)
    except _DAMAGED as error:
        raise UserError(f"{path}: expected {_EXPECTED}, got {_reason(error)}") from error


def write_png(path: str | Path, image: Tensor, *, truncate: bool = False) -> None:
    """Write an image as an 8-bit PNG; parent folders are made, and the file appears complete or not at all.

    Args:
        path: Where to.
        image: (3, h, w), floating, nominally in [0, 1], or uint8; see `to_uint8`.
        truncate: See `to_uint8`.
    """
    if image.ndim != 3:
        raise UserError(f"{path}: expected an image (3, h, w), got {tuple(image.shape)}")
    pixels = to_uint8(image, truncate=truncate).permute(1, 2, 0).cpu().numpy()
    encoded = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, format="PNG")
    write_atomically(path, encoded.getvalue(), durable=False)


def to_uint8(image: Tensor, *, truncate: bool = False) -> Tensor:
    """Round an image to the nearest of 256 levels.

    Args:
        image: (..., 3, h, w), floating, nominally in [0, 1] and clamped to it; uint8 is returned unchanged.
        truncate: Round down, as the published codes do, which caps LR-PSNR near 51 dB.

    Returns:
        Same shape, uint8; pixels with a channel that is Inf or NaN are magenta, so that failures are seen.
    """
    if image.ndim < 3 or image.shape[-3] != 3:
        raise ValueError(f"expected an image (..., 3, h, w), got {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        return image
    image = image.detach().to(torch.promote_types(image.dtype, torch.float32))
    broken = ~image.isfinite().all(dim=-3, keepdim=True)
    levels = image.nan_to_num(0).clamp(0, 1).mul(255)
    levels = (levels.floor() if truncate else levels.round()).to(torch.uint8)
    return torch.where(broken, levels.new_tensor(_MAGENTA).view(3, 1, 1), levels)


def to_float(image: Tensor) -> Tensor:
    """Image in [0, 1]: uint8 divided by 255 as float32, floating unchanged."""
    # By a tensor: GPUs multiply by the inverse of a number, which is not the same in the last digit.
    return image.float() / image.new_full((), 255, dtype=torch.float32) if image.dtype == torch.uint8 else image


def list_images(folder: str | Path) -> list[Path]:
    """Image files in a folder and its sub-folders, in natural order (2 before 10); hidden ones are left out.

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
        raise UserError(f"{error.filename}: expected a folder to read images from, got: {_reason(error)}") from error
    found = natsorted(files, key=lambda file: file.relative_to(folder).as_posix())
    if not found:
        raise UserError(f"{folder}: expected images ({', '.join(sorted(SUFFIXES))}), found none")
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Visible image files, through links to folders too, except those that lead back up."""
    for root, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(root)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not here.resolve().is_relative_to((here / name).resolve())
        ]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
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
def _opened(file: str | Path | io.BytesIO) -> Iterator[Image.Image]:
    """The image of a file, not decoded yet; ValueError for more than `MAX_PIXELS` pixels."""
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
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _has_end(image: Image.Image, path: Path, n_bytes: int) -> bool:
    """Whether the file ends as its format wants, by its last bytes; True of formats that have no mark."""
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(-min(n_bytes, 16), os.SEEK_END)
        tail = file.read()
    if image.format == "PNG":
        return tail[-8:-4] == b"IEND"
    if image.format in ("JPEG", "MPO"):
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if image.format == "WEBP":
        return n_bytes >= 8 + int.from_bytes(head[4:8], "little")
    if image.format == "BMP":
        return n_bytes >= int.from_bytes(head[2:6], "little")
    return n_bytes >= max(_tiff_ends(image), default=0)


def _tiff_ends(image: Image.Image) -> list[int]:
    """Where the strips or tiles of a TIFF file end."""
    tags = getattr(image, "tag_v2", {})
    ends: list[int] = []
    for first, length in _TIFF_PARTS:
        ends += [start + size for start, size in zip(tags.get(first, ()), tags.get(length, ()), strict=False)]
    return ends


def _check_single(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    # A multi-picture JPEG is one photograph with previews or depth maps attached.
    if frames > 1 and image.format != "MPO":
        raise ValueError(f"{frames} frames or pages")


def _is_16_bit(image: Image.Image, data: bytes) -> bool:
    """Whether the file has 16 bits per channel; Pillow would silently drop half of them in RGB."""
    if image.format == "PNG":
        return data[24] == 16  # bit depth in the IHDR chunk, which comes first
    return isinstance(image, TiffImageFile) and 16 in image.tag_v2.get(_TIFF_BITS, ())


def _read_8_bit(image: Image.Image) -> np.ndarray:
    """Decode with Pillow, which refuses truncated files: (h, w, 3) uint8."""
    if image.mode not in _MODES_8_BIT:
        raise ValueError(f"pixels of mode {image.mode} (8 or 16 bits per channel can be read)")
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright)
    return np.asarray(upright.convert("RGB"))


def _read_16_bit(image: Image.Image, data: bytes) -> np.ndarray:
    """Decode with OpenCV: (h, w, 3) float32 in [0, 1]."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    image.load()  # Pillow refuses truncated files; not every version of OpenCV does
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError(f"pixels of mode {image.mode} (8 or 16 bits per channel can be read)")
    pixels = _UPRIGHT.get(orientation, lambda a: a)(pixels)
    values = pixels.astype(np.float32) / np.float32(65535)
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2)
    rgb = values[..., 2::-1]
    return rgb if values.shape[2] == 3 else rgb * values[..., 3:] + (1 - values[..., 3:])


def _header_orientation(image: Image.Image) -> int:
    # Asking a PNG without EXIF before its pixels for EXIF would decode the whole file.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    return int(image.getexif().get(_ORIENTATION, 1))


def _reason(error: BaseException) -> str:
    """Short description of a failure, without the path or the memory address that some messages carry."""
    if isinstance(error, UnidentifiedImageError):
        return "another kind of file"
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror.lower()
    return str(error) or type(error).__name__
