"""The RRDB encoder in the published style: dense concatenations, the image head run, features upsampled."""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from robustflow.flows import ConditionalFlow


class PlainEncoder:
    """Features of an LR image for every level, computed with the weights of a flow's encoder.

    The image head of RRDBNet, which the flow does not need and ours does not have, gets random weights; its result is
    discarded.

    Args:
        flow: Owns the weights.
    """

    def __init__(self, flow: ConditionalFlow) -> None:
        self.encoder = cast(Any, flow.encoder)
        octaves = int(math.log2(flow.scale))
        self.octaves = [octaves - number for number in range(1, len(flow.levels) + 1)]
        first = self.encoder.conv_first.weight
        generator = torch.Generator().manual_seed(0)
        n_missing = octaves - len(self.encoder.up_convs)
        channels = first.shape[0]
        widths = [channels] * (n_missing + 1) + [first.shape[1]]
        self.head = [
            (0.02 * torch.randn(width, channels, 3, 3, generator=generator)).to(first).requires_grad_()
            for width in widths
        ]

    def features(self, lr: Tensor) -> list[Tensor]:
        """Per level, finest first: native map and taps at the level's size, concatenated."""
        last, taps = self._trunk(lr)
        maps = {0: last}
        for octave, conv in enumerate(self.encoder.up_convs, start=1):
            maps[octave] = _upsampled(maps[octave - 1], conv.weight, conv.bias)
        self._image(maps[len(self.encoder.up_convs)])
        for octave in range(-1, min(self.octaves) - 1, -1):
            maps[octave] = F.interpolate(maps[octave + 1], scale_factor=0.5, mode="bilinear", align_corners=False)
        natives = [maps[octave] for octave in self.octaves]
        return [
            torch.cat([native, F.interpolate(taps, size=native.shape[-2:], mode="nearest")], dim=1)
            for native in natives
        ]

    def _trunk(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        x, outputs = _conv(self.encoder.conv_first, lr), []
        for index, block in enumerate(self.encoder.blocks):
            y = x
            for dense_block in block:
                y = _dense_block(dense_block.convs, y)
            x = y * 0.2 + x
            if index in self.encoder.taps:
                outputs.append(x)
        return x + _conv(self.encoder.trunk_conv, x), torch.cat(outputs, dim=1)

    def _image(self, x: Tensor) -> Tensor:
        """The image that RRDBNet makes of the finest map."""
        *up, hr, last = self.head
        for weight in up:
            x = _upsampled(x, weight, None)
        return F.conv2d(F.leaky_relu(F.conv2d(x, hr, padding=1), 0.2), last, padding=1)


def _conv(conv: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, padding=1)


def _dense_block(convs: Any, x: Tensor) -> Tensor:
    maps = [x]
    for conv in convs[:-1]:
        maps.append(F.leaky_relu(_conv(conv, torch.cat(maps, dim=1)), 0.2))
    return _conv(convs[-1], torch.cat(maps, dim=1)) * 0.2 + x


def _upsampled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.leaky_relu(F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1), 0.2)
