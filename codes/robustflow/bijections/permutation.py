"""Mixing of channels: learned invertible 1×1 convolutions and fixed random orthogonal ones."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustflow.bijections.base import Bijection, InverseBound


def random_rotation(channels: int) -> Tensor:
    """Random orthogonal matrix (channels, channels), float64, from torch's global generator."""
    q, r = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64))
    return q * r.diagonal().sign()


def mix_channels(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply matrix (c, c) to the channels of x, (b, c, *spatial).

    A matrix product, not a convolution: on recent GPUs convolutions round to ten bits (TF32) unless told otherwise.
    """
    return torch.matmul(matrix, x.flatten(2) if x.dim() > 2 else x[..., None]).view(x.shape)


class InvertibleConv(Bijection):
    """Learned 1×1 convolution z = W·x, initialised to a random rotation (Kingma & Dhariwal, Glow, 2018).

    W is inverted in float64. Without autograd, inverse and log-determinant are kept until W changes; in-place writes
    through ``weight.data`` are not seen.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(random_rotation(channels).to(torch.get_default_dtype()))
        self._kept: tuple[Any, Tensor, Tensor] | None = None

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det W| times the number of positions, (b,)."""
        _, log_det = self._inverse_and_log_det(inverse=False)
        return mix_channels(self.weight, x), self._per_item(log_det, x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x = W⁻¹·z and its log-determinant, (b,)."""
        inverse, log_det = self._inverse_and_log_det(inverse=True)
        return mix_channels(inverse, z), -self._per_item(log_det, z)

    def inverse_bound(self) -> InverseBound:
        """One over the smallest singular value of W."""
        return InverseBound(1 / float(torch.linalg.svdvals(self.weight.detach().double()).min()))

    def _inverse_and_log_det(self, inverse: bool) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and self.weight.requires_grad:
            weight = self.weight.double()
            matrix = torch.linalg.inv(weight) if inverse else weight
            return matrix.to(self.weight.dtype), torch.linalg.slogdet(weight)[1].to(self.weight.dtype)
        if self.weight.is_inference():
            return self._computed()
        state = (self.weight._version, self.weight.data_ptr(), self.weight.device, self.weight.dtype)
        if self._kept is None or self._kept[0] != state:
            # Usable in later calls outside inference mode, too.
            with torch.inference_mode(False):
                self._kept = (state, *self._computed())
        return self._kept[1], self._kept[2]

    def _computed(self) -> tuple[Tensor, Tensor]:
        weight = self.weight.detach().double()
        inverse, log_det = torch.linalg.inv(weight), torch.linalg.slogdet(weight)[1]
        return inverse.to(self.weight.dtype), log_det.to(self.weight.dtype)

    @staticmethod
    def _per_item(log_det: Tensor, x: Tensor) -> Tensor:
        return (log_det * x[0, 0].numel()).expand(x.shape[0])


class FixedOrthogonal(Bijection):
    """Fixed random orthogonal 1×1 convolution: the inverse is the transpose, the log-determinant 0.

    The matrix stays in float64 whatever the model's type and is rounded at use: a matrix rounded to float32 would be
    orthogonal to 1e-7 only.
    """

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", random_rotation(channels))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FixedOrthogonal":
        exact = self.weight
        super()._apply(fn, recurse)
        self.weight = exact.to(self.weight.device)
        return self

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and zeros (b,)."""
        return mix_channels(self.weight.to(x.dtype), x), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and zeros (b,)."""
        return mix_channels(self.weight.T.to(z.dtype), z), z.new_zeros(z.shape[0])

    def inverse_bound(self) -> InverseBound:
        """1: lengths are kept."""
        return InverseBound(1.0)
