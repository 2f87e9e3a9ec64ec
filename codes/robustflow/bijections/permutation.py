"""Mixing of channels: learned invertible 1×1 convolutions and fixed random orthogonal ones."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.bijections.base import Bijection


def random_rotation(channels: int) -> Tensor:
    """Random orthogonal matrix (channels, channels), float32, from torch's global generator."""
    q, r = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


def mix_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply matrix (c, c) to the channels of x, (b, c) or (b, c, h, w)."""
    if x.dim() == 4:
        return F.conv2d(x, matrix[:, :, None, None])
    return F.linear(x, matrix)


class InvertibleConv(Bijection):
    """Learned 1×1 convolution z = W·x, initialised to a random rotation (Kingma & Dhariwal, Glow, 2018).

    W is inverted in float64. Without autograd, inverse and log-determinant are kept until W changes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(random_rotation(channels))
        self._kept: tuple[Any, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det W| times the number of positions, (b,)."""
        _, log_det = self._inverse_and_log_det(inverse=False)
        return mix_channels(self.weight, x), self._per_item(log_det, x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x = W⁻¹·z and its log-determinant, (b,)."""
        inverse, log_det = self._inverse_and_log_det(inverse=True)
        return mix_channels(inverse, z), -self._per_item(log_det, z)

    def _inverse_and_log_det(self, inverse: bool) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and self.weight.requires_grad:
            weight = self.weight.double()
            matrix = torch.linalg.inv(weight) if inverse else weight
            return matrix.to(self.weight.dtype), torch.linalg.slogdet(weight)[1].to(self.weight.dtype)
        state = (self.weight._version, self.weight.data_ptr(), self.weight.device, self.weight.dtype)
        if self._kept is None or self._kept[0] != state:
            weight = self.weight.detach().double()
            values = torch.linalg.inv(weight), torch.linalg.slogdet(weight)[1]
            self._kept = (state, values[0].to(self.weight.dtype), values[1].to(self.weight.dtype))
        return self._kept[1], self._kept[2]

    @staticmethod
    def _per_item(log_det: Tensor, x: Tensor) -> Tensor:
        return (log_det * x[0, 0].numel()).expand(x.shape[0])


class FixedOrthogonal(Bijection):
    """Fixed random orthogonal 1×1 convolution: the inverse is the transpose, the log-determinant 0."""

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", random_rotation(channels))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and zeros (b,)."""
        return mix_channels(self.weight, x), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and zeros (b,)."""
        return mix_channels(self.weight.T, z), z.new_zeros(z.shape[0])
