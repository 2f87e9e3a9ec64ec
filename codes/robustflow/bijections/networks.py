"""Parameter networks: what couplings and injectors get their elementwise parameters from."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.nn.convolutions import add_shared, conv, flow_format, for_convolution, scale_kernel, scale_kernels


class ZeroConv(nn.Module):
    """3×3 convolution times exp(3·logs), all parameters zero at the start (Kingma & Dhariwal, Glow, 2018)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.logs = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, in_channels, h, w) to (b, out_channels, h, w)."""
        scale = torch.exp(3 * self.logs)
        return conv(x, scale_kernel(self.weight, scale), self.bias * scale)


def glow_kernel(out_channels: int, in_channels: int, size: int) -> nn.Parameter:
    """Kernel (out_channels, in_channels, size, size) drawn from N(0, 0.05²), as in Glow."""
    return nn.Parameter(0.05 * torch.randn(out_channels, in_channels, size, size))


# Kernels and biases of a ConvNetwork's three convolutions, ActNorms and the head's scale folded in.
NetworkWeights = tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor]


class FoldedNetworks(NamedTuple):
    """Weights of n networks; scale and shift, (n·hidden,), of the kernels by which they read their conditions."""

    scale: Tensor
    shift: Tensor
    networks: list[NetworkWeights]


# What a ConvNetwork needs besides x_a: the condition's part of its first convolution, (b, hidden, h, w), with the first
# ActNorm folded in if the weights are given (None: no condition), and its folded weights (None: it folds them itself).
Context = tuple[Tensor | None, NetworkWeights | None]


class ConvNetwork(nn.Module):
    """conv 3×3 → ActNorm → ReLU → conv 1×1 → ActNorm → ReLU → zero-initialised conv 3×3.

    The first convolution reads [x_a, condition]; being linear, it is split: this network owns the part that reads
    x_a, and gets the part that reads the condition, computed once for all steps of a level.

    Args:
        in_channels: Channels of x_a; 0 if the network reads the condition alone.
        hidden_channels: Width.
        out_channels: Elementwise parameters, num_params·c, the parameter index slowest.

    Attributes:
        compute_dtype: Precision of the convolutions; None: that of the parameters.
    """

    compute_dtype: torch.dtype | None = None

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = glow_kernel(hidden_channels, in_channels, 3) if in_channels > 0 else None
        self.norm_in = ActNorm(hidden_channels)
        self.conv_mid = glow_kernel(hidden_channels, hidden_channels, 1)
        self.norm_mid = ActNorm(hidden_channels)
        self.head = ZeroConv(hidden_channels, out_channels)

    def forward(self, x_a: Tensor | None, context: Context | Tensor | None) -> Tensor:
        """Map x_a (n·b, in_channels, h, w) and a context to (n·b, out, h, w); either may be absent.

        A tensor as context stands for features without weights.
        """
        x_a = None if x_a is None else for_convolution(x_a, self.compute_dtype)
        features, weights = context if isinstance(context, tuple) else (context, None)
        if weights is None:
            features, weights = self._fold(x_a, features)
        kernel, shift, middle, middle_shift, head, head_shift = weights
        first = _first(kernel, shift, x_a, features)
        hidden = F.relu(first, inplace=first is not features)
        hidden = F.relu(conv(hidden, middle, middle_shift), inplace=True)
        params = conv(hidden, head, head_shift)
        return params.to(self.head.bias.dtype, memory_format=flow_format(params))

    def _fold(self, x_a: Tensor | None, raw: Tensor | None) -> tuple[Tensor | None, NetworkWeights]:
        """Fold weights and features; before, let the ActNorms set themselves, if that is still to be done."""
        if self.training and not self.norm_mid.is_initialized():
            self._initialize(x_a, raw)
        scale, shift, (weights,) = fold_networks([self])
        return None if raw is None else (raw * scale[:, None, None] + shift[:, None, None]).to(raw.dtype), weights

    @torch.no_grad()
    def _initialize(self, x_a: Tensor | None, raw: Tensor | None) -> None:
        """Let both ActNorms set themselves."""
        first = _first(self.conv_in, None, x_a, raw)
        hidden = F.relu(self.norm_in(first)[0]).to(first.dtype)
        self.norm_mid.initialize_once(conv(hidden, self.conv_mid))


def _first(kernel: Tensor | None, shift: Tensor | None, x_a: Tensor | None, features: Tensor | None) -> Tensor:
    """The first convolution: the part that reads x_a, the features, which contain the shift, or their sum."""
    if x_a is not None and kernel is not None:
        return conv(x_a, kernel, shift) if features is None else add_shared(conv(x_a, kernel), features)
    if features is None:
        raise ValueError("expected x_a, context or both, got neither")
    return features


def fold_networks(networks: Sequence[ConvNetwork]) -> FoldedNetworks:
    """Fold ActNorms and the heads' scales into the convolutions of networks of one shape, all at once."""
    dtype, heads = networks[0].compute_dtype, [network.head for network in networks]
    scale, shift = _scale_and_shift([network.norm_in for network in networks])
    middle_scale, middle_shift = _scale_and_shift([network.norm_mid for network in networks])
    head_scale, head_shift = _scale_and_shift(heads, 3)
    own = [network.conv_in for network in networks if network.conv_in is not None]
    parts = (
        scale_kernels(own, scale, dtype) if own else [None] * len(networks),
        shift.unbind(),
        scale_kernels([network.conv_mid for network in networks], middle_scale, dtype),
        middle_shift.to(dtype).unbind(),
        scale_kernels([head.weight for head in heads], head_scale, dtype),
        head_shift.to(dtype).unbind(),
    )
    return FoldedNetworks(scale.flatten(), shift.flatten(), list(zip(*parts, strict=True)))


def _scale_and_shift(layers: Sequence[ActNorm] | Sequence[ZeroConv], power: float = 1) -> tuple[Tensor, Tensor]:
    """a = exp(power·logs) and a·bias, (n, channels): these layers multiply by a what they add their bias to."""
    scale = torch.exp(power * torch.stack([layer.logs for layer in layers]))
    return scale, scale * torch.stack([layer.bias for layer in layers])
