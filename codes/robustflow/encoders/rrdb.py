"""The RRDB encoder of ESRGAN (Wang et al., ECCVW 2018), as SRFlow uses it."""

import math
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.bijections.networks import conv, for_convolution
from robustflow.checkpointing import checkpointed
from robustflow.encoders.base import Encoder, FeaturePyramid
from robustflow.encoders.nearest import conv_of_nearest
from robustflow.registry import ENCODERS, Options


class RRDBOptions(Options):
    """The RRDB encoder has no options of its own; nf, nb, gc and the taps stand in ``network_G``."""

    type: Literal["RRDB"] = "RRDB"


def default_taps(n_blocks: int, n_taps: int = 4) -> tuple[int, ...]:
    """Blocks whose outputs are shared features: 1, 8, 15, 22 of 23; 1, 3, 5, 7 of 8; all of few."""
    if n_blocks <= n_taps:
        return tuple(range(n_blocks))
    step = (n_blocks - 2) / (n_taps - 1)
    return tuple(1 + round(step * k) for k in range(n_taps))


class DenseBlock(nn.Module):
    """Five 3×3 convolutions, each reading all maps before it; residual times 0.2."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        widths = [growth] * 4 + [channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels + k * growth, width, 3, padding=1) for k, width in enumerate(widths)
        )
        for layer in self.convs:
            # A tenth of He's initialisation lets deep residual stacks start near the identity (ESRGAN, section 3.1).
            nn.init.kaiming_normal_(layer.weight)  # type: ignore[arg-type]
            layer.weight.data.mul_(0.1)  # type: ignore[operator]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Map (b, channels, h, w) to the same shape; convolutions in ``dtype``, the sum in that of x."""
        maps = [for_convolution(x, dtype)]
        for k, layer in enumerate(self.convs):
            kernel, bias = (value.to(maps[0].dtype) for value in (layer.weight, layer.bias))
            last = _ConvOfConcatenation.apply(kernel, bias, *maps)
            maps.append(last if k == 4 else F.leaky_relu(last, 0.2, inplace=True))
        return torch.add(x, maps[-1], alpha=0.2)


