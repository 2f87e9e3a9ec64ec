"""Counts the operations of a training step and prints them as JSON: ``python operations_child.py CONF OVERRIDE SIDE``.

The package is the one that Python finds, today's or an earlier one: nothing else of this folder is imported.
"""

import collections
import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What neither computes nor moves numbers, besides views.
ALLOCATIONS = ("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided")
NAMES_ONLY = ("detach", "detach_", "alias", "lift_fresh", "_unsafe_view")
COMPILED = "(compiled chain)"


class Counter(TorchDispatchMode):
    """Counts what torch dispatches below autograd, by name; what torch.compile is given counts as one operation.

    Attributes:
        operations: How often.
        moved: Bytes of the tensors that they read and write, by name.
        views, allocations: How many, which are no operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[str] = collections.Counter()
        self.moved: collections.Counter[str] = collections.Counter()
        self.views = self.allocations = 0
        self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.inside == 0:
            self._note(func._schema, (args, kwargs, result))
        return result

    def _note(self, schema: Any, values: Any) -> None:
        name = schema.name.split("::")[1]
        if name in ALLOCATIONS:
            self.allocations += 1
        elif name in NAMES_ONLY or (_aliases(schema.arguments) and _aliases(schema.returns)):
            self.views += 1
        else:
            self.operations[name] += 1
            self.moved[name] += size(values)

    @contextlib.contextmanager
    def as_one(self) -> Iterator[None]:
        """Count what is done in here as one operation."""
        self.operations[COMPILED] += self.inside == 0
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


def size(values: Any) -> int:
    """Bytes of all tensors in nested values."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _aliases(values: Any) -> bool:
    return any(value.alias_info is not None and not value.alias_info.is_write for value in values)


_counting: list[Counter] = []


def uncompiled(function: Callable[..., Any] | None = None, **keywords: Any) -> Callable[..., Any]:
    """Stands in for torch.compile: the function as it is, counted as one operation."""
    if function is None:
        return uncompiled

    def run(*arguments: Any, **named: Any) -> Any:
        if not _counting or _counting[-1].inside > 0:
            return function(*arguments, **named)
        with _counting[-1].as_one():
            result = function(*arguments, **named)
        _counting[-1].moved[COMPILED] += size((arguments, named, result))
        return result

    return run


def _built(options: Any) -> tuple[torch.nn.Module, Callable[..., torch.Tensor]]:
    """The network in training mode and its loss, of today's package or of one with tasks beside networks."""
    try:
        from robustflow import models
    except ImportError:
        from robustflow import tasks

        task = tasks.build(options)
        network = task.build_network(options.network_G).train()
        return network, lambda *images: task.loss(network, *images)
    model = models.build(options).train()
    return model, model.loss


def _long_run() -> contextlib.AbstractContextManager[None]:
    """In which today's package compiles elementwise maps; an earlier one always does."""
    try:
        from robustflow.nn import fused
    except ImportError:
        return contextlib.nullcontext()
    return fused.expecting(math.inf)


def count(conf: str, override: str, side: int) -> dict[str, Any]:
    """Operations forward and backward of a training step on one crop, ActNorms initialised by an earlier one."""
    from robustflow.options.load import load

    options = load(conf, override)
    torch.manual_seed(0)
    network, loss_of = _built(options)
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(1, 3, side, side, generator=generator)
    gt = torch.nn.functional.interpolate(lr, scale_factor=options.scale, mode="bilinear")
    for _ in range(2):
        network.zero_grad(set_to_none=True)
        with Counter() as counter, _long_run():
            _counting.append(counter)
            loss = loss_of(gt, lr, generator)
            forward = counter.operations.total()
            loss.backward()
            _counting.pop()
    total = counter.operations.total()
    return {
        "forward": forward,
        "backward": total - forward,
        "total": total,
        "views": counter.views,
        "allocations": counter.allocations,
        "operations": dict(counter.operations),
        "moved": dict(counter.moved),
    }


if __name__ == "__main__":
    torch.compile = uncompiled  # type: ignore[assignment]
    print(json.dumps(count(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
