"""The toy's flow: the bijections of the image models on vectors, with a fully connected parameter network."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.base import Bijection, Elementwise
from robustflow.bijections.coupling import Coupling
from robustflow.bijections.permutation import InvertibleConv
from robustflow.flows.prior import standard_normal_log_prob

DIMENSIONS = 2
# Of each step, data to latent.
PARTS = ("ActNorm", "1×1", "coupling")


class FullyConnected(nn.Module):
    """[x_a, y] → ReLU layers → elementwise parameters; the last layer is zero at the start.

    Args:
        in_channels: Of x_a and y together.
        hidden_channels: Width.
        hidden_layers: Their number.
        out_channels: Elementwise parameters, num_params·c, the parameter index slowest.
    """

    def __init__(self, in_channels: int, hidden_channels: int, hidden_layers: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for pair in itertools.pairwise([in_channels] + [hidden_channels] * hidden_layers):
            self.layers.extend([nn.Linear(*pair), nn.ReLU()])
        head = nn.Linear(hidden_channels, out_channels)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.layers.append(head)

    def forward(self, x_a: Tensor, cond: Tensor) -> Tensor:
        """Map x_a (b, c_a) and y (b, c_y) to (b, out_channels)."""
        parameters: Tensor = self.layers(torch.cat([x_a, cond], dim=1))
        return parameters


class ToyFlow(Bijection):
    """Steps of ActNorm → 1×1 → coupling on points (b, 2), given y (b, 2) (Hong et al., ICCV 2023, supplement S1.2).

    Args:
        elementwise: Called once for each coupling.
        steps: Flow steps.
        hidden_channels: Width of the parameter networks.
        hidden_layers: Hidden layers of the parameter networks.
    """

    def __init__(
        self, elementwise: Callable[[], Elementwise], steps: int, hidden_channels: int, hidden_layers: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.names = [f"{part} {step + 1}" for step in range(steps) for part in PARTS]
        for _ in range(steps):
            c = elementwise()
            network = FullyConnected(1 + DIMENSIONS, hidden_channels, hidden_layers, c.num_params)
            self.layers.extend([ActNorm(DIMENSIONS), InvertibleConv(DIMENSIONS), Coupling(c, network, 1)])

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det|, (b,); ``cond`` is y."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x, cond)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det| of the inverse, (b,); ``cond`` is y."""
        total = z.new_zeros(len(z))
        for layer in reversed(self.layers):
            z, log_det = layer.inverse(z, cond)  # type: ignore[operator]
            total = total + log_det
        return z, total

    def trace(self, z: Tensor, cond: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Sample, giving each layer's name and what leaves it, (b, 2); the last one is x."""
        for name, layer in zip(reversed(self.names), reversed(self.layers), strict=True):
            z, _ = layer.inverse(z, cond)  # type: ignore[operator]
            yield name, z

    def log_prob(self, x: Tensor, cond: Tensor) -> Tensor:
        """log p(x | y) in nats, (b,)."""
        z, log_det = self(x, cond)
        return standard_normal_log_prob(z) + log_det
