"""MATLAB's `imresize` for integer factors: bicubic (a = -0.5) and others, antialiased, symmetric border.

Bicubic is exact with torch's own antialiased kernel once the image is padded by hand: torch repeats no pixels, it drops
the part of the kernel that reaches over the border.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustflow.utils import memory

Kernel = Literal["bicubic", "bilinear", "area", "lanczos"]

# Half the width of each kernel, in pixels of the coarser grid.
_WIDTHS: dict[Kernel, float] = {"bicubic": 2, "bilinear": 1, "area": 0.5, "lanczos": 3}
# Weights at distances from an LR pixel's centre, in LR pixels; those of bicubic are torch's own.
_WEIGHTS: dict[Kernel, Callable[[Tensor], Tensor]] = {
    "bilinear": lambda t: (1 - t.abs()).clamp(min=0),
    "area": lambda t: (t.abs() <= 0.5).to(t),
    "lanczos": lambda t: torch.sinc(t) * torch.sinc(t / 3) * (t.abs() < 3),
}


def reach(kernel: Kernel) -> float:
    """How far beyond an LR pixel's own HR pixels its value depends on others, in LR pixels."""
    return _WIDTHS[kernel] - 0.5


def downsample(x: Tensor, scale: int, kernel: Kernel = "bicubic") -> Tensor:
    """Reduce an image by an integer factor, as MATLAB's ``imresize(x, 1 / scale, method)``.

    Args:
        x: (..., c, h, w), uint8 or floating, any range.
        scale: Integer factor, at least 1.
        kernel: ``bicubic``; ``bilinear``, a triangle; ``area``, the mean; ``lanczos`` of three lobes.

    Returns:
        (..., c, ceil(h / scale), ceil(w / scale)), dtype of ``x``. uint8 images are rounded (half to even) and clipped
        after each pass, first along the height; floating ones are neither rounded nor clipped, and differentiable.
    """
    return _resize(x, down=scale, kernel=kernel)


def upsample(x: Tensor, scale: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Enlarge an image by an integer factor, as MATLAB's ``imresize(x, scale)``.

    Args:
        x: (..., c, h, w), uint8 or floating, any range.
        scale: Integer factor, at least 1.
        dtype: What floating images are computed in, at least; uint8 images are in float64 anyway.

    Returns:
        (..., c, h * scale, w * scale), dtype of ``x``; rounding as in :func:`downsample`.
    """
    return _resize(x, up=scale, dtype=dtype)


def mirror_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Pad with a symmetric border, the edge pixel repeated: c b a | a b c | c b a.

    Args:
        x: (..., h, w), any dtype, h and w at least 1.
        left: Pixels to add on that side, at least 0; may exceed the image. Likewise ``right``, ``top``, ``bottom``.

    Returns:
        (..., top + h + bottom, left + w + right).
    """
    rows = _mirror(x.shape[-2], -top, x.shape[-2] + bottom, x.device)
    columns = _mirror(x.shape[-1], -left, x.shape[-1] + right, x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def mirror_crop(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """Crop (..., h, w) to (..., height, width) from (top, left) on, pixels beyond the borders as of `mirror_pad`.

    A view if none are.
    """
    if 0 <= top <= x.shape[-2] - height and 0 <= left <= x.shape[-1] - width:
        return x[..., top : top + height, left : left + width]
    rows = _mirror(x.shape[-2], top, top + height, x.device)
    return x[..., rows[:, None], _mirror(x.shape[-1], left, left + width, x.device)]


def _mirror(n: int, first: int, end: int, device: torch.device) -> Tensor:
    """Source indices of pixels of a mirrored line of n pixels: period 2n, the second half backwards."""
    index = torch.arange(first, end, device=device) % (2 * n)
    return torch.minimum(index, 2 * n - 1 - index)


def _resize(
    x: Tensor, down: int = 1, up: int = 1, dtype: torch.dtype = torch.float32, kernel: Kernel = "bicubic"
) -> Tensor:
    """Reduce by ``down`` or enlarge by ``up``, band by band, each padded by what lies or is mirrored around it.

    Both dimensions are padded before either pass: torch gives wrong values for maps of width 1 when only their height
    is reduced. uint8 images are computed in float64, where all weights of factors 2 to 16 are exact (but those of
    lanczos), so that ties are ties and a crop of a resized image equals the resized crop.
    """
    rounded = x.dtype == torch.uint8
    if x.ndim < 3 or 0 in x.shape[-2:] or not (rounded or x.is_floating_point()):
        raise ValueError(f"expected an image (..., c, h, w), uint8 or floating, got {tuple(x.shape)}, {x.dtype}")
    if min(down, up) < 1:
        raise ValueError(f"expected an integer factor of at least 1, got {min(down, up)}")
    work = torch.float64 if rounded else torch.promote_types(x.dtype, dtype)
    size = [-(-n // down) for n in x.shape[-2:]]
    margin = math.ceil(_WIDTHS[kernel])
    near, cut = margin * down, margin * up
    rows, columns = (_mirror(n, -near, near + m * down, x.device) for n, m in zip(x.shape[-2:], size, strict=True))
    images = x.reshape(-1, *x.shape[-3:])

    def resize(band: slice) -> Tensor:
        height, width = band.stop - band.start + 2 * margin, size[1] + 2 * margin
        source = rows[down * band.start : down * (band.stop + 2 * margin)]
        padded = images.index_select(-2, source).index_select(-1, columns).to(work)
        if kernel != "bicubic":
            return _reduce(padded, down, kernel, rounded=rounded).to(x.dtype)
        result = _interpolate(padded, (up * height, up * width), rounded=rounded)
        return result[..., cut:-cut, cut:-cut].to(x.dtype)

    per_row = images[..., :1, :].numel() * down * up**2
    result = torch.cat([resize(band) for band in memory.bands(size[0], per_row)], dim=-2)
    return result.reshape(*x.shape[:-2], *result.shape[-2:]).contiguous()


def _interpolate(x: Tensor, size: tuple[int, int], *, rounded: bool) -> Tensor:
    """Interpolate to a size, with ``rounded`` to whole numbers from 0 to 255 after each pass."""
    # antialias stays on for enlarging too: without it torch's kernel has a = -0.75.
    if not rounded:
        return F.interpolate(x, size=size, mode="bicubic", antialias=True)
    for pass_size in ((size[0], x.shape[-1]), size):
        x = F.interpolate(x, size=pass_size, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    return x


def _reduce(x: Tensor, scale: int, kernel: Kernel, *, rounded: bool) -> Tensor:
    """Weighted means around the centre of each ``scale`` pixels, as many LR pixels left out at each border as reached.

    Rounded as `_interpolate` does it.
    """
    margin = math.ceil(_WIDTHS[kernel])
    # From the centre of an LR pixel, to its own HR pixels and those of its neighbours.
    places = torch.arange((2 * margin + 1) * scale, dtype=torch.float64, device=x.device) - margin * scale
    weights = _WEIGHTS[kernel]((places - (scale - 1) / 2) / scale)
    weights = (weights / weights.sum()).to(x.dtype)
    for dim in (-2, -1):
        x = x.unfold(dim, len(weights), scale) @ weights
        x = x.round_().clamp_(0, 255) if rounded else x
    return x
