"""Hand-written gradients, which have no second derivatives."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., tuple[Tensor | None, ...]]


def once_differentiable(backward: Backward) -> Backward:
    """Decorate the backward pass of an autograd function: with ``create_graph`` it is an error.

    torch's decorator of this name leaves out what the second derivative owes to saved tensors, without a word.
    """

    @functools.wraps(backward)
    def differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "expected create_graph=False: couplings and encoders with hand-written gradients have no second "
                "derivatives; take finite differences of the first ones"
            )
        return backward(ctx, *grads)

    return differentiate
