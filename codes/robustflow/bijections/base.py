"""The two contracts: a bijection of a whole tensor, and an elementwise map with parameters from a network."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn


class InverseBound(NamedTuple):
    """What sampling can do to a difference, whatever the input: ‖x₁ − x₂‖ ≤ factor·‖z₁ − z₂‖ + offset·√n.

    x₁, x₂ of n elements are the inverses of z₁, z₂ under the same elementwise parameters; how these parameters
    themselves follow z is not part of it.
    """

    factor: float
    offset: float = 0.0


class Bijection(nn.Module, ABC):
    """Invertible map of x (b, c, *spatial). Data to latent is ``forward``."""

    @abstractmethod
    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|, shape (b,), natural logarithm."""

    @abstractmethod
    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|, shape (b,), natural logarithm."""

    def inverse_bound(self) -> InverseBound | None:
        """What holds for the present weights and any input; None: nothing is known."""
        return None


class Elementwise(nn.Module, ABC):
    """Invertible scalar map y = c(x; params), the swap point of the couplings.

    ``params`` has shape (b, num_params, c, *spatial); ``x`` has shape (b, c, *spatial), or (n, b, c, *spatial) when
    n samples share the parameters. All-zero parameters, which is what an untrained network gives, must be harmless.
    """

    num_params: int

    @abstractmethod
    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|, both of the shape of x."""

    @abstractmethod
    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|, both of the shape of y."""

    def inverse_bound(self) -> InverseBound | None:
        """What holds for all parameters; None: no bound. A shift, which moves all points alike, does not count."""
        return None


def sum_per_item(log_slope: Tensor) -> Tensor:
    """Sum a (b, c, *spatial) map over all but the first dimension: (b,)."""
    return log_slope.sum(tuple(range(1, log_slope.dim())))
