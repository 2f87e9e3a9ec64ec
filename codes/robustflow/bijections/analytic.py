"""Elementwise maps with hand-written derivatives."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robustflow.bijections.base import Elementwise
from robustflow.nn import fused
from robustflow.nn.derivatives import once_differentiable

Slopes = list[tuple[Tensor | float, Tensor | float]]
Partials = tuple[Tensor, Tensor, Slopes]


class AnalyticElementwise(Elementwise):
    """Elementwise map with a hand-written derivative: autograd keeps x and params only, no intermediate.

    A subclass gives the map, its inverse and its first derivatives as functions of x, the parameters and its constants;
    both directions are differentiated from these, the inverse by the implicit function theorem. Each is one pass over
    memory (``fused``), compiled once for all constants. Second derivatives are an error.

    Attributes:
        constants: All that the map depends on besides x and its parameters, to be set by ``__init__``; ``evaluate`` and
            the like get them as float64 scalars.
    """

    constants: tuple[float, ...] = ()

    @staticmethod
    @abstractmethod
    def evaluate(x: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and l = log|dy/dx|."""

    @staticmethod
    @abstractmethod
    def invert(y: Tensor, params: Tensor, *constants: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|."""

    @staticmethod
    @abstractmethod
    def partials(x: Tensor, params: Tensor, *constants: Tensor) -> Partials:
        """Return dy/dx, dl/dx and, for each parameter, (dy/dp, dl/dp)."""

    @cached_property
    def numbers(self) -> list[Tensor]:
        """The constants as the functions get them."""
        with torch.inference_mode(False):
            return [torch.full((), value, dtype=torch.float64) for value in self.constants]

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log|dy/dx|, both of the shape of x."""
        rows, of_rows, spatial = _rows(x, params)
        return _unroll(_Map.apply(rows, of_rows, self, False), spatial, x.shape)

    def inverse(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log|dx/dy|, both of the shape of y."""
        rows, of_rows, spatial = _rows(y, params)
        return _unroll(_Map.apply(rows, of_rows, self, True), spatial, y.shape)

    @classmethod
    def differentiate(
        cls, x: Tensor, params: Tensor, grad_y: Tensor, grad_l: Tensor, *constants: Tensor
    ) -> tuple[Tensor, ...]:
        """Gradients by x and params of ``evaluate``."""
        y_x, l_x, by_param = cls.partials(x, params, *constants)
        return grad_y * y_x + grad_l * l_x, _by_params(by_param, grad_y, grad_l)

    @classmethod
    def differentiate_inverse(
        cls, x: Tensor, params: Tensor, grad_x: Tensor, grad_l: Tensor, *constants: Tensor
    ) -> tuple[Tensor, ...]:
        """The same of ``invert``; for x = c⁻¹(y; p): dx = (dy − Σ c_p dp) / c_x, and log|dx/dy| = −l(x; p)."""
        y_x, l_x, by_param = cls.partials(x, params, *constants)
        grad_y = (grad_x - grad_l * l_x) / y_x
        return grad_y, _by_params(by_param, -grad_y, -grad_l)


def _rows(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor, torch.Size | None]:
    """x as (n, b, ..., k) and params as (b, ..., num_params, k), in the order that x has in memory.

    k is all elements or, with channels last, the channels of a position; positions, whose shape is third, are what
    stands before it then.
    """
    samples = x if x.dim() == params.dim() else x[None]  # (n, b, c, ...) beside (b, num_params, c, ...)
    spatial = samples.shape[3:]
    if samples.stride(2) != 1 or spatial.numel() == 1:
        return samples.flatten(2), params.flatten(2), None
    return samples.movedim(2, -1).flatten(2, -2), params.movedim((1, 2), (-2, -1)).flatten(1, -3), spatial


def _unroll(results: tuple[Tensor, ...], spatial: torch.Size | None, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Rows in the shape of x again."""
    if spatial is None:
        return results[0].view(shape), results[1].view(shape)
    y, log_slope = (rows.unflatten(2, spatial).movedim(-1, 2) for rows in results)
    # Not by a view: of a batch of one that has a stride by which torch takes it for planes.
    return (y, log_slope) if y.dim() == len(shape) else (y.squeeze(0), log_slope.squeeze(0))


def _by_params(by_param: Slopes, grad_y: Tensor, grad_l: Tensor) -> Tensor:
    """Gradients by parameters (b, ..., num_params, k) of maps (n, b, ..., k) whose n samples share the parameters."""
    return torch.stack([(grad_y * y_p + grad_l * l_p).sum(0) for y_p, l_p in by_param], dim=-2)


class _Map(torch.autograd.Function):
    """An elementwise map, or its inverse; in both cases what is kept is x."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, params: Tensor, of: AnalyticElementwise, inverse: bool) -> tuple[Tensor, ...]:
        ctx.of, ctx.inverse = of, inverse
        result, log_slope = fused.run(of.invert if inverse else of.evaluate, (given, params), of.numbers)
        ctx.save_for_backward(result if inverse else given, params)
        return result, log_slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        chain = ctx.of.differentiate_inverse if ctx.inverse else ctx.of.differentiate
        return *fused.run(chain, (*ctx.saved_tensors, *grads), ctx.of.numbers), None, None
