"""Pictures as files: what was decoded; several side by side, each with its name; or one after another, moving."""

import io
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from robustflow.data.images import to_uint8, write_png
from robustflow.evaluation.metrics.failures import PIXEL_RANGE, pixel_errors
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)

_GAP, _HEADER = 6, 24
_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def remove_beyond(folder: Path, stem: str, n: int, suffix: str = "(_back_projected)?") -> None:
    """Remove numbered pictures, ``stem``_NUMBER, from number n on: of an earlier call, which made more of them."""
    pattern = re.compile(rf"{re.escape(stem)}_(\d+){suffix}\.png")
    for file in folder.iterdir():
        match = pattern.fullmatch(file.name)
        if match is not None and int(match[1]) >= n:
            file.unlink()


def write_decoded(path: Path, image: Tensor) -> None:
    """Write a decoded image (3, H, W), not clamped, as PNG; warn of pixels that are no colours."""
    failed = pixel_errors(image)
    if failed > 0:
        log.warning(
            "%s: %.3g %% of its pixels are outside [%g, %g] before clamping: the model's inverse explodes there",
            path.name,
            failed,
            *PIXEL_RANGE,
        )
    write_png(path, image)


def write(path: Path, pictures: Mapping[str, Tensor], columns: int | None = None) -> None:
    """Write pictures (3, h, w), as `to_uint8` takes them, side by side, as PNG, or JPEG if the path ends so.

    Smaller pictures are enlarged by whole factors, pixels kept. ``columns``: in a row, at most; None: all.
    """
    encoded = io.BytesIO()
    # PNG has no quality.
    _draw(pictures, columns).save(encoded, format="JPEG" if path.suffix == ".jpg" else "PNG", quality=88)
    write_atomically(path, encoded.getvalue(), durable=False)


def write_moving(path: Path, frames: Iterable[Tensor]) -> None:
    """Write frames (3, h, w), as `to_uint8` takes them, as an animated PNG that repeats, 120 ms each."""
    first, *others = map(to_picture, frames)
    encoded = io.BytesIO()
    first.save(encoded, format="PNG", save_all=True, append_images=others, duration=120, loop=0)
    write_atomically(path, encoded.getvalue(), durable=False)


def _draw(pictures: Mapping[str, Tensor], columns: int | None) -> Image.Image:
    shown = {name: _enlarge(image, pictures) for name, image in pictures.items()}
    font = ImageFont.load_default(14)
    columns = len(shown) if columns is None else min(columns, len(shown))
    rows = -(-len(shown) // columns)
    width = max(*(picture.width for picture in shown.values()), *(int(font.getlength(name)) for name in shown), 1)
    height = max(picture.height for picture in shown.values())
    cell = (width + _GAP, height + _HEADER)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (name, picture) in enumerate(shown.items()):
        left, top = _GAP + number % columns * cell[0], number // columns * cell[1]
        pen.text((left, top + 4), name, _INK, font)
        sheet.paste(picture, (left, top + _HEADER))
    return sheet


def _enlarge(image: Tensor, pictures: Mapping[str, Tensor]) -> Image.Image:
    factor = max(1, min(max(p.shape[k] for p in pictures.values()) // image.shape[k] for k in (-2, -1)))
    picture = to_picture(image)
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def to_picture(image: Tensor) -> Image.Image:
    """An image (3, h, w), as `to_uint8` takes it, on any device."""
    return Image.fromarray(np.ascontiguousarray(to_uint8(image).permute(1, 2, 0).cpu().numpy()))
