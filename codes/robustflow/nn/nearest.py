"""3×3 convolutions of nearest-neighbour resized maps, without resizing them."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Resized:
    """x (b, c, h, w) resized by nearest neighbour, to be convolved any number of times.

    The factor is an integer r, or 1/s where the integer s divides h and w. Enlarging is never carried out. Along one
    dimension, with kernel (w₋, w₀, w₊), W = w₋ + w₀ + w₊ and differences g_i = x_i − x_{i−1}:

        first of the r output pixels of x_i: W x_i − w₋ g_i,  last: W x_i + w₊ g_{i+1},  those between: W x_i

    So three products serve r output pixels; along both dimensions nine serve r², all of them 1×1 convolutions at the
    input's resolution: 1/4 (r = 2) or 1/16 (r = 4) of the work.
    """

    def __init__(self, x: Tensor, factor: float) -> None:
        self.layout = _layout(x)
        self.enlargement = round(factor) if factor > 1 else 1
        if factor > 1:
            down, across = F.pad(x, (0, 0, 1, 1)).diff(dim=2), F.pad(x, (1, 1)).diff(dim=3)
            both = F.pad(down, (1, 1)).diff(dim=3)
            self.sources = [source.contiguous(memory_format=self.layout) for source in (x, down, across, both)]
            return
        step = round(1 / factor)
        x = x[..., ::step, ::step]
        # The CPU's channels-last kernel rounds sums over hundreds of channels four times as coarsely (8e-7 of the
        # result). Samples do not care, but gradients of splines amplify it.
        accurate = x.element_size() >= 4 and x.device.type == "cpu" and torch.is_grad_enabled()
        self.sources = [x.contiguous() if accurate else x]

    def conv(self, weight: Tensor) -> Tensor:
        """3×3 convolution, zero padding 1, with weight (o, c, 3, 3): (b, o, factor·h, factor·w)."""
        weight = weight.to(self.sources[0].dtype)
        if self.enlargement == 1:
            weight = weight.contiguous(memory_format=_layout(self.sources[0]))
            return F.conv2d(self.sources[0], weight, padding=1).contiguous(memory_format=self.layout)
        combined = (weight.flatten(2) @ _combinations(weight)).permute(2, 0, 1)[..., None, None]
        kernels = zip(self.sources, combined.split([1, 2, 2, 4]), strict=True)
        products = [F.conv2d(source, kernel.flatten(0, 1)) for source, kernel in kernels]
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
    """Map (b, o, r·h, r·w) from the products with x, its differences down, across and both: o, 2o, 2o, 4o channels."""

    @staticmethod
    def forward(ctx: Any, r: int, *products: Tensor) -> Tensor:
        ctx.r, ctx.shapes = r, [product.shape for product in products]
        plain, down, across, both = _by_end(*products)
        b, o, h, w = plain.shape
        whole, ends = _empty((b, o, r * h, r * w), plain), {0: 0, r - 1: 1}
        for p in range(r):
            i = ends.get(p)
            row = plain if i is None else plain + _read(down[:, i], 2, i)
            for q in range(r):
                j, pixels = ends.get(q), whole[..., p::r, q::r]
                if j is None:
                    pixels.copy_(row)
                    continue
                torch.add(row, _read(across[:, j], 3, j), out=pixels)
                if i is not None:
                    pixels += _read(_read(both[:, i, j], 2, i), 3, j)
        return whole

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [_empty(shape, grad) for shape in ctx.shapes]
        plain, down, across, both = _by_end(*grads)
        ends = {0: 0, ctx.r - 1: 1}
        pixels = [[grad[..., p :: ctx.r, q :: ctx.r] for q in range(ctx.r)] for p in range(ctx.r)]
        rows = [_add_up(pixels[p], _take(down[:, i], 2, i)) for p, i in ends.items()]
        _add_up([rows[0], *itertools.chain(*pixels[1:])], plain)
        for q, j in ends.items():
            _add_up([row[q] for row in pixels], _take(across[:, j], 3, j))
            for p, i in ends.items():
                _take(_take(both[:, i, j], 2, i), 3, j).copy_(pixels[p][q])
        return None, *grads


def _by_end(plain: Tensor, down: Tensor, across: Tensor, both: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The products by the end of the r pixels at which they are read, first (0) or last (1), behind the batch."""
    return plain, down.unflatten(1, (2, -1)), across.unflatten(1, (2, -1)), both.unflatten(1, (2, 2, -1))


def _read(differences: Tensor, dim: int, end: int) -> Tensor:
    """Those along a dimension that belong to the pixels of x_i: g_i to the first, g_{i+1} to the last."""
    return differences.narrow(dim, end, differences.shape[dim] - 1)


def _take(gradients: Tensor, dim: int, end: int) -> Tensor:
    """Those by differences that are read, to be written; 0 for the one that is not."""
    gradients.select(dim, end - 1).zero_()
    return _read(gradients, dim, end)


def _add_up(terms: Sequence[Tensor], total: Tensor) -> Tensor:
    torch.add(terms[0], terms[1], out=total)
    for term in terms[2:]:
        total += term
    return total


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_layout(like))


def _layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
