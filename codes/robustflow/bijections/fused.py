"""Long chains of elementwise operations as one pass: compiled where that pays, in cache-sized pieces otherwise.

A chain of forty operations on ten million elements is bound by memory: each reads and writes all of it. Compiled, it
reads its inputs and writes its results once. Compiling costs seconds, so small inputs run as they are.
"""

import logging
import os
from collections.abc import Callable, Hashable
from types import FunctionType, MethodType

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# Takes and returns tensors (..., k) that are independent along the last dimension.
Chain = Callable[..., tuple[Tensor, ...]]

# Elements from which on a chain is compiled. By size alone, so that a resumed run rounds as the interrupted one did.
COMPILED_FROM = 2**14
# Elements of one piece of the plain path: some dozen intermediates of this size stay in the cache, or in memory.
PIECE = {"cpu": 2**17, "cuda": 2**24}

_compiled: dict[Hashable, Chain] = {}
_without_compiler: set[str] = set()


def run(chain: Chain, key: Hashable, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Run a chain on tensors (..., k); the first one is the largest.

    Args:
        chain: The operations; without side effects.
        key: Chains of equal keys compute the same, and are compiled once.
        inputs: Tensors that share their last dimension.
    """
    # Whether they require gradients would be one more reason to compile anew.
    inputs = tuple(value.detach() for value in inputs)
    device = inputs[0].device.type
    if inputs[0].numel() >= COMPILED_FROM and device not in _without_compiler and not _is_switched_off():
        if (key, device) not in _compiled:
            _compiled[key, device] = torch.compile(_copied(chain), dynamic=True)
        try:
            return _compiled[key, device](*inputs)
        except torch.OutOfMemoryError:
            raise
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            _without_compiler.add(device)
            reason = str(error).strip().partition("\n")[0]
            log.warning("torch.compile does not work here (%s): elementwise maps run unfused, slower", reason)
    return _in_pieces(chain, PIECE.get(device, PIECE["cuda"]), *inputs)


def _is_switched_off() -> bool:
    return any(os.environ.get(name) == "1" for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"))


def _copied(chain: Chain) -> Chain:
    """The same chain with a code object of its own: torch.compile counts how often it compiles one, and gives up."""
    function = getattr(chain, "__func__", chain)
    copied = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    return copied if function is chain else MethodType(copied, chain.__self__)  # type: ignore[attr-defined]


def _in_pieces(chain: Chain, piece: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    length = inputs[0].shape[-1]
    step = max(1, piece // max(1, inputs[0][..., 0].numel()))
    if step >= length:
        return chain(*inputs)
    results: tuple[Tensor, ...] = ()
    for first in range(0, length, step):
        part = slice(first, first + step)
        values = chain(*(value[..., part] for value in inputs))
        if not results:
            results = tuple(value.new_empty(*value.shape[:-1], length) for value in values)
        for result, value in zip(results, values, strict=True):
            result[..., part] = value
    return results
