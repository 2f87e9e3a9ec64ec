"""Tiles of a large image: where they lie, and how maps are cut into them and put together again."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor


class Box(NamedTuple):
    """A rectangle of LR pixels, the ends exclusive."""

    top: int
    bottom: int
    left: int
    right: int


class Tile(NamedTuple):
    """What is computed, ``outer``, and what is kept of it, ``inner``."""

    outer: Box
    inner: Box


def whole(size: tuple[int, int]) -> Tile:
    """The one tile that is the whole image of LR size (h, w)."""
    box = Box(0, size[0], 0, size[1])
    return Tile(box, box)


def tiles(size: tuple[int, int], side: int, overlap: int, multiple: int = 1) -> list[Tile]:
    """Tiles whose inner boxes cover an image without gap or overlap.

    Args:
        size: LR height and width, multiples of ``multiple``.
        side: Of the inner boxes, LR pixels, at least 1; rounded up to a multiple of ``multiple``. The last ones of a
            row or column may be smaller.
        overlap: Pixels that the outer box has on each side in addition, up to the image's border, at least 0; rounded
            up likewise.
        multiple: All ends of all boxes are multiples of it.
    """
    if side < 1 or overlap < 0:
        raise ValueError(f"expected tiles of at least 1 pixel and no negative overlap, got {side} and {overlap}")
    rows, columns = (list(_spans(length, side, overlap, multiple)) for length in size)
    return [
        Tile(Box(*outer_rows, *outer_columns), Box(*inner_rows, *inner_columns))
        for outer_rows, inner_rows in rows
        for outer_columns, inner_columns in columns
    ]


def _spans(length: int, side: int, overlap: int, multiple: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Outer and inner (first, end) along one dimension."""
    side, overlap = (multiple * -(-value // multiple) for value in (side, overlap))
    inner = [(first, min(first + side, length)) for first in range(0, length, side)]
    outer = [(max(first - overlap, 0), min(end + overlap, length)) for first, end in inner]
    if (0, length) in outer:
        # A tile that reads everything takes the memory of everything: more tiles would only take time.
        outer, inner = [(0, length)], [(0, length)]
    yield from zip(outer, inner, strict=True)


def crop(x: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """The part of x (..., H, W), any resolution, that a box covers; ``size``: LR height and width of all of x."""
    (height, width), (rows, columns) = size, x.shape[-2:]
    top, bottom = (end * rows // height for end in box[:2])
    left, right = (end * columns // width for end in box[2:])
    return x[..., top:bottom, left:right]


def stitch(compute: Callable[[Tile], Tensor], tiles: Sequence[Tile], size: tuple[int, int], scale: int) -> Tensor:
    """Put x (b, c, scale·h, scale·w) together; ``compute`` makes what a tile's outer box covers, one after another."""
    if len(tiles) == 1:
        return compute(tiles[0])
    x = None
    for tile in tiles:
        part = compute(tile)
        if x is None:
            x = part.new_empty(*part.shape[:-2], scale * size[0], scale * size[1])
        _keep(x, part, tile, size)
    assert x is not None
    return x


def _keep(x: Tensor, part: Tensor, tile: Tile, size: tuple[int, int]) -> None:
    outer, inner = tile
    within = Box(inner.top - outer.top, inner.bottom - outer.top, inner.left - outer.left, inner.right - outer.left)
    own_size = (outer.bottom - outer.top, outer.right - outer.left)
    crop(x, inner, size).copy_(crop(part, within, own_size))
