"""Pixels of an opened image file: 8 bits with Pillow, 16 bits with OpenCV, both heeding what the file says of them."""

import struct
from collections.abc import Callable
from typing import TypeGuard

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from robustflow.data.colour import to_srgb

ORIENTATION = 274
_MODES_8_BIT = frozenset(
    {"1", "L", "P", "PA", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
)
# I and LA: how some versions of Pillow open grey PNGs; of a TIFF, I means signed values.
_MODES_16_BIT = {
    "PNG": frozenset({"I;16", "I", "LA", "RGB", "RGBA"}),
    "TIFF": frozenset({"I;16", "I;16B", "RGB", "RGBA"}),
}
READABLE = "8 or 16 bits per channel, of grey or RGB with or without alpha, can be read, and CMYK of 8 bits"
# TIFF tags.
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA = 258, 262, 277, 284, 338
_PARTS = (273, 279, 324, 325)  # where strips and tiles are, and their bytes
# What a plane of its own has in common with its file: sizes, compression, fill order, prediction.
_OF_PLANE = (256, 257, 259, 266, 278, 317, 322, 323)
_WHITE_IS_ZERO, _SEPARATE = 0, 2
_WITHOUT_MEANING, _PREMULTIPLIED, _ALPHA = 0, 1, 2
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


def is_16_bit(image: Image.Image, head: bytes) -> bool:
    """Whether an image has 16 bits per channel, from its header (the first 32 bytes suffice, and what Pillow knows)."""
    if image.format == "PNG":
        return head[24] == 16  # bit depth in the IHDR chunk, which comes first
    return isinstance(image, TiffImageFile) and 16 in image.tag_v2.get(_BITS, ())


def require_readable(image: Image.Image, *, deep: bool) -> None:
    """Raise ValueError for kinds of pixels that cannot be read, from the header."""
    if image.mode not in (_MODES_16_BIT[str(image.format)] if deep else _MODES_8_BIT):
        raise ValueError(f"{'16-bit ' if deep else ''}pixels of mode {image.mode} ({READABLE})")
    if not deep and _is_planar(image) and image.tag_v2.get(_EXTRA, (_ALPHA,))[0] != _ALPHA:
        raise ValueError("8-bit planes with a fourth one that is no plain alpha; save it without PlanarConfiguration 2")


def require_complete(image: Image.Image, n_bytes: int) -> None:
    """Decode with Pillow, which refuses truncated files, as not every version of OpenCV does; ValueError for them."""
    if not _is_planar(image):
        image.load()
    elif n_bytes < max(tiff_ends(image), default=0):  # Pillow decodes some of these only, and as they are
        raise ValueError("a truncated file")


def read_8_bit(image: Image.Image, *, profiles: bool = True) -> np.ndarray:
    """Decode with Pillow, which refuses truncated files: (h, w, 3) uint8, sRGB, upright, over white."""
    if not profiles:
        image.info.pop("icc_profile", None)
    image.load()
    upright = ImageOps.exif_transpose(image)
    colours = to_srgb(upright)
    if upright.has_transparency_data:
        alpha = upright if upright.mode != "La" else upright.convert("LA")  # Pillow knows no other way from La
        colours.putalpha(alpha.convert("RGBA").getchannel("A"))
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        colours = Image.alpha_composite(white, colours).convert("RGB")
    return np.asarray(colours)


def read_16_bit(image: Image.Image, data: bytes) -> np.ndarray:
    """Decode with OpenCV what Pillow would round to 8 bits: (h, w, 3) float32 in [0, 1], upright, over white."""
    orientation = image.getexif().get(ORIENTATION, 1)
    require_complete(image, len(data))
    channels = _tiff_channels(image, data) if isinstance(image, TiffImageFile) else _png_channels(image, data)
    rgb = np.broadcast_to(channels[..., :3], (*channels.shape[:2], 3))
    if channels.shape[2] == 4:
        rgb = rgb * channels[..., 3:] + (1 - channels[..., 3:])
    return _UPRIGHT.get(orientation, lambda a: a)(rgb)


def _png_channels(image: Image.Image, data: bytes) -> np.ndarray:
    """(h, w, 1, 3 or 4) float32 in [0, 1]; the last of four is alpha."""
    pixels, key = _decode(data), image.info.get("transparency")
    values = _unit(pixels)
    if pixels.shape[2] == 1 and isinstance(key, int):  # of RGB, OpenCV makes alpha itself
        alpha = (pixels != key).astype(np.float32)
        return np.concatenate([values] * 3 + [alpha], axis=2)
    return values


def _tiff_channels(image: TiffImageFile, data: bytes) -> np.ndarray:
    """(h, w, 1, 3 or 4) float32 in [0, 1]; the last of four is alpha that colours are not yet multiplied by."""
    tags = image.tag_v2
    n_samples = tags.get(_SAMPLES, 1)
    if _is_planar(image):
        planes = [_decode(_plane(tags, data, index, n_samples)) for index in range(n_samples)]
        values = _unit(np.concatenate(planes, axis=2))
    else:
        values = _unit(_decode(data))
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = 1 - values
    if values.shape[2] < 4:
        return values
    meaning = tags.get(_EXTRA, (_ALPHA,))[0]
    if meaning == _WITHOUT_MEANING:
        return values[..., :3]
    if meaning == _PREMULTIPLIED:
        colours, alpha = values[..., :3], values[..., 3:]
        colours = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0).clip(0, 1)
        return np.concatenate([colours, alpha], axis=2)
    return values


