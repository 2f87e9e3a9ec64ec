"""Residual-in-residual dense blocks (Wang et al., ESRGAN, ECCVW 2018): the trunk of the encoders."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.bijections.networks import conv, for_convolution
from robustflow.checkpointing import checkpointed
from robustflow.encoders.base import Encoder


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


class BlockEncoder(Encoder):
    """An encoder whose trunk is residual blocks and a 3×3 convolution.

    Attributes:
        taps: 0-based indices of the blocks whose outputs are shared features.
    """

    def add_trunk(self, channels: int, n_blocks: int, growth: int, taps: tuple[int, ...] | None) -> None:
        """Make the trunk, after the layers before it: weights are drawn in this order.

        Args:
            channels: Width nf.
            n_blocks: Residual blocks nb.
            growth: Growth channels gc of a dense block.
            taps: See the class; None for ``default_taps``.
        """
        self.taps = default_taps(n_blocks) if taps is None else taps
        self.native_channels, self.tap_channels = channels, channels * len(self.taps)
        self.blocks = nn.ModuleList(ResidualBlock(channels, growth) for _ in range(n_blocks))
        self.trunk_conv = nn.Conv2d(channels, channels, 3, padding=1)

    @property
    def trunk_depth(self) -> int:
        """3×3 convolutions of the trunk, in a row."""
        return 1 + sum(len(dense.convs) for block in self.blocks for dense in block)  # type: ignore

    def through_trunk(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the blocks one after the other, and the convolution.

        Args:
            x: (b, channels, h, w). The sums keep its precision: rounding in 16 bits would add up over the blocks.

        Returns:
            The last block's output; the convolution of it; the outputs of ``taps`` concatenated, (b, tap_channels, h,
            w). The last two in the precision of convolutions.
        """
        outputs: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x = checkpointed(block, self.checkpointing)(x, self.compute_dtype)
            if index in self.taps:
                outputs.append(x if self.compute_dtype is None else x.to(self.compute_dtype))
        convolved = conv(for_convolution(x, self.compute_dtype), self.trunk_conv.weight, self.trunk_conv.bias)
        return x, convolved, torch.cat(outputs, dim=1)
