"""The conditional encoder of LLFlow (Wang et al., AAAI 2022), for low-light images."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.encoders.base import FeaturePyramid
from robustflow.encoders.blocks import BlockEncoder
from robustflow.nn.convolutions import conv, for_convolution
from robustflow.registry import ENCODERS, Options
from robustflow.utils.errors import UserError


class LowLightOptions(Options):
    """LLFlow's encoder has no options of its own; nf, nb, gc and the taps stand in ``network_G``."""

    type: Literal["low_light"] = "low_light"

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """The prior mean is that of all channels: none may be factored out before."""
        if root.network_G.flow.n_splits > 0:
            yield (
                "network_G.flow.split.enable",
                "expected false: the low_light encoder gives the mean of one latent that holds all channels",
            )


def chromaticity(image: Tensor) -> Tensor:
    """Colour map x/(Σ_c x + 1e-4) of an image (b, 3, h, w), non-negative: what is left of it without brightness."""
    return image / (image.sum(dim=1, keepdim=True) + 1e-4)


def edges(x: Tensor) -> Tensor:
    """Larger of |∂x| and |∂y| of each channel of x (b, c, h, w): central differences, 0 beyond the border."""
    padded = F.pad(x, (1, 1, 1, 1))
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return 0.5 * torch.maximum(across.abs(), down.abs())


@ENCODERS.register("low_light", LowLightOptions)
class LowLightEncoder(BlockEncoder):
    """Trunk at half the size of the image, coarser maps for the levels of a flow, and a colour map: the prior mean.

    Input: 6 channels at the size of x: the logarithm of the image, and the image equalised, in [0, 1]. Its colour map
    C = r/(Σ_c r + 1e-4), r the exponential of the former, and the edges of C (noise, mostly) join them:

        head = maxpool(conv_second(LeakyReLU(conv_first([input, C, edges]))));  down_1 = head + trunk_conv(last block)
        down_l = LeakyReLU(conv(½ down_{l−1})), the coarsest not activated;  mean = sigmoid(1×1 conv(2× down_1))

    ½ is the mean of 2×2, 2× the nearest neighbour. Level l reads down_l.

    Args:
        scale: 1: condition and data are of one size.
        n_levels: Levels of the flow.
        channels: Width nf.
        n_blocks: Residual blocks nb.
        growth: Growth channels gc of a dense block.
        taps: 0-based indices of the blocks whose outputs are shared features; None for ``default_taps``.

    Raises:
        UserError: The scale is another one.
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
        if scale != 1:
            raise UserError(f"network_G.encoder: low_light needs scale: 1, got {scale}; use RRDB for super-resolution")
        self.conv_first = nn.Conv2d(12, channels, 3, padding=1)
        self.conv_second = nn.Conv2d(channels, channels, 3, padding=1)
        self.add_trunk(channels, n_blocks, growth, taps)
        self.down_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(n_levels - 1))
        self.color_head = nn.Conv2d(channels, 3, 1)

    @cached_property
    def receptive_field(self) -> int:
        """Upper bound, pixels: no feature depends on pixels farther away.

        A 3×3 convolution at 1/2^l of the size reaches 2^l pixels. What is read are whole blocks of the coarsest map.
        """
        coarser = sum(2 ** (2 + k) for k in range(len(self.down_convs)))
        own_block = 2 ** (1 + len(self.down_convs)) - 1
        return 3 + 2 * self.trunk_depth + coarser + own_block

    def forward(self, condition: Tensor) -> FeaturePyramid:
        """Map (b, 6, h, w), see the class, to features; h and w must be even enough for the coarsest level."""
        dtype = self.compute_dtype
        colors = chromaticity(condition[:, :3].exp())
        seen = for_convolution(torch.cat([condition, colors, edges(colors)], dim=1))
        x = for_convolution(F.leaky_relu(self.conv_first(seen), 0.2), dtype)
        head = F.max_pool2d(conv(x, self.conv_second.weight, self.conv_second.bias), 2).to(seen.dtype)
        _, convolved, taps = self.through_trunk(for_convolution(head))
        down = for_convolution(head + convolved)
        mean = F.interpolate(torch.sigmoid(self.color_head(down)), scale_factor=2, mode="nearest")
        native = self._pyramid(for_convolution(down, dtype))
        return FeaturePyramid(native, taps, tuple(0.5**k for k in range(len(native))), mean)

    def _pyramid(self, down: Tensor) -> tuple[Tensor, ...]:
        maps = [down]
        for layer in self.down_convs:
            layer = cast(nn.Conv2d, layer)
            coarser = conv(F.avg_pool2d(maps[-1], 2), layer.weight, layer.bias)
            is_last = len(maps) == len(self.down_convs)
            maps.append(coarser if is_last else F.leaky_relu(coarser, 0.2))
        return tuple(maps)
