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
        z, log_slope = self.elementwise(_part_samples(x, params), params)
        return _join_samples(z), sum_per_item(_join_samples(log_slope))

    def untransform(self, z: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Undo ``transform``; return x and log|det| of the inverse, (n·b,)."""
        x, log_slope = self.elementwise.inverse(_part_samples(z, params), params)
        return _join_samples(x), sum_per_item(_join_samples(log_slope))

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det|, (b,)."""
        return self.transform(x, self.parameters_for(cond))

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det| of the inverse, (b,)."""
        return self.untransform(z, self.parameters_for(cond))

    def inverse_bound(self) -> InverseBound | None:
        """That of the elementwise map."""
        return self.elementwise.inverse_bound()


# Of one sample, flattened and unflattened views have a stride by which torch takes channels last for planes.


def _part_samples(x: Tensor, params: Tensor) -> Tensor:
    """x (n·b, ...) as (n, b, ...), for params (b, ...)."""
    return x[None] if len(x) == len(params) else x.unflatten(0, (-1, len(params)))


def _join_samples(x: Tensor) -> Tensor:
    """x (n, b, ...) as (n·b, ...)."""
    return x.squeeze(0) if len(x) == 1 else x.flatten(0, 1)
