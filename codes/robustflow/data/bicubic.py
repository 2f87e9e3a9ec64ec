"""MATLAB's `imresize` for integer factors: bicubic (a = -0.5), antialiased, symmetric border.

Exact with torch's own antialiased kernel once the image is padded by hand: torch repeats no pixels, it drops the part
of the kernel that reaches over the border.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from robustflow.utils import memory

_REACH = 2  # of the cubic kernel, in pixels of the coarser grid


def downsample(x: Tensor, scale: int) -> Tensor:
    """Reduce an image by an integer factor, as MATLAB's ``imresize(x, 1 / scale)``.

    Args:
        x: (..., c, h, w), uint8 or floating, any range.
        scale: Integer factor, at least 1.

    Returns:
        (..., c, ceil(h / scale), ceil(w / scale)), dtype of ``x``. uint8 images are rounded (half to even) and clipped
        after each pass, first along the height; floating ones are neither rounded nor clipped, and differentiable.
    """
    _check(x, scale)
    return _resize(x, down=scale)


def upsample(x: Tensor, scale: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Enlarge an image by an integer factor, as MATLAB's ``imresize(x, scale)``.

    Args:
        x: (..., c, h, w), uint8 or floating, any range.
        scale: Integer factor, at least 1.
        dtype: What floating images are computed in, at least; uint8 images are in float64 anyway.

    Returns:
        (..., c, h * scale, w * scale), dtype of ``x``; rounding as in :func:`downsample`.
    """
    _check(x, scale)
    return _resize(x, up=scale, dtype=dtype)


def mirror_pad(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Pad with a symmetric border, the edge pixel repeated: c b a | a b c | c b a.

    Args:
        x: (..., h, w), any dtype, h and w at least 1.
        left: Pixels to add on that side, at least 0; may exceed the image. Likewise ``right``, ``top``, ``bottom``.

    Returns:
        (..., top + h + bottom, left + w + right).
    """
    rows = _mirrored(x.shape[-2], top, bottom, x.device)
    columns = _mirrored(x.shape[-1], left, right, x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def _mirrored(n: int, before: int, after: int, device: torch.device) -> Tensor:
    """Source indices of a mirrored line of n pixels: period 2n, the second half backwards."""
    index = torch.arange(-before, n + after, device=device) % (2 * n)
    return torch.minimum(index, 2 * n - 1 - index)


def _check(x: Tensor, scale: int) -> None:
    if x.ndim < 3 or 0 in x.shape[-2:] or not (x.dtype == torch.uint8 or x.is_floating_point()):
        raise ValueError(f"expected an image (..., c, h, w), uint8 or floating, got {tuple(x.shape)}, {x.dtype}")
    if scale < 1:
        raise ValueError(f"expected an integer factor of at least 1, got {scale}")


def _resize(x: Tensor, down: int = 1, up: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """Reduce by ``down`` or enlarge by ``up``, band by band, each padded by what lies or is mirrored around it.

    Both dimensions are padded before either pass: torch gives wrong values for maps of width 1 when only their height
    is reduced. uint8 images are computed in float64, where all weights of factors 2, 4 and 8 are exact, so that ties
    are ties and a crop of a resized image equals the resized crop.
    """
    rounded = x.dtype == torch.uint8
    work = torch.float64 if rounded else torch.promote_types(x.dtype, dtype)
    size = [-(-n // down) for n in x.shape[-2:]]
    near, cut = _REACH * down, _REACH * up
    rows, columns = (_mirrored(n, near, near + m * down - n, x.device) for n, m in zip(x.shape[-2:], size, strict=True))
    images = x.reshape(-1, *x.shape[-3:])

    def resized(band: slice) -> Tensor:
        height, width = band.stop - band.start + 2 * _REACH, size[1] + 2 * _REACH
        source = rows[down * band.start : down * (band.stop + 2 * _REACH)]
        padded = images.index_select(-2, source).index_select(-1, columns).to(work)
        result = _interpolate(padded, (up * height, up * width), rounded=rounded)
        return result[..., cut:-cut, cut:-cut].to(x.dtype)

    per_row = images[..., :1, :].numel() * down * up**2
    result = torch.cat([resized(band) for band in memory.bands(size[0], per_row)], dim=-2)
    return result.reshape(*x.shape[:-2], *result.shape[-2:]).contiguous()


def _interpolate(x: Tensor, size: tuple[int, int], *, rounded: bool) -> Tensor:
    """Interpolate to a size, with ``rounded`` to whole numbers from 0 to 255 after each pass."""
    # antialias stays on for enlarging too: without it torch's kernel has a = -0.75.
    if not rounded:
        return F.interpolate(x, size=size, mode="bicubic", antialias=True)
    for pass_size in ((size[0], x.shape[-1]), size):
        x = F.interpolate(x, size=pass_size, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    return x
