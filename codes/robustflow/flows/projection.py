"""The features' part of the first convolutions of a level, for all its steps at once."""

from torch import Tensor, nn

from robustflow.bijections.networks import Context, FoldedNetworks, glow_kernel
from robustflow.nn.convolutions import conv, scale_kernel
from robustflow.nn.nearest import Resized


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

    def forward(self, native: Tensor, taps: Resized, steps: range, folded: FoldedNetworks | None) -> list[Context]:
        """Contexts of the networks of some steps, features (b, hidden, h, w).

        Args:
            native: Features at the level's size.
            taps: Resized to it.
            steps: Their numbers.
            folded: Weights of all steps' networks; None: as the kernels give it, for networks that fold themselves.
        """
        rows = slice(steps.start * self.hidden_channels, steps.stop * self.hidden_channels)
        own, of_taps, bias = self.native[rows], self.taps[rows], None
        if folded is not None:
            own, of_taps = (scale_kernel(kernel, folded.scale[rows]) for kernel in (own, of_taps))
            bias = folded.shift[rows]
        return share_out(conv(native, own, bias) + taps.conv(of_taps), steps, folded)


def share_out(projected: Tensor | None, steps: range, folded: FoldedNetworks | None) -> list[Context]:
    """Contexts of some steps' networks from their features, if any, which lie one behind the other in the channels."""
    features = [None] * len(steps) if projected is None else projected.chunk(len(steps), dim=1)
    networks = [None] * len(steps) if folded is None else folded.networks[steps.start : steps.stop]
    return list(zip(features, networks, strict=True))
