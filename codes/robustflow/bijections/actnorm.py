"""Activation normalisation, initialised from the first training batch."""

from typing import Any

import torch
from torch import Tensor, nn

from robustflow.bijections.base import Bijection, InverseBound


class ActNorm(Bijection):
    """z = (x + b)·exp(logs) per channel (Kingma & Dhariwal, Glow, 2018).

    The first forward pass in training mode sets b = −mean, logs = −log(√var + 1e-6), var the biased variance, so
    that z has mean 0 and variance 1; the buffer ``initialized`` remembers it.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.logs = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialized", torch.tensor(False))
        # Once read as true it is not read again until ``train`` or other weights: a GPU would be waited for each time.
        self._known_initialized = False

    def is_initialized(self) -> bool:
        """Whether a batch, or ``mark_initialized``, has set bias and logs."""
        self._known_initialized = self._known_initialized or bool(self.initialized)
        return self._known_initialized

    def train(self, mode: bool = True) -> "ActNorm":
        """Set the mode."""
        self._known_initialized = False
        return super().train(mode)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._known_initialized = False

    def initialize_once(self, x: Tensor) -> None:
        """Set bias and logs from x (b, channels, *spatial), unless that is done already."""
        if self.is_initialized():
            return
        with torch.no_grad():
            values = x.transpose(0, 1).flatten(1)
            mean = values.mean(1)
            std = (values - mean[:, None]).square().mean(1).sqrt()
            self.bias.copy_(-mean)
            self.logs.copy_(-torch.log(std + 1e-6))
        self.mark_initialized()

    def mark_initialized(self) -> None:
        """Keep bias and logs as they are: no batch will set them."""
        self.initialized.fill_(True)
        self._known_initialized = True

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det|, (b,)."""
        if self.training:
            self.initialize_once(x)
        z = (x.movedim(1, -1) + self.bias) * torch.exp(self.logs)
        return z.movedim(-1, 1), self._log_det(x)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x = z·exp(−logs) − b and log|det| of the inverse, (b,)."""
        x = z.movedim(1, -1) * torch.exp(-self.logs) - self.bias
        return x.movedim(-1, 1), -self._log_det(z)

    def inverse_bound(self) -> InverseBound:
        """The largest exp(−logs)."""
        return InverseBound(float(torch.exp(-self.logs.detach().double().min())))

    def _log_det(self, x: Tensor) -> Tensor:
        return (self.logs.sum() * x[0, 0].numel()).expand(x.shape[0])
