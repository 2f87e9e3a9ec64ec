"""Elementwise maps with hand-written derivatives."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from robustflow.bijections.base import Elementwise
from robustflow.nn import fused

# One tensor (..., k) for each parameter, broadcastable to x.
Parameters = tuple[Tensor, ...]
Partials = tuple[Tensor, Tensor, list[tuple[Tensor | float, Tensor | float]]]


class AnalyticElementwise(Elementwise):
    """Elementwise map with a hand-written derivative: autograd keeps x and params only, no intermediate.

    A subclass gives the map, its inverse and its first derivatives as functions of x, the parameters and its constants;
    both directions are differentiated from these, the inverse by the implicit function theorem. Each is one pass over
    memory (``fused``), compiled once for all constants. Second derivatives are not supported.
    """

    @property
    @abstractmethod
    def constants(self) -> tuple[float, ...]:
        """All that the map depends on besides x and its parameters; the functions below get them as float64 scalars."""

    @staticmethod
    @abstractmethod
    def evaluate(x: Tensor, p: Parameters, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and l = log|dy/dx|."""

    @staticmethod
    @abstractmethod
    def invert(y: Tensor, p: Parameters, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|."""

    @staticmethod
    @abstractmethod
    def partials(x: Tensor, p: Parameters, *constants: Tensor) -> Partials:
        """Return dy/dx, dl/dx and, for each parameter, (dy/dp, dl/dp)."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|, both of the shape of x."""
        return self._apply_in_rows(_Forward, x, params)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|, both of the shape of y."""
        return self._apply_in_rows(_Inverse, y, params)

    def _apply_in_rows(
        self, function: type[torch.autograd.Function], x: Tensor, params: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply with x as (n, b, r, k) and params as (b, r, num_params, k), in the order they have in memory.

        That is one row of everything, or, with channels last, a row of channels for each position.
        """
        samples = x if x.dim() == params.dim() else x[None]  # (n, b, c, ...) beside (b, num_params, c, ...)
        spatial = samples.shape[3:]
        if samples.stride(2) == 1 and spatial.numel() > 1:
            rows = samples.movedim(2, -1).flatten(2, -2)
            first, second = function.apply(rows, params.movedim((1, 2), (-2, -1)).flatten(1, -3), self)
            first, second = (value.unflatten(2, spatial).movedim(-1, 2) for value in (first, second))
        else:
            in_one = params.reshape(len(params), 1, self.num_params, -1)
            first, second = function.apply(samples.reshape(*samples.shape[:2], 1, -1), in_one, self)
        return first.view(x.shape), second.view(x.shape)


def _evaluate(of: type[AnalyticElementwise], x: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
    return of.evaluate(x, params.unbind(2), *constants)


def _invert(of: type[AnalyticElementwise], y: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
    return of.invert(y, params.unbind(2), *constants)


def _differentiate(
    of: type[AnalyticElementwise], x: Tensor, params: Tensor, grad_y: Tensor, grad_l: Tensor, *constants: Tensor
) -> tuple[Tensor, ...]:
    y_x, l_x, by_param = of.partials(x, params.unbind(2), *constants)
    grads = [grad_y * y_p + grad_l * l_p for y_p, l_p in by_param]
    return grad_y * y_x + grad_l * l_x, _sum_over_samples(grads)


def _differentiate_inverse(
    of: type[AnalyticElementwise], x: Tensor, params: Tensor, grad_x: Tensor, grad_l: Tensor, *constants: Tensor
) -> tuple[Tensor, ...]:
    """For x = c⁻¹(y; p): dx = (dy − Σ c_p dp) / c_x, and log|dx/dy| = −l(x; p)."""
    y_x, l_x, by_param = of.partials(x, params.unbind(2), *constants)
    grad_y = (grad_x - grad_l * l_x) / y_x
    grads = [-grad_y * y_p - grad_l * l_p for y_p, l_p in by_param]
    return grad_y, _sum_over_samples(grads)


def _sum_over_samples(grads: list[Tensor]) -> Tensor:
    """Gradients by parameters (b, r, num_params, k) of maps (n, b, r, k) whose n samples share the parameters."""
    return torch.stack([grad.sum(0) for grad in grads], dim=2)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, elementwise: AnalyticElementwise) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, params)
        ctx.elementwise = elementwise
        return fused.run(_evaluate, type(elementwise), (x, params), elementwise.constants)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, elementwise = (*ctx.saved_tensors, *grads), ctx.elementwise
        return *fused.run(_differentiate, type(elementwise), inputs, elementwise.constants), None


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, params: Tensor, elementwise: AnalyticElementwise) -> tuple[Tensor, ...]:
        x, log_slope = fused.run(_invert, type(elementwise), (y, params), elementwise.constants)
        ctx.save_for_backward(x, params)
        ctx.elementwise = elementwise
        return x, log_slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, elementwise = (*ctx.saved_tensors, *grads), ctx.elementwise
        return *fused.run(_differentiate_inverse, type(elementwise), inputs, elementwise.constants), None
