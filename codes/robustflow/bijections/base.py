"""The two contracts: a bijection of a whole tensor, and an elementwise map with parameters from a network."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustflow.bijections import fused


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


Partials = tuple[Tensor, Tensor, list[tuple[Tensor | float, Tensor | float]]]


class AnalyticElementwise(Elementwise):
    """Elementwise map with a hand-written derivative: autograd keeps x and params only, no intermediate.

    A subclass gives the map, its inverse and its first derivatives; both directions are differentiated from these,
    the inverse by the implicit function theorem. Each is one pass over memory (``fused``). Second derivatives are not
    supported.
    """

    @property
    @abstractmethod
    def constants(self) -> tuple[Hashable, ...]:
        """All that the map depends on besides x and its parameters; maps that agree in it share compiled code."""

    @abstractmethod
    def evaluate(self, x: Tensor, *p: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and l = log|dy/dx| for parameters ``p`` (each broadcastable to x)."""

    @abstractmethod
    def invert(self, y: Tensor, *p: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|."""

    @abstractmethod
    def partials(self, x: Tensor, *p: Tensor) -> Partials:
        """Return dy/dx, dl/dx and, for each parameter, (dy/dp, dl/dp)."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|, both of the shape of x."""
        return self._apply_flat(_Forward, x, params)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|, both of the shape of y."""
        return self._apply_flat(_Inverse, y, params)

    def _apply_flat(self, function: type[torch.autograd.Function], x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Apply with x as (n, b, k) and params as (b, num_params, k), whatever their shapes."""
        batch = params.shape[0]
        shared = x.dim() == params.dim()  # (n, b, c, ...) beside (b, num_params, c, ...)
        flat = x.reshape(x.shape[0] if shared else 1, batch, -1)
        first, second = function.apply(flat, params.reshape(batch, self.num_params, -1), self)
        return first.view(x.shape), second.view(x.shape)

    def _run(self, chain: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        return fused.run(chain, (type(self), chain.__name__, self.constants), *inputs)

    def _evaluated(self, x: Tensor, params: Tensor) -> tuple[Tensor, ...]:
        return self.evaluate(x, *params.unbind(1))

    def _inverted(self, y: Tensor, params: Tensor) -> tuple[Tensor, ...]:
        return self.invert(y, *params.unbind(1))

    def _backward_of_forward(self, x: Tensor, params: Tensor, grad_y: Tensor, grad_l: Tensor) -> tuple[Tensor, ...]:
        y_x, l_x, by_param = self.partials(x, *params.unbind(1))
        grads = [grad_y * y_p + grad_l * l_p for y_p, l_p in by_param]
        return grad_y * y_x + grad_l * l_x, _summed_over_samples(grads)

    def _backward_of_inverse(self, x: Tensor, params: Tensor, grad_x: Tensor, grad_l: Tensor) -> tuple[Tensor, ...]:
        """For x = c⁻¹(y; p): dx = (dy − Σ c_p dp) / c_x, and log|dx/dy| = −l(x; p)."""
        y_x, l_x, by_param = self.partials(x, *params.unbind(1))
        grad_y = (grad_x - grad_l * l_x) / y_x
        grads = [-grad_y * y_p - grad_l * l_p for y_p, l_p in by_param]
        return grad_y, _summed_over_samples(grads)


def _summed_over_samples(grads: list[Tensor]) -> Tensor:
    """Gradients by parameters (b, num_params, k) of maps (n, b, k) whose n samples share the parameters."""
    return torch.stack([grad.sum(0) for grad in grads], dim=1)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, elementwise: AnalyticElementwise) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, params)
        ctx.elementwise = elementwise
        return elementwise._run(elementwise._evaluated, x, params)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        elementwise = ctx.elementwise
        return *elementwise._run(elementwise._backward_of_forward, *ctx.saved_tensors, *grads), None


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, params: Tensor, elementwise: AnalyticElementwise) -> tuple[Tensor, ...]:
        x, log_slope = elementwise._run(elementwise._inverted, y, params)
        ctx.save_for_backward(x, params)
        ctx.elementwise = elementwise
        return x, log_slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        elementwise = ctx.elementwise
        return *elementwise._run(elementwise._backward_of_inverse, *ctx.saved_tensors, *grads), None


def sum_per_item(log_slope: Tensor) -> Tensor:
    """Sum a (b, c, *spatial) map over all but the first dimension: (b,)."""
    return log_slope.flatten(1).sum(1)
