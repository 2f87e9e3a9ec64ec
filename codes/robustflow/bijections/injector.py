"""Injector: every channel is mapped, with parameters from the condition alone."""

from typing import Any

from torch import Tensor, nn

from robustflow.bijections.base import Bijection, Elementwise, InverseBound, sum_per_item


class Injector(Bijection):
    """x → c(x; network(cond)) (Lugmayr et al., SRFlow, ECCV 2020).

    The parameters depend on the condition only, so ``parameters_for`` can be called once and its result given to
    ``transform`` and ``untransform`` for any number of samples.

    Args:
        elementwise: The map c.
        network: Called as network(None, cond), returns (b, num_params·c, *spatial), parameter index slowest.
    """

    def __init__(self, elementwise: Elementwise, network: nn.Module) -> None:
        super().__init__()
        self.elementwise = elementwise
        self.network = network

    def parameters_for(self, cond: Any) -> Tensor:
        """Return the elementwise parameters (b, num_params, c, *spatial) of a condition."""
        return self.network(None, cond).unflatten(1, (self.elementwise.num_params, -1))

    def transform(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (n·b, c, *spatial), sample-major, with params of batch b; return z and log|det|, (n·b,)."""
        z, log_slope = self.elementwise(x.unflatten(0, (-1, params.shape[0])), params)
        return z.flatten(0, 1), sum_per_item(log_slope.flatten(0, 1))

    def untransform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Undo ``transform``; return x and log|det| of the inverse, (n·b,)."""
        x, log_slope = self.elementwise.inverse(z.unflatten(0, (-1, params.shape[0])), params)
        return x.flatten(0, 1), sum_per_item(log_slope.flatten(0, 1))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det|, (b,)."""
        return self.transform(x, self.parameters_for(cond))

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det| of the inverse, (b,)."""
        return self.untransform(z, self.parameters_for(cond))

    def inverse_bound(self) -> InverseBound | None:
        """That of the elementwise map."""
        return self.elementwise.inverse_bound()
