"""Tiles of a large image: where they lie, and how maps are cut into them and put together again."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from robustflow.data.crops import Box


class Tile(NamedTuple):
    """What is computed, ``outer``, and what is kept of it, ``inner``; LR pixels."""

    outer: Box
    inner: Box


def whole(size: tuple[int, int]) -> Tile:
    """The one tile that is the whole image of LR size (h, w)."""
    box = Box(0, 0, *size)
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
    side, overlap = (multiple * -(-value // multiple) for value in (side, overlap))
    rows, columns = (_cut(length, side, overlap) for length in size)
    inner = [Box(top, left, height, width) for top, height in rows for left, width in columns]
    return [Tile(box.grow(overlap, *size), box) for box in inner]


def _cut(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """Where the pieces of one dimension begin, and their lengths."""
    pieces = [(first, min(side, length - first)) for first in range(0, length, side)]
    # A tile that reads everything takes the memory of everything: more tiles would only take time.
    if any(first <= overlap and first + n + overlap >= length for first, n in pieces):
        return [(0, length)]
    return pieces


def crop(x: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """The part of x (..., H, W), any resolution, that a box covers; ``size``: LR height and width of all of x."""
    (height, width), (rows, columns) = size, x.shape[-2:]
    top, bottom = (end * rows // height for end in (box.top, box.top + box.height))
    left, right = (end * columns // width for end in (box.left, box.left + box.width))
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
        kept = crop(part, tile.inner.within(tile.outer), (tile.outer.height, tile.outer.width))
        crop(x, tile.inner, size).copy_(kept)
    assert x is not None
    return x
