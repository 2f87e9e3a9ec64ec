"""The RRDB encoder of ESRGAN (Wang et al., ECCVW 2018), as SRFlow uses it."""

import math
from functools import cached_property
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.encoders.base import FeaturePyramid
from robustflow.encoders.blocks import BlockEncoder
from robustflow.nn.convolutions import conv, for_convolution
from robustflow.nn.nearest import Resized
from robustflow.registry import ENCODERS, Options


class RRDBEncoderOptions(Options):
    """The RRDB encoder has no options of its own; nf, nb, gc and the taps stand in ``network_G``."""

    type: Literal["RRDB"] = "RRDB"


@ENCODERS.register("RRDB", RRDBEncoderOptions)
class RRDBEncoder(BlockEncoder):
    """RRDB trunk at the size of the LR image, with maps at other sizes for the levels of a flow.

    ``last`` = output of the last block + trunk_conv of it, as in published flows; with ``residual_of_first`` the first
    convolution's output + that, as in ESRGAN. Levels finer than the LR image read 3×3 convolutions of the 2× nearest
    upsampling, activated; coarser ones 2×2 means of ``last``.

    Args:
        scale: Super-resolution factor, a power of two.
        n_levels: Levels of the flow; 0 for an encoder that is only pretrained.
        channels: Width nf.
        n_blocks: Residual blocks nb.
        growth: Growth channels gc of a dense block.
        taps: 0-based indices of the blocks whose outputs are shared features; None for ``default_taps``.

    Attributes:
        residual_of_first: See above.
    """

    residual_of_first: bool = False

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
        # Level l works at scale / 2^l times the LR size.
        self.octaves = tuple(int(math.log2(scale)) - level for level in range(1, n_levels + 1))
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.add_trunk(channels, n_blocks, growth, taps)
        n_up = max((0, *self.octaves))
        self.up_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(n_up))

    @cached_property
    def receptive_field(self) -> int:
        """Upper bound, LR pixels: no feature depends on pixels farther away. One for each 3×3 convolution in a row.

        Those after upsampling reach less than one LR pixel, all together.
        """
        return 1 + self.trunk_depth + (1 if len(self.up_convs) > 0 else 0)

    def trunk(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Map the LR image (b, 3, h, w), in [0, 1], to ``last`` and the taps, both at its size."""
        first = self.conv_first(for_convolution(lr))
        x, convolved, taps = self.through_trunk(first)
        return for_convolution((first if self.residual_of_first else x) + convolved, self.compute_dtype), taps

    def upsample(self, x: Tensor, layer: nn.Conv2d) -> Tensor:
        """LeakyReLU of a 3×3 convolution of the 2× nearest upsampling of x."""
        return F.leaky_relu(Resized(x, 2).conv(layer.weight) + layer.bias[:, None, None].to(x.dtype), 0.2)  # type: ignore[index]

    def forward(self, condition: Tensor) -> FeaturePyramid:
        """Map the LR image (b, 3, h, w), in [0, 1], to features; h and w must be even enough for the coarsest level."""
        last, taps = self.trunk(condition)
        maps = {0: last}
        for octave, layer in enumerate(self.up_convs, start=1):
            maps[octave] = self.upsample(maps[octave - 1], cast(nn.Conv2d, layer))
        for octave in range(-1, min((0, *self.octaves)) - 1, -1):
            maps[octave] = F.avg_pool2d(maps[octave + 1], 2)
        return FeaturePyramid(tuple(maps[o] for o in self.octaves), taps, tuple(2.0**o for o in self.octaves))


class RRDBNet(nn.Module):
    """The encoder with its image head, for L1 pretraining: LR (b, 3, h, w) → HR (b, 3, scale·h, scale·w).

    The flow never runs the head. Upsampling convolutions that the encoder lacks belong to the head.
    """

    def __init__(self, encoder: RRDBEncoder, scale: int) -> None:
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
            x = self.encoder.upsample(x, cast(nn.Conv2d, layer))
        x = F.leaky_relu(conv(x, self.conv_hr.weight, self.conv_hr.bias), 0.2)
        return conv(x.to(lr.dtype), self.conv_last.weight, self.conv_last.bias)
