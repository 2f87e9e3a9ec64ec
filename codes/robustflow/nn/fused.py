"""Long chains of elementwise operations as one pass: compiled where that pays, in cache-sized pieces otherwise.

A chain of forty operations on ten million elements is bound by memory: each reads and writes all of it. Compiled, it
reads its inputs and writes its results once. Compiling costs a minute, and seconds where another process has done it
before, so small inputs run as they are, and on CPUs so does all of a run that is too short to earn it back, and what no
run has announced until it has turned out to be long.
"""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

log = logging.getLogger(__name__)

# Takes tensors (..., k) that are independent along the last dimension, and numbers; returns such tensors. Hashable.
Chain = Callable[..., tuple[Tensor, ...]]

# Elements from which on a chain is compiled. By size alone, so that a resumed run rounds as the interrupted one did.
COMPILED_FROM = 2**14
# Elements of a whole run on CPUs from which on it is: splines save 30 (sampling) to 90 ns (training) of a core for
# each, affine maps 2 to 8.
EARNED_BACK_FROM = 10**9
# Elements of one piece of the plain path: some dozen intermediates of this size stay in the cache, or in memory.
PIECE = {"cpu": 2**17, "cuda": 2**24}

_without_compiler: set[str] = set()
_expected: list[float] = []
_mapped: Counter[str] = Counter()  # elements of large inputs in this process, by kind of device


@contextlib.contextmanager
def expecting(elements: float) -> Iterator[None]:
    """Say how many elements will be mapped within the block; of nested blocks the outermost counts.

    So that every part of a run computes, and rounds, alike. Without it elements count as they come.
    """
    _expected.append(elements)
    try:
        yield
    finally:
        _expected.pop()


@cache
def _compile(chain: Chain) -> Chain:
    return torch.compile(chain, dynamic=True)


def _is_worthwhile(device: str, elements: int) -> bool:
    """Whether to compile for an input of so many elements."""
    if elements < COMPILED_FROM:
        return False
    _mapped[device] += elements
    return device != "cpu" or (_expected[0] if _expected else _mapped[device]) >= EARNED_BACK_FROM


def run(chain: Chain, inputs: Sequence[Tensor], numbers: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
    """Run a chain on tensors (..., k); the first one is the largest.

    Args:
        chain: The operations; without side effects.
        inputs: Tensors that share their last dimension.
        numbers: Its last arguments, tensors (): torch.compile compiles anew for other numbers of Python's or, with
            dynamic ones, mistakes bounds of ``clamp`` (seen in torch 2.14).
    """
    # Whether they require gradients would be one more reason to compile anew.
    inputs = [value.detach() for value in inputs]
    device = inputs[0].device.type
    switched_off = any(os.environ.get(name) == "1" for name in ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"))
    if _is_worthwhile(device, inputs[0].numel()) and device not in _without_compiler and not switched_off:
        try:
            return _compile(chain)(*inputs, *numbers)
        except torch.OutOfMemoryError:
            raise
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            _without_compiler.add(device)
            reason = str(error).strip().partition("\n")[0]
            log.warning("torch.compile does not work here (%s): elementwise maps run unfused, slower", reason)
    length, piece = inputs[0].shape[-1], PIECE.get(device, PIECE["cuda"])
    step = max(1, piece // max(1, inputs[0][..., 0].numel()))
    if step >= length:
        return chain(*inputs, *numbers)
    results: tuple[Tensor, ...] = ()
    for first in range(0, length, step):
        part = slice(first, first + step)
        values = chain(*(value[..., part] for value in inputs), *numbers)
        results = results or tuple(value.new_empty(*value.shape[:-1], length) for value in values)
        for result, value in zip(results, values, strict=True):
            result[..., part] = value
    return results
