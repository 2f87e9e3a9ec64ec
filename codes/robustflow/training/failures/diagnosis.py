"""Where a training step stops being finite."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class Diagnosis(NamedTuple):
    """What one training step gave.

    Attributes:
        loss: Its loss.
        grad_norm: L2 norm of the gradients, before clipping.
        module: First module, in the order of execution, whose output is not finite; None if all are.
        gradient: First parameter, in the order of the backward pass, whose gradient is not; None if all are.
    """

    loss: float
    grad_norm: float
    module: str | None
    gradient: str | None

    @property
    def finite(self) -> bool:
        """Whether loss and gradients are."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)

    def describe(self) -> str:
        """One line: loss, gradient norm, and where they stopped being finite."""
        first = "all finite"
        if self.module is not None:
            first = f"not finite first in the output of {self.module}"
        elif self.gradient is not None:
            first = f"not finite first in the gradient of {self.gradient}"
        elif not self.finite:
            first = "not finite outside of modules and gradients"
        return f"loss {self.loss:g}, gradient norm {self.grad_norm:g}: {first}"


def diagnose(network: nn.Module, step: Callable[[], Tensor]) -> Diagnosis:
    """Run a training step and watch every module and gradient; the gradients are gone afterwards.

    Args:
        network: In the mode, and with the parts frozen, of the step.
        step: Computes loss and gradients of the network, returns the loss.
    """
    modules: list[str] = []
    gradients: list[str] = []
    hooks = [
        module.register_forward_hook(_note_output(modules, name or type(module).__name__))
        for name, module in network.named_modules()
    ]
    hooks += [
        parameter.register_post_accumulate_grad_hook(_note_gradient(gradients, name))
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    ]
    network.zero_grad(set_to_none=True)
    try:
        loss = step()
        norm = nn.utils.clip_grad_norm_(network.parameters(), float("inf"))
    finally:
        for hook in hooks:
            hook.remove()
        network.zero_grad(set_to_none=True)
    return Diagnosis(loss.item(), norm.item(), next(iter(modules), None), next(iter(gradients), None))


def is_finite(tensor: Tensor) -> bool:
    """Whether all of a tensor is finite."""
    return bool(tensor.isfinite().all())


def _note_output(found: list[str], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, given: Any, output: Any) -> None:
        if not found and not all(map(is_finite, _tensors(output))):
            found.append(f"{name} ({type(module).__name__})")

    return note


def _note_gradient(found: list[str], name: str) -> Callable[[Tensor], None]:
    def note(parameter: Tensor) -> None:
        if not found and parameter.grad is not None and not is_finite(parameter.grad):
            found.append(name)

    return note


def _tensors(value: Any) -> Iterator[Tensor]:
    """Floating-point tensors in what a module returns."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value.detach()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
