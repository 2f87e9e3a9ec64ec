"""The two contracts: a bijection of a whole tensor, and an elementwise map with parameters from a network."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Bijection(nn.Module, ABC):
    """Invertible map of x (b, c, *spatial). Data to latent is ``forward``."""

    @abstractmethod
    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det dz/dx|, shape (b,), natural logarithm."""

    @abstractmethod
    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det dx/dz|, shape (b,), natural logarithm."""


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


Partials = tuple[Tensor, Tensor, list[tuple[Tensor | float, Tensor | float]]]


class AnalyticElementwise(Elementwise):
    """Elementwise map with a hand-written derivative: autograd keeps x and params only, no intermediate.

    A subclass gives the map, its inverse and its first derivatives; both directions are differentiated from these,
    the inverse by the implicit function theorem. Second derivatives are not supported.
    """

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
        return _Forward.apply(x, params, self)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|, both of the shape of y."""
        return _Inverse.apply(y, params, self)


def _reduced(terms: list[Tensor], params: Tensor) -> Tensor:
    """Stack per-parameter gradients, summed over samples that share the parameters."""
    return torch.stack([term.sum_to_size(params[:, 0].shape) for term in terms], dim=1)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, elementwise: AnalyticElementwise) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, params)
        ctx.elementwise = elementwise
        return elementwise.evaluate(x, *params.unbind(1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_l: Tensor) -> tuple[Tensor, Tensor, None]:
        x, params = ctx.saved_tensors
        y_x, l_x, by_param = ctx.elementwise.partials(x, *params.unbind(1))
        grads = [grad_y * y_p + grad_l * l_p for y_p, l_p in by_param]
        return grad_y * y_x + grad_l * l_x, _reduced(grads, params), None


class _Inverse(torch.autograd.Function):
    """For x = c⁻¹(y; p): dx = (dy − Σ c_p dp) / c_x, and log|dx/dy| = −l(x; p)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, params: Tensor, elementwise: AnalyticElementwise) -> tuple[Tensor, Tensor]:
        x, log_slope = elementwise.invert(y, *params.unbind(1))
        ctx.save_for_backward(x, params)
        ctx.elementwise = elementwise
        return x, log_slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_x: Tensor, grad_l: Tensor) -> tuple[Tensor, Tensor, None]:
        x, params = ctx.saved_tensors
        y_x, l_x, by_param = ctx.elementwise.partials(x, *params.unbind(1))
        grad_y = (grad_x - grad_l * l_x) / y_x
        grads = [-grad_y * y_p - grad_l * l_p for y_p, l_p in by_param]
        return grad_y, _reduced(grads, params), None


def sum_per_item(log_slope: Tensor) -> Tensor:
    """Sum a (b, c, *spatial) map over all but the first dimension: (b,)."""
    return log_slope.flatten(1).sum(1)
