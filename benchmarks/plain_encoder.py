"""The encoders in the published style: dense concatenations, features upsampled, the image head run."""

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Per level, finest first, the level's own map; block outputs; mean of the last latent's prior, an image, if any.
Features = tuple[list[Tensor], Tensor, Tensor | None]


class PlainEncoder:
    """Features of a condition for every level, from tensors under their published names.

    Args:
        tensors: Those named ``RRDB.*``.
        taps: 0-based indices of the blocks whose outputs are shared features.
    """

    def __init__(self, tensors: Mapping[str, Tensor], taps: Sequence[int]) -> None:
        self.tensors, self.taps = tensors, taps
        self.is_low_light = "RRDB.conv_second.weight" in tensors

    def features(self, y: Tensor, scale: int, n_levels: int) -> Features:
        """Features of y: (b, 3, h, w), or (b, 6, h, w) for the low-light encoder."""
        return self._low_light(y, n_levels) if self.is_low_light else self._rrdb(y, scale, n_levels)

    def image(self, lr: Tensor, scale: int) -> Tensor:
        """The image (b, 3, H, W) that the RRDB network makes by itself of lr (b, 3, h, w)."""
        maps, _ = self._upsampled_maps(lr, scale)
        return self._image(maps[-1])

    def _rrdb(self, lr: Tensor, scale: int, n_levels: int) -> Features:
        """Maps at half the size of HR, a quarter, and so on; the image is made as well, and discarded."""
        maps, taps = self._upsampled_maps(lr, scale)
        self._image(maps[-1])
        while len(maps) <= n_levels:
            maps.insert(0, _half(maps[0]))
        return maps[-2 : -2 - n_levels : -1], taps, None

    def _upsampled_maps(self, lr: Tensor, scale: int) -> tuple[list[Tensor], Tensor]:
        """From the size of LR to that of HR; and the taps."""
        x, taps = self._trunk(self._conv("conv_first", lr))
        maps = [x + self._conv("trunk_conv", x)]
        for octave in range(1, scale.bit_length()):
            maps.append(self._upsampled(f"upconv{octave}", maps[-1]))
        return maps, taps

    def _image(self, x: Tensor) -> Tensor:
        return self._conv("conv_last", F.leaky_relu(self._conv("HRconv", x), 0.2))

    def _low_light(self, y: Tensor, n_levels: int) -> Features:
        r = torch.exp(y[:, :3])
        colors = r / (r.sum(1, keepdim=True) + 1e-4)
        x = F.leaky_relu(self._conv("conv_first", torch.cat([y, colors, _edges(colors)], dim=1)), 0.2)
        head = F.max_pool2d(self._conv("conv_second", x), 2)
        x, taps = self._trunk(head)
        maps = [head + self._conv("trunk_conv", x)]
        name = "RRDB.fine_tune_color_map.0."
        mean = torch.sigmoid(F.conv2d(_double(maps[0]), self.tensors[f"{name}weight"], self.tensors[f"{name}bias"]))
        for number in range(1, n_levels):
            x = self._conv(f"downconv{number}", _half(maps[-1]))
            maps.append(F.leaky_relu(x, 0.2) if number < n_levels - 1 else x)
        return maps, taps, mean

    def _trunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last block's output; those of ``taps`` concatenated."""
        outputs: list[Tensor] = []
        for index in itertools.count():
            if f"RRDB.RRDB_trunk.{index}.RDB1.conv1.weight" not in self.tensors:
                return x, torch.cat([outputs[tap] for tap in self.taps], dim=1)
            y = x
            for number in (1, 2, 3):
                y = self._dense_block(f"RRDB_trunk.{index}.RDB{number}.conv", y)
            x = y * 0.2 + x
            outputs.append(x)
        raise AssertionError("counting ends only by returning")

    def _dense_block(self, name: str, x: Tensor) -> Tensor:
        maps = [x]
        for number in range(1, 5):
            maps.append(F.leaky_relu(self._conv(f"{name}{number}", torch.cat(maps, dim=1)), 0.2))
        return self._conv(f"{name}5", torch.cat(maps, dim=1)) * 0.2 + x

    def _upsampled(self, name: str, x: Tensor) -> Tensor:
        return F.leaky_relu(self._conv(name, _double(x)), 0.2)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return F.conv2d(x, self.tensors[f"RRDB.{name}.weight"], self.tensors[f"RRDB.{name}.bias"], padding=1)


def _edges(x: Tensor) -> Tensor:
    """max(|∂x|, |∂y|) per channel: central differences, a missing neighbour counting as 0."""
    kernel = torch.tensor([-0.5, 0.0, 0.5]).to(x).expand(x.shape[1], 1, 1, 3)
    across = F.conv2d(x, kernel, padding=(0, 1), groups=x.shape[1])
    down = F.conv2d(x, kernel.mT, padding=(1, 0), groups=x.shape[1])
    return torch.maximum(across.abs(), down.abs())


def _half(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