def _is_planar(image: Image.Image) -> TypeGuard[TiffImageFile]:
    """Whether each channel has strips or tiles of its own, which OpenCV mixes up."""
    return (
        isinstance(image, TiffImageFile)
        and image.tag_v2.get(_PLANAR, 1) == _SEPARATE
        and image.tag_v2.get(_SAMPLES, 1) > 1
    )


def tiff_ends(image: Image.Image) -> list[int]:
    """Where the strips or tiles of a TIFF file end, bytes; none for other files."""
    tags = getattr(image, "tag_v2", {})
    ends: list[int] = []
    for first, length in (_PARTS[:2], _PARTS[2:]):
        ends += [start + size for start, size in zip(tags.get(first, ()), tags.get(length, ()), strict=False)]
    return ends


def _plane(tags: ImageFileDirectory_v2, data: bytes, index: int, n_planes: int) -> bytes:
    """A TIFF file of one channel alone: the same bytes, with a directory that knows no other."""
    alone: dict[int, tuple[int, ...]] = {tag: (tags[tag],) for tag in _OF_PLANE if tag in tags}
    alone |= {_BITS: (16,), _SAMPLES: (1,), _PHOTOMETRIC: (1,)}
    for tag in _PARTS:
        if tag in tags:
            n_parts = len(tags[tag]) // n_planes
            alone[tag] = tags[tag][index * n_parts : (index + 1) * n_parts]
    order = "<" if tags.prefix == b"II" else ">"
    return tags.prefix + struct.pack(f"{order}HI", 42, len(data)) + data[8:] + _directory(alone, order, len(data))


def _directory(tags: dict[int, tuple[int, ...]], order: str, start: int) -> bytes:
    """A TIFF directory, all of its values of four bytes, to be put at ``start`` in a file."""
    entries, values = struct.pack(f"{order}H", len(tags)), b""
    beyond = start + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        where = numbers[0] if len(numbers) == 1 else beyond + len(values)
        entries += struct.pack(f"{order}HHII", tag, 4, len(numbers), where)
        values += struct.pack(f"{order}{len(numbers)}I", *numbers) if len(numbers) > 1 else b""
    return entries + bytes(4) + values


def _decode(data: bytes) -> np.ndarray:
    """(h, w, c) uint16, RGB."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError(f"16-bit pixels in a form that cannot be decoded ({READABLE})")
    if pixels.ndim == 2:
        return pixels[..., None]
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _unit(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32) / np.float32(65535)
