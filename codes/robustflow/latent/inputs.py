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


def read_mask(text: str, size: tuple[int, int]) -> Tensor:
    """A mask (H, W), boolean: of an image file whose bright pixels are True, or of a box LEFT,TOP,WIDTH,HEIGHT.

    UserError if it does not fit an image of this size.
    """
    if _BOX.fullmatch(text) is not None:
        return _read_box(text, size)
    require_mask(text)
    path = Path(text)
    image = to_uint8(read_image(path))
    require_size(image, size, f"--mask {path}", "as --input has")
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


def _read_box(text: str, size: tuple[int, int]) -> Tensor:
    left, top, width, height = map(int, text.split(","))
    if width == 0 or height == 0 or left + width > size[1] or top + height > size[0]:
        raise UserError(
            f"--mask {text}: expected LEFT,TOP,WIDTH,HEIGHT in pixels, within the {size[1]} x {size[0]} pixels of "
            "--input"
        )
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask
