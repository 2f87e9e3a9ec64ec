"""Space-to-depth."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from robustflow.bijections.base import Bijection


class Squeeze(Bijection):
    """(b, c, h, w) → (b, 4c, h/2, w/2), channels in the order of ``pixel_unshuffle``; log-determinant 0."""

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return the squeezed map and zeros (b,)."""
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return the unsqueezed map and zeros (b,)."""
        return F.pixel_shuffle(z, 2), z.new_zeros(z.shape[0])
