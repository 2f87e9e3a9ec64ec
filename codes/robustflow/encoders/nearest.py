"""3×3 convolutions of nearest-neighbour resized maps, without resizing them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_of_nearest(x: Tensor, weight: Tensor, factor: float) -> Tensor:
    """3×3 convolution, zero padding 1, of x (b, c, h, w) resized by nearest neighbour; weight (o, c, 3, 3).

    Equal to ``conv2d(resize(x, factor), weight, padding=1)`` with an integer factor, or 1/s where the
    integer s divides h and w. Enlarging by r is never carried out, see ``_conv_of_enlarged``.
    """
    weight = weight.to(x.dtype)
    if factor > 1:
        return _conv_of_enlarged(x, weight, round(factor))
    step = round(1 / factor)
    x = x[..., ::step, ::step]
    if x.element_size() < 4 or x.device.type != "cpu" or not torch.is_grad_enabled():
        return F.conv2d(x, weight, padding=1)
    # The CPU's channels-last kernel rounds sums over hundreds of channels four times as coarsely (8e-7 of the result).
    # Samples do not care, but gradients of splines amplify it.
    return F.conv2d(x.contiguous(), weight, padding=1).contiguous(memory_format=torch.channels_last)


def _conv_of_enlarged(x: Tensor, weight: Tensor, r: int) -> Tensor:
    """Along one dimension, with kernel (w₋, w₀, w₊), W = w₋ + w₀ + w₊ and differences g_i = x_i − x_{i−1}:

        first of the r output pixels of x_i: W x_i − w₋ g_i,  last: W x_i + w₊ g_{i+1},  those between: W x_i

    So three products serve r output pixels; along both dimensions nine serve r², all of them 1×1 convolutions at the
    input's resolution: 1/4 (r = 2) or 1/16 (r = 4) of the work.
    """
    combined = (weight.flatten(2) @ _combinations(weight)).permute(2, 0, 1)[..., None, None]
    down = F.pad(x, (0, 0, 0, 1)) - F.pad(x, (0, 0, 1, 0))
    across = F.pad(x, (0, 1)) - F.pad(x, (1, 0))
    both = F.pad(down, (0, 1)) - F.pad(down, (1, 0))
    products = [
        F.conv2d(source.contiguous(memory_format=_layout(x)), combined[kernels].flatten(0, 1))
        for source, kernels in ((x, slice(0, 1)), (down, slice(1, 3)), (across, slice(3, 5)), (both, slice(5, 9)))
    ]
    return _Enlarged.apply(r, *products)


def _combinations(like: Tensor) -> Tensor:
    """Matrix (9, 9) from the elements of a 3×3 kernel to W·W, ∓w·W (rows), W·∓w (columns), ∓w·∓w."""
    ends = like.new_tensor([[-1, 0, 0], [0, 0, 1]])
    whole = like.new_ones(1, 3)
    pairs = ((whole, whole), (ends, whole), (whole, ends), (ends, ends))
    return torch.cat([torch.kron(rows, columns) for rows, columns in pairs]).T.contiguous()


class _Enlarged(torch.autograd.Function):
    """Map (b, o, r·h, r·w) from the products with x, its differences down, across and both: o, 2o, 2o, 4o channels.

    Every output pixel is a sum of those products that concern it.
    """

    @staticmethod
    def forward(ctx: Any, r: int, *products: Tensor) -> Tensor:
        plain = products[0]
        b, o, h, w = plain.shape
        ctx.r, ctx.shapes = r, [product.shape for product in products]
        whole = torch.empty((b, o, r * h, r * w), dtype=plain.dtype, device=plain.device, memory_format=_layout(plain))
        rows, columns, corners = _parts(r, *products[1:])
        for p in range(r):
            row = plain + rows[p] if p in rows else plain
            for q in range(r):
                pixels = whole[..., p::r, q::r]
                if q in columns:
                    torch.add(row, columns[q], out=pixels)
                else:
                    pixels.copy_(row)
                if (p, q) in corners:
                    pixels.add_(corners[p, q])
        return whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        r = ctx.r
        grads = [
            torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=_layout(grad)).zero_()
            for shape in ctx.shapes
        ]
        rows, columns, corners = _parts(r, *grads[1:])
        for p in range(r):
            row = sum(grad[..., p::r, q::r] for q in range(r))
            grads[0] += row
            if p in rows:
                rows[p] += row
            for q in columns:
                columns[q] += grad[..., p::r, q::r]
                if (p, q) in corners:
                    corners[p, q] += grad[..., p::r, q::r]
        return None, *grads


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format


Parts = tuple[dict[int, Tensor], dict[int, Tensor], dict[tuple[int, int], Tensor]]


def _parts(r: int, down: Tensor, across: Tensor, both: Tensor) -> Parts:
    """What the first and the last pixel, of the r along a dimension, take of the products: views (b, o, h, w).

    There is one difference more than there are pixels: pixel i has g_i before it and g_{i+1} behind it.
    """
    ends = {0: slice(None, -1), r - 1: slice(1, None)}
    rows = {p: part[..., ends[p], :] for p, part in zip(ends, down.chunk(2, dim=1), strict=True)}
    columns = {q: part[..., ends[q]] for q, part in zip(ends, across.chunk(2, dim=1), strict=True)}
    pairs = [(p, q) for p in ends for q in ends]
    corners = {(p, q): part[..., ends[p], ends[q]] for (p, q), part in zip(pairs, both.chunk(4, dim=1), strict=True)}
    return rows, columns, corners
