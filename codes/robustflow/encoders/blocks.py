"""Residual-in-residual dense blocks (Wang et al., ESRGAN, ECCVW 2018): the trunk of the encoders."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.encoders.base import Encoder
from robustflow.nn.checkpointing import recompute
from robustflow.nn.convolutions import autocast_dtype, conv, for_convolution
from robustflow.nn.derivatives import once_differentiable


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
        # All in one type, as the hand-written gradient takes them: of x alone autocast would keep its own.
        seen = for_convolution(x, autocast_dtype(x) or dtype)
        layers = [(layer.weight.to(seen.dtype), layer.bias.to(seen.dtype)) for layer in self.convs]
        return torch.add(x, _DenseConvs.apply(seen, *itertools.chain(*layers)), alpha=0.2)


class _DenseConvs(torch.autograd.Function):
    """3×3 convolutions, each of all maps before it concatenated, LeakyReLU 0.2 between them.

    Keeps the maps, not their concatenations; gradients by the maps are added up where they lie.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *layers: Tensor) -> Tensor:
        kernels, biases, maps = layers[::2], layers[1::2], [x]
        for kernel, bias in zip(kernels, biases, strict=True):
            if len(maps) > 1:
                F.leaky_relu(maps[-1], 0.2, inplace=True)
            maps.append(F.conv2d(_join(maps), kernel, bias, padding=1))
        ctx.save_for_backward(*kernels, *maps[:-1])
        return maps[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        n = len(saved) // 2
        kernels, maps = saved[:n], saved[n:]
        geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, not transposed, groups
        of_layers: list[Tensor] = []
        of_maps: Tensor | None = None
        for k in reversed(range(n)):
            if of_maps is not None:
                own = of_maps[:, -maps[k + 1].shape[1] :]
                grad = torch.ops.aten.leaky_relu_backward(own, maps[k + 1], 0.2, True)
            whole, bias = _join(maps[: k + 1]), [kernels[k].shape[0]]
            of_inputs, *of_layer = torch.ops.aten.convolution_backward(
                grad, whole, kernels[k], bias, *geometry, [True, True, True]
            )
            of_maps = of_inputs if of_maps is None else of_inputs.add_(of_maps[:, : whole.shape[1]])
            of_layers = [*of_layer, *of_layers]
        return of_maps, *of_layers


def _join(maps: Sequence[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), dim=1)


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
        """Make the trunk, after the layers before it: weights are drawn in this order. Arguments: see `RRDBEncoder`."""
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
            x = recompute(block, self.checkpointing)(x, self.compute_dtype)
            if index in self.taps:
                outputs.append(x if self.compute_dtype is None else x.to(self.compute_dtype))
        convolved = conv(for_convolution(x, self.compute_dtype), self.trunk_conv.weight, self.trunk_conv.bias)
        return x, convolved, torch.cat(outputs, dim=1)
