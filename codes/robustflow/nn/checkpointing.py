"""Activation checkpointing: memory for arithmetic."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch.utils.checkpoint import checkpoint

Function = TypeVar("Function", bound=Callable)


def recompute(function: Function, active: bool) -> Function:
    """The function; if ``active``, its activations are not kept but computed again in the backward pass."""
    if not active or not torch.is_grad_enabled():
        return function
    # Nothing random happens in encoders and flows.
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]
