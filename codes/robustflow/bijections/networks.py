"""Parameter networks: what couplings and injectors get their elementwise parameters from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm


def add_shared(x: Tensor, shared: Tensor) -> Tensor:
    """Add shared (b, ...) to x (n·b, ...), sample-major: every one of the n samples gets the same addend."""
    if x.shape[0] == shared.shape[0]:
        return x + shared
    return (x.unflatten(0, (-1, shared.shape[0])) + shared).flatten(0, 1)


class ZeroConv(nn.Module):
    """3×3 convolution times exp(3·logs), all parameters zero at the start (Kingma & Dhariwal, Glow, 2018)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.logs = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, in_channels, h, w) to (b, out_channels, h, w)."""
        # Scaling the kernel instead of the output is the same sum, with one pass over the output less.
        scale = torch.exp(3 * self.logs)
        return F.conv2d(x, self.weight * scale[:, None, None, None], self.bias * scale, padding=1)


def glow_kernel(out_channels: int, in_channels: int, size: int) -> nn.Parameter:
    """Kernel (out_channels, in_channels, size, size) drawn from N(0, 0.05²), as in Glow."""
    return nn.Parameter(0.05 * torch.randn(out_channels, in_channels, size, size))


class ConvNetwork(nn.Module):
    """conv 3×3 → ActNorm → ReLU → conv 1×1 → ActNorm → ReLU → zero-initialised conv 3×3.

    The first convolution reads [x_a, condition]; being linear, it is split: this network owns the part that reads
    x_a, and ``context`` is the part that reads the condition, computed once for all steps of a level.

    Args:
        in_channels: Channels of x_a; 0 if the network reads the condition alone.
        hidden_channels: Width.
        out_channels: Elementwise parameters, num_params·c, the parameter index slowest.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = glow_kernel(hidden_channels, in_channels, 3) if in_channels > 0 else None
        self.norm_in = ActNorm(hidden_channels)
        self.conv_mid = glow_kernel(hidden_channels, hidden_channels, 1)
        self.norm_mid = ActNorm(hidden_channels)
        self.head = ZeroConv(hidden_channels, out_channels)

    def forward(self, x_a: Tensor | None, context: Tensor | None) -> Tensor:
        """Map x_a (n·b, in_channels, h, w) and context (b, hidden, h, w), either may be absent, to (n·b, out, h, w)."""
        hidden = self.norm_in.normalize(self._first(x_a, context))
        hidden = self.norm_mid.normalize(F.conv2d(F.relu(hidden), self.conv_mid))
        return self.head(F.relu(hidden))

    def _first(self, x_a: Tensor | None, context: Tensor | None) -> Tensor:
        if x_a is None or self.conv_in is None:
            if context is None:
                raise ValueError("expected x_a, context or both, got neither")
            return context
        hidden = F.conv2d(x_a, self.conv_in, padding=1)
        return hidden if context is None else add_shared(hidden, context)
