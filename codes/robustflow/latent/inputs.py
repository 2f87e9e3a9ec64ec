"""The images and masks that a user names."""

import logging
import re
from pathlib import Path

import torch
from torch import Tensor

from robustflow.data.images import list_images, read_headers, read_image, to_uint8
from robustflow.data.sources.base import require_file_name
from robustflow.data.sources.folders import name_images
from robustflow.latent.space import size_of
from robustflow.utils.errors import UserError, for_all

log = logging.getLogger(__name__)

_BOX = re.compile(r"\d+(,\d+){3}")
_PLACE = re.compile(r"\d+,\d+")
# A mask's pixels that are brighter than this are masked, of 255.
_WHITE = 127


def require_there(path: Path, flag: str) -> None:
    """Raise UserError unless a path exists."""
    if not path.exists():
        raise UserError(f"{flag} {path}: expected an image or a folder of images, got nothing there")


def find_images(path: Path, flag: str = "--input") -> dict[str, Path]:
    """Image files by name: one file, or all of a folder. UserError if there are none, or some cannot be read."""
    require_there(path, flag)
    found = [path] if path.is_file() else list_images(path)
    names = name_images([file.relative_to(path) if path.is_dir() else Path(file.name) for file in found])
    for_all(names, require_file_name)
    read_headers(found)
    return dict(zip(names, found, strict=True))


def read_one(path: Path, flag: str) -> Tensor:
    """An image (3, h, w) as read. UserError if the path is a folder or nothing is there."""
    if not path.is_file():
        raise UserError(
            f"{flag} {path}: expected an image file, got {'a folder' if path.is_dir() else 'nothing there'}"
        )
    return read_image(path)


def require_size(image: Tensor, size: tuple[int, int], flag: str, why: str) -> None:
    """Raise UserError unless an image has a height and width."""
    if size_of(image) != size:
        raise UserError(
            f"{flag}: expected {size[1]} x {size[0]} pixels (width x height), {why}, got {image.shape[-1]} x "
            f"{image.shape[-2]}; crop or resize it"
        )


def read_mask(text: str, size: tuple[int, int], flag: str = "--input") -> Tensor:
    """A mask (H, W), boolean: of an image file whose bright pixels are True, or of a box LEFT,TOP,WIDTH,HEIGHT.

    UserError if it does not fit an image of this size, that of ``flag``.
    """
    if _BOX.fullmatch(text) is not None:
        return _read_box(text, size, flag)
    require_mask(text)
    path = Path(text)
    image = to_uint8(read_image(path))
    require_size(image, size, f"--mask {path}", f"as {flag} has")
    mask = image.float().mean(0) > _WHITE
    if not mask.any():
        log.warning("%s: no pixel is white: nothing is masked", path)
    elif mask.all():
        log.warning("%s: all pixels are white (as transparent ones are): everything is masked", path)
    return mask


def require_mask(text: str) -> None:
    """Raise UserError unless a mask is a box or a file."""
    if _BOX.fullmatch(text) is None and not Path(text).is_file():
        raise UserError(
            f"--mask {text}: expected an image file, or a box LEFT,TOP,WIDTH,HEIGHT in pixels, as 10,20,64,64, got "
            f"{'a folder' if Path(text).is_dir() else 'neither'}"
        )


def _read_box(text: str, size: tuple[int, int], flag: str) -> Tensor:
    left, top, width, height = map(int, text.split(","))
    if width == 0 or height == 0 or left + width > size[1] or top + height > size[0]:
        raise UserError(
            f"--mask {text}: expected LEFT,TOP,WIDTH,HEIGHT in pixels, within the {size[1]} x {size[0]} pixels of "
            f"{flag}"
        )
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def read_place(text: str) -> tuple[int, int]:
    """LEFT,TOP in pixels as (top, left). UserError for another text."""
    if _PLACE.fullmatch(text) is None:
        raise UserError(f"--place {text}: expected LEFT,TOP in pixels, as 10,20")
    left, top = map(int, text.split(","))
    return top, left


def find_offset(mask: Tensor, place: tuple[int, int] | None, size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """How far down and right the region of a mask goes to lie with its upper left corner at a place, (top, left).

    Rounded to the nearest multiples, of those that leave all of it in an image of this size if there are any.
    ``place``: None: its own. UserError if the region is not within the image there; (0, 0) for one without pixels.
    """
    if not mask.any():
        return 0, 0
    ends = [(int(line[0]), int(line[-1]) + 1) for line in (mask.any(dim).nonzero() for dim in (1, 0))]
    corner = tuple(first for first, _ in ends) if place is None else place
    free = [side - (end - first) for side, (first, end) in zip(size, ends, strict=True)]
    if any(start > most for start, most in zip(corner, free, strict=True)):
        height, width = (end - first for first, end in ends)
        fitting = f"LEFT,TOP of at most {free[1]},{free[0]}" if min(free) >= 0 else "a smaller region (--mask)"
        where = "" if place is not None else " (where --reference has it)"
        raise UserError(
            f"--place {corner[1]},{corner[0]}{where}: expected {fitting}: the region has {width} x {height} pixels, "
            f"--input {size[1]} x {size[0]} (width x height)"
        )
    wanted = [start - first for start, (first, _) in zip(corner, ends, strict=True)]
    down, right = (
        _round(by, multiple, -first, side - end) for by, (first, end), side in zip(wanted, ends, size, strict=True)
    )
    if [down, right] != wanted:
        left, top = ends[1][0] + right, ends[0][0] + down
        log.warning(
            "--place: the region goes to %d,%d: regions are moved by multiples of %d pixels", left, top, multiple
        )
    return down, right


def _round(value: int, multiple: int, least: int, most: int) -> int:
    """The nearest multiple, of those from least to most if there are any."""
    allowed = range(-(-least // multiple) * multiple, most + 1, multiple) or (round(value / multiple) * multiple,)
    return min(allowed, key=lambda each: abs(each - value))
