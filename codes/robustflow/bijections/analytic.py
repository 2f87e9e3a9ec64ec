"""Elementwise maps with hand-written derivatives."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from robustflow.bijections.base import Elementwise
from robustflow.nn import fused

# One tensor (..., k) for each parameter, broadcastable to x.
Parameters = tuple[Tensor, ...]
Slopes = list[tuple[Tensor | float, Tensor | float]]
Partials = tuple[Tensor, Tensor, Slopes]


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
        return self._apply_in_rows(x, params, inverse=False)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|, both of the shape of y."""
        return self._apply_in_rows(y, params, inverse=True)

    def _apply_in_rows(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        """Apply with x as (n, b, r, k) and params as (b, r, num_params, k), in the order they have in memory.

        That is one row of everything, or, with channels last, a row of channels for each position.
        """
        samples = x if x.dim() == params.dim() else x[None]  # (n, b, c, ...) beside (b, num_params, c, ...)
        spatial = samples.shape[3:]
        if samples.stride(2) == 1 and spatial.numel() > 1:
            rows = samples.movedim(2, -1).flatten(2, -2)
            results = _Map.apply(rows, params.movedim((1, 2), (-2, -1)).flatten(1, -3), self, inverse)
            results = [value.unflatten(2, spatial).movedim(-1, 2) for value in results]
        else:
            in_one = params.reshape(len(params), 1, self.num_params, -1)
            results = _Map.apply(samples.reshape(*samples.shape[:2], 1, -1), in_one, self, inverse)
        return results[0].view(x.shape), results[1].view(x.shape)

    @classmethod
    def _evaluate(cls, x: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
        return cls.evaluate(x, params.unbind(2), *constants)

    @classmethod
    def _invert(cls, y: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, ...]:
        return cls.invert(y, params.unbind(2), *constants)

    @classmethod
    def _differentiate(
        cls, x: Tensor, params: Tensor, grad_y: Tensor, grad_l: Tensor, *constants: Tensor
    ) -> tuple[Tensor, ...]:
        y_x, l_x, by_param = cls.partials(x, params.unbind(2), *constants)
        return grad_y * y_x + grad_l * l_x, _by_params(by_param, grad_y, grad_l)

    @classmethod
    def _differentiate_inverse(
        cls, x: Tensor, params: Tensor, grad_x: Tensor, grad_l: Tensor, *constants: Tensor
    ) -> tuple[Tensor, ...]:
        """For x = c⁻¹(y; p): dx = (dy − Σ c_p dp) / c_x, and log|dx/dy| = −l(x; p)."""
        y_x, l_x, by_param = cls.partials(x, params.unbind(2), *constants)
        grad_y = (grad_x - grad_l * l_x) / y_x
        return grad_y, _by_params(by_param, -grad_y, -grad_l)


def _by_params(by_param: Slopes, grad_y: Tensor, grad_l: Tensor) -> Tensor:
    """Gradients by parameters (b, r, num_params, k) of maps (n, b, r, k) whose n samples share the parameters."""
    return torch.stack([(grad_y * y_p + grad_l * l_p).sum(0) for y_p, l_p in by_param], dim=2)


class _Map(torch.autograd.Function):
    """An elementwise map, or its inverse; in both cases what is kept is x."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, params: Tensor, of: AnalyticElementwise, inverse: bool) -> tuple[Tensor, ...]:
        chain, ctx.derivative = (
            (of._invert, of._differentiate_inverse) if inverse else (of._evaluate, of._differentiate)
        )
        ctx.constants = of.constants
        result, log_slope = fused.run(chain, (given, params), of.constants)
        ctx.save_for_backward(result if inverse else given, params)
        return result, log_slope

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *fused.run(ctx.derivative, (*ctx.saved_tensors, *grads), ctx.constants), None, None
