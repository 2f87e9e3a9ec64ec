"""The features' part of the first convolutions of a level, for all its steps at once."""

import torch
from torch import Tensor, nn

from robustflow.bijections.networks import conv, glow_kernel, scaled
from robustflow.encoders.nearest import Resized


class FeatureProjection(nn.Module):
    """First 3×3 convolution of ``n_networks`` parameter networks over [native, taps], as one convolution.

    A convolution is linear, so the part of it that reads the condition needs neither the flow's variables nor to be
    done once per step; the taps are never brought to the level's size (``Resized``).
    """

    def __init__(self, n_networks: int, hidden_channels: int, native_channels: int, tap_channels: int) -> None:
        super().__init__()
        self.hidden_channels = hidden_channels
        self.native = glow_kernel(n_networks * hidden_channels, native_channels, 3)
        self.taps = glow_kernel(n_networks * hidden_channels, tap_channels, 3)

    def forward(self, native: Tensor, taps: Resized, first: int, scales: list[Tensor]) -> tuple[Tensor, ...]:
        """Contexts (b, hidden, h, w) of the networks from ``first`` on, times ``scales``, one (hidden,) for each.

        ``taps``: Resized to the level's size.
        """
        rows = slice(first * self.hidden_channels, (first + len(scales)) * self.hidden_channels)
        scale = torch.cat(scales)
        projected = conv(native, scaled(self.native[rows], scale))
        projected = projected + taps.conv(scaled(self.taps[rows], scale))
        return projected.split(self.hidden_channels, dim=1)
