"""Coupling layer: half of the channels pass and choose how the other half is mapped."""

from typing import Any

import torch
from torch import Tensor, nn

from robustflow.bijections.base import Bijection, Elementwise, InverseBound, sum_per_item


class Coupling(Bijection):
    """[x_a, x_b] → [x_a, c(x_b; network(x_a, cond))] (Dinh et al., RealNVP, 2017).

    Args:
        elementwise: The map c.
        network: Takes x_a and the context, returns parameters (b, num_params·c_b, *spatial), parameter index slowest.
        kept_channels: Channels of x_a, the first ones.
    """

    def __init__(self, elementwise: Elementwise, network: nn.Module, kept_channels: int) -> None:
        super().__init__()
        self.elementwise = elementwise
        self.network = network
        self.kept_channels = kept_channels

    def _split(self, x: Tensor, cond: Any) -> tuple[Tensor, Tensor, Tensor]:
        """x_a, x_b and the parameters of c."""
        x_a, x_b = x.split([self.kept_channels, x.shape[1] - self.kept_channels], dim=1)
        return x_a, x_b, self.network(x_a, cond).unflatten(1, (self.elementwise.num_params, -1))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det|, (b,)."""
        x_a, x_b, params = self._split(x, cond)
        z_b, log_slope = self.elementwise(x_b, params)
        return torch.cat([x_a, z_b], dim=1), sum_per_item(log_slope)

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det| of the inverse, (b,)."""
        z_a, z_b, params = self._split(z, cond)
        x_b, log_slope = self.elementwise.inverse(z_b, params)
        return torch.cat([z_a, x_b], dim=1), sum_per_item(log_slope)

    def inverse_bound(self) -> InverseBound | None:
        """That of the elementwise map, or 1 for the half that passes if that is more."""
        bound = self.elementwise.inverse_bound()
        return None if bound is None else bound._replace(factor=max(1.0, bound.factor))
