"""What an encoder is, and what it returns."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FeaturePyramid:
    """Features of a condition for every level of a flow.

    Attributes:
        native: Per level, finest first, a map (b, native_channels, h_l, w_l) at the level's resolution.
        taps: Block outputs (b, tap_channels, h, w) at the encoder's resolution, shared by all levels.
        factors: Per level, its resolution divided by that of the taps: 2, 1, 0.5 for 4x and three levels.
        mean: Mean of the last latent's prior, laid out as an image of the size of x, (b, channels of x, H, W); None:
            zero.
    """

    native: tuple[Tensor, ...]
    taps: Tensor
    factors: tuple[float, ...]
    mean: Tensor | None = None


class Encoder(nn.Module, ABC):
    """Feature extractor of the condition.

    Attributes:
        native_channels: Channels of each native map.
        tap_channels: Channels of the taps.
        compute_dtype: Precision of convolutions and features; None: that of the parameters.
        checkpointing: Whether to recompute activations in the backward pass instead of keeping them.
    """

    native_channels: int
    tap_channels: int
    compute_dtype: torch.dtype | None = None
    checkpointing: bool = False

    @cached_property
    def receptive_field(self) -> int | None:
        """Radius, pixels of the condition, beyond which no feature depends on it; None: not known, no exact tiles.

        A subclass may set it as well.
        """
        return None

    @abstractmethod
    def forward(self, condition: Tensor) -> FeaturePyramid:
        """Map the condition (b, c, h, w) to its features."""
