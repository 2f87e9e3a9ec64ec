"""What an encoder returns, and how a convolution reads it without upsampling it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class FeaturePyramid:
    """Features of a condition for every level of a flow.

    Attributes:
        native: Per level, finest first, a map (b, native_channels, h_l, w_l) at the level's resolution.
        taps: Block outputs (b, tap_channels, h, w) at the encoder's resolution, shared by all levels.
        factors: Per level, its resolution divided by that of the taps: 2, 1, 0.5 for 4x and three levels.
    """

    native: tuple[Tensor, ...]
    taps: Tensor
    factors: tuple[float, ...]


class Encoder(nn.Module, ABC):
    """Feature extractor of the condition."""

    native_channels: int
    tap_channels: int

    @abstractmethod
    def forward(self, condition: Tensor) -> FeaturePyramid:
        """Map the condition (b, c, h, w) to its features."""


def conv_of_nearest(x: Tensor, weight: Tensor, factor: float) -> Tensor:
    """3×3 convolution, zero padding 1, of x (b, c, h, w) resized by nearest neighbour; weight (o, c, 3, 3).

    Equal to ``conv2d(resize(x, factor), weight, padding=1)`` with an integer factor, or 1/s where the
    integer s divides h and w.
    Enlarging by r is never carried out: output pixels of equal phase (row mod r, column mod r) see the same few
    input pixels, so each phase is a small convolution at the input's resolution, 4/9 (r = 2) or 1/4 (r = 4) of the
    work and less.
    """
    if factor < 1:
        step = round(1 / factor)
        return F.conv2d(x[..., ::step, ::step], weight, padding=1)
    if factor == 1:
        return F.conv2d(x, weight, padding=1)
    return _phases(x, weight, round(factor))


def _edge_kernels(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Kernels of the first phase (inputs −1, 0) and the last (inputs 0, +1) along a dimension: 2 taps each."""
    before, here, after = weight.unbind(dim)
    return torch.stack([before, here + after], dim), torch.stack([before + here, after], dim)


def _phases(x: Tensor, weight: Tensor, r: int) -> Tensor:
    (h, w), out_channels = x.shape[-2:], weight.shape[0]
    # 2×2 kernels of the four corner phases, in one convolution of a map one pixel larger.
    rows = _edge_kernels(weight, 2)
    corners = torch.cat([kernel for row in rows for kernel in _edge_kernels(row, 3)])
    maps = F.conv2d(x, corners, padding=1).split(out_channels, dim=1)
    phases = {(p * (r - 1), q * (r - 1)): maps[2 * p + q][..., p : p + h, q : q + w] for p in (0, 1) for q in (0, 1)}
    if r > 2:
        phases |= _inner_phases(x, weight, r)
    ordered = [phases[p, q] for p in range(r) for q in range(r)]
    return F.pixel_shuffle(torch.stack(ordered, dim=2).flatten(1, 2), r)


def _inner_phases(x: Tensor, weight: Tensor, r: int) -> dict[tuple[int, int], Tensor]:
    """Phases 0 < p < r − 1 touch one input only along their dimension; all of them share one kernel."""
    (h, w), out_channels = x.shape[-2:], weight.shape[0]
    inner = range(1, r - 1)
    across = weight.sum(2, keepdim=True)
    left, right = F.conv2d(x, torch.cat(_edge_kernels(across, 3)), padding=(0, 1)).split(out_channels, dim=1)
    along = weight.sum(3, keepdim=True)
    top, bottom = F.conv2d(x, torch.cat(_edge_kernels(along, 2)), padding=(1, 0)).split(out_channels, dim=1)
    middle = F.conv2d(x, weight.sum((2, 3), keepdim=True))
    phases = {(p, q): middle for p in inner for q in inner}
    for p in inner:
        phases |= {(p, 0): left[..., :w], (p, r - 1): right[..., 1:]}
        phases |= {(0, p): top[..., :h, :], (r - 1, p): bottom[..., 1:, :]}
    return phases
