"""Mixing of channels: learned invertible 1×1 convolutions and fixed random orthogonal ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustflow.bijections.base import Bijection, InverseBound
from robustflow.nn.convolutions import mix_channels


def random_rotation(channels: int) -> Tensor:
    """Random orthogonal matrix (channels, channels), float64, from torch's global generator."""
    # Not nn.init.orthogonal_, the same numbers in rows: gradients come in columns, as QR does, and would be copied.
    q, r = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
    return q * r.diagonal().sign()


class Permutation(Bijection):
    """1×1 convolution z = W·x, ``weight`` (c, c). What costs most is done for stacks of matrices (..., c, c), too."""

    weight: Tensor

    @staticmethod
    def invert_weights(weights: Tensor) -> Tensor:
        """W⁻¹ of each, in float64."""
        return torch.linalg.inv(weights.double())

    @staticmethod
    def log_abs_det(weights: Tensor) -> Tensor:
        """log|det W| of each, (...), in float64."""
        matrices, channels = weights.double(), weights.shape[-1]
        if not weights.is_cuda or weights.dim() == 2 or channels <= 16:
            return torch.linalg.slogdet(matrices)[1]
        # More at once, or larger ones, torch gives to MAGMA, for which the host waits until the device is idle (ATen's
        # BatchLinearAlgebra.cpp, lu_factor); no debug mode of torch tells.
        parts = matrices.split(16 if channels <= 128 else 1)
        return torch.cat([torch.linalg.slogdet(part)[1] for part in parts])

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det W| times the number of positions, (b,)."""
        return mix_channels(x, self.weight.to(x.dtype)), self._log_det(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x = W⁻¹·z and its log-determinant, (b,)."""
        return mix_channels(z, self.invert_weights(self.weight).to(z.dtype)), -self._log_det(z)

    def _log_det(self, x: Tensor) -> Tensor:
        return (self.log_abs_det(self.weight).to(x.dtype) * x[0, 0].numel()).expand(x.shape[0])

    def inverse_bound(self) -> InverseBound:
        """One over the smallest singular value of W."""
        return InverseBound(1 / float(torch.linalg.svdvals(self.weight.detach().double()).min()))


class InvertibleConv(Permutation):
    """Learned 1×1 convolution, initialised to a random rotation (Kingma & Dhariwal, Glow, 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(random_rotation(channels).to(torch.get_default_dtype()))


class FixedOrthogonal(Permutation):
    """Fixed random orthogonal 1×1 convolution: the inverse is the transpose, the log-determinant 0.

    The matrix stays in float64 whatever the model's type and is rounded at use: a matrix rounded to float32 would be
    orthogonal to 1e-7 only.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", random_rotation(channels))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FixedOrthogonal":
        exact = self.weight
        super()._apply(fn, recurse)
        self.weight = exact.to(self.weight.device)
        return self

    @staticmethod
    def invert_weights(weights: Tensor) -> Tensor:
        """The transposes."""
        return weights.mT

    @staticmethod
    def log_abs_det(weights: Tensor) -> Tensor:
        """Zeros, (...)."""
        return weights.new_zeros(weights.shape[:-2])

    def inverse_bound(self) -> InverseBound:
        """1: lengths are kept."""
        return InverseBound(1.0)
