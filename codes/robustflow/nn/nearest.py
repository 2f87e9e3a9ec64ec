"""3×3 convolutions of nearest-neighbour resized maps, without resizing them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def conv_of_nearest(x: Tensor, weight: Tensor, factor: float) -> Tensor:
    """3×3 convolution, zero padding 1, of x (b, c, h, w) resized by nearest neighbour; weight (o, c, 3, 3).

    Equal to ``conv2d(resize(x, factor), weight, padding=1)`` with an integer factor, or 1/s where the
    integer s divides h and w. Enlarging is never carried out, see ``Resized``.
    """
    return Resized(x, factor).conv(weight)


class Resized:
    """x (b, c, h, w) resized by nearest neighbour, to be convolved any number of times.

    Enlarging by r is never carried out. Along one dimension, with kernel (w₋, w₀, w₊), W = w₋ + w₀ + w₊ and
    differences g_i = x_i − x_{i−1}:

        first of the r output pixels of x_i: W x_i − w₋ g_i,  last: W x_i + w₊ g_{i+1},  those between: W x_i

    So three products serve r output pixels; along both dimensions nine serve r², all of them 1×1 convolutions at the
    input's resolution: 1/4 (r = 2) or 1/16 (r = 4) of the work.
    """

    def __init__(self, x: Tensor, factor: float) -> None:
        self.layout = _layout(x)
        self.enlargement = round(factor) if factor > 1 else 1
        if factor > 1:
            down = F.pad(x, (0, 0, 0, 1)) - F.pad(x, (0, 0, 1, 0))
            across = F.pad(x, (0, 1)) - F.pad(x, (1, 0))
            both = F.pad(down, (0, 1)) - F.pad(down, (1, 0))
            self.sources = [source.contiguous(memory_format=self.layout) for source in (x, down, across, both)]
            return
        step = round(1 / factor)
        x = x[..., ::step, ::step]
        # The CPU's channels-last kernel rounds sums over hundreds of channels four times as coarsely (8e-7 of the
        # result). Samples do not care, but gradients of splines amplify it.
        accurate = x.element_size() >= 4 and x.device.type == "cpu" and torch.is_grad_enabled()
        self.sources = [x.contiguous() if accurate else x]

    def conv(self, weight: Tensor) -> Tensor:
        """3×3 convolution, zero padding 1, with weight (o, c, 3, 3)."""
        weight = weight.to(self.sources[0].dtype)
        if self.enlargement == 1:
            weight = weight.contiguous(memory_format=_layout(self.sources[0]))
            return F.conv2d(self.sources[0], weight, padding=1).contiguous(memory_format=self.layout)
        combined = (weight.flatten(2) @ _combinations(weight)).permute(2, 0, 1)[..., None, None]
        kernels = (combined[part].flatten(0, 1) for part in (slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 9)))
        products = [F.conv2d(source, kernel) for source, kernel in zip(self.sources, kernels, strict=True)]
        return _Enlarged.apply(self.enlargement, *products)


def _combinations(like: Tensor) -> Tensor:
    """Matrix (9, 9) from the elements of a 3×3 kernel to W·W, ∓w·W (rows), W·∓w (columns), ∓w·∓w."""
    # Filled, not made from a list, which a GPU would have to wait for.
    ends, whole = like.new_zeros(2, 3), like.new_ones(1, 3)
    ends[0, 0].fill_(-1)
    ends[1, 2].fill_(1)
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