class _ConvOfConcatenation(torch.autograd.Function):
    """3×3 convolution of concatenated maps that keeps the maps, which others need anyhow, not the concatenation."""

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, bias: Tensor, *maps: Tensor) -> Tensor:
        ctx.save_for_backward(kernel, *maps)
        return F.conv2d(torch.cat(maps, dim=1), kernel, bias, padding=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kernel, *maps = ctx.saved_tensors
        geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, not transposed, groups
        needed = [any(ctx.needs_input_grad[2:]), *ctx.needs_input_grad[:2]]
        of_maps, of_kernel, of_bias = torch.ops.aten.convolution_backward(
            grad, torch.cat(maps, dim=1), kernel, [kernel.shape[0]], *geometry, needed
        )
        by_map = (None,) * len(maps) if of_maps is None else of_maps.split([m.shape[1] for m in maps], dim=1)
        return of_kernel, of_bias, *by_map


class ResidualBlock(nn.Sequential):
    """Residual in residual: three dense blocks, their residual times 0.2."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(*(DenseBlock(channels, growth) for _ in range(3)))

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Map (b, channels, h, w) to the same shape; convolutions in ``dtype``, sums in that of x."""
        residual = x
        for block in self:
            residual = block(residual, dtype)
        return torch.add(x, residual, alpha=0.2)


@ENCODERS.register("RRDB", RRDBOptions)
class RRDB(Encoder):
    """RRDB trunk at the size of the LR image, with maps at other sizes for the levels of a flow.

    ``last`` = output of the last block + trunk_conv of it. Levels finer than the LR image read 3×3 convolutions of
    the 2× nearest upsampling, activated; coarser ones 2×2 means of ``last``.

    Args:
        scale: Super-resolution factor, a power of two.
        n_levels: Levels of the flow; 0 for an encoder that is only pretrained.
        channels: Width nf.
        n_blocks: Residual blocks nb.
        growth: Growth channels gc of a dense block.
        taps: 0-based indices of the blocks whose outputs are shared features; None for ``default_taps``.
    """

    def __init__(
        self,
        scale: int,
        n_levels: int,
        channels: int,
        n_blocks: int,
        growth: int,
        taps: tuple[int, ...] | None,
    ) -> None:
        super().__init__()
        self.taps = default_taps(n_blocks) if taps is None else taps
        # Level l works at scale / 2^l times the LR size.
        self.octaves = tuple(int(math.log2(scale)) - level for level in range(1, n_levels + 1))
        self.native_channels = channels
        self.tap_channels = channels * len(self.taps)
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels, growth) for _ in range(n_blocks))
        self.trunk_conv = nn.Conv2d(channels, channels, 3, padding=1)
        n_up = max((0, *self.octaves))
        self.up_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(n_up))

    @property
    def receptive_field(self) -> int:
        """Upper bound, LR pixels: no feature depends on pixels farther away. One for each 3×3 convolution in a row.

        Those after upsampling reach less than one LR pixel, all together.
        """
        in_blocks = sum(len(dense.convs) for block in self.blocks for dense in block)  # type: ignore
        return in_blocks + 2 + (1 if len(self.up_convs) > 0 else 0)

    def trunk(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Map the LR image (b, 3, h, w), in [0, 1], to ``last`` and the taps, both at its size."""
        dtype = self.compute_dtype
        outputs: list[Tensor] = []
        # The trunk's sums keep the precision of the parameters: rounding in 16 bits would add up over the blocks.
        x = self.conv_first(for_convolution(lr))
        for index, block in enumerate(self.blocks):
            x = checkpointed(block, self.checkpointing)(x, dtype)
            if index in self.taps:
                outputs.append(x if dtype is None else x.to(dtype))
        trunk = for_convolution(x, dtype)
        last = x + conv(trunk, self.trunk_conv.weight, self.trunk_conv.bias)
        return for_convolution(last, dtype), torch.cat(outputs, dim=1)

    def upsampled(self, x: Tensor, layer: nn.Conv2d) -> Tensor:
        """LeakyReLU of a 3×3 convolution of the 2× nearest upsampling of x."""
        return F.leaky_relu(conv_of_nearest(x, layer.weight, 2) + layer.bias[:, None, None].to(x.dtype), 0.2)  # type: ignore[index]

    def forward(self, condition: Tensor) -> FeaturePyramid:
        """Map the LR image (b, 3, h, w), in [0, 1], to features; h and w must be even enough for the coarsest level."""
        last, taps = self.trunk(condition)
        maps = {0: last}
        for octave, layer in enumerate(self.up_convs, start=1):
            maps[octave] = self.upsampled(maps[octave - 1], cast(nn.Conv2d, layer))
        for octave in range(-1, min((0, *self.octaves)) - 1, -1):
            maps[octave] = F.avg_pool2d(maps[octave + 1], 2)
        return FeaturePyramid(tuple(maps[o] for o in self.octaves), taps, tuple(2.0**o for o in self.octaves))


class RRDBNet(nn.Module):
    """The encoder with its image head, for L1 pretraining: LR (b, 3, h, w) → HR (b, 3, scale·h, scale·w).

    The flow never runs the head. Upsampling convolutions that the encoder lacks belong to the head.
    """

    def __init__(self, encoder: RRDB, scale: int) -> None:
        super().__init__()
        channels = encoder.native_channels
        n_missing = int(math.log2(scale)) - len(encoder.up_convs)
        self.encoder = encoder
        self.up_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(n_missing))
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, lr: Tensor) -> Tensor:
        """Super-resolve lr, in [0, 1]."""
        x, _ = self.encoder.trunk(lr)
        for layer in (*self.encoder.up_convs, *self.up_convs):
            x = self.encoder.upsampled(x, cast(nn.Conv2d, layer))
        x = F.leaky_relu(conv(x, self.conv_hr.weight, self.conv_hr.bias), 0.2)
        return conv(x.to(lr.dtype), self.conv_last.weight, self.conv_last.bias)
