"""Several processes that compute one result, as torchrun starts them; a process by itself is the simplest case.

All call the same functions in the same order. Every exchange begins with plain values over the CPUs, in which a process
may instead announce that it failed: so an error of one is an error of all, and none waits for another in vain.
How many they are is asked before torch is loaded: it is imported where they exchange something.
"""

import contextlib
import datetime
import io
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from robustflow.utils.errors import RunFailed, UserError

if TYPE_CHECKING:
    from torch import Tensor, nn, optim

T = TypeVar("T")
_stores: list[Any] = []  # the one of the run, while this process has joined the others
_failures: list[Exception] = []  # what all of them know of
_rounds = itertools.count()  # of numbers that were distributed


class FailedElsewhere(RunFailed):
    """Another process of this run failed; the message says which and, if known, why."""


def size(variable: str = "WORLD_SIZE") -> int:
    """Number of processes of the run; with ``LOCAL_WORLD_SIZE``, on this machine; 1 without torchrun."""
    # Job schedulers leave a WORLD_SIZE of their own about.
    return int(os.environ[variable]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank(variable: str = "RANK") -> int:
    """Number of this process in the run, from 0; with ``LOCAL_RANK``, on its machine."""
    return int(os.environ[variable]) if size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and messages."""
    return rank() == 0


def gather(value: T, error: Exception | None = None) -> list[T]:
    """Plain values of all processes, by rank. Raises the error that any of them gives in place of its own."""
    if not _stores:
        return [value]
    found: list[Any] = [None] * size()
    with _exchange() as dist:
        dist.all_gather_object(found, (value, error))
    _failures.extend(given for _, given in found if given is not None)
    if _failures:
        raise _failures[0]
    return [value for value, _ in found]


def on_main(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in the main process alone; all get its result, a plain value."""
    return gather(cast(T, function(*arguments) if is_main() else None))[0]


def distribute(n: int) -> Iterator[int]:
    """Those of the numbers 0 .. n - 1 that this process is to take: each goes to the first that is free."""
    if not _stores:
        yield from range(n)
        return
    key = f"round {next(_rounds)}"
    while True:
        with _exchange():
            number = n if _stores[0].check(["failed"]) else _stores[0].add(key, 1) - 1
        if number >= n:
            return
        yield number


def average(tensors: Sequence["Tensor"]) -> None:
    """Replace tensors, of the same shapes in all processes, by their means over the processes."""
    if _stores:
        import torch

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        gather(None)
        with _exchange() as dist:
            dist.all_reduce(flat)
        means = flat.div_(size()).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view(tensor.shape))


def share(*parts: "nn.Module | optim.Optimizer") -> None:
    """Give all processes the state that modules and optimizers have in the main one."""
    if _stores:
        import torch

        buffer = io.BytesIO()
        on_main(lambda: torch.save([part.state_dict() for part in parts], buffer))
        packed = [buffer.getvalue()]  # sent, not gathered: it is large
        with _exchange() as dist:
            dist.broadcast_object_list(packed, 0)
        states = torch.load(io.BytesIO(packed[0]), map_location="cpu", weights_only=True)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)


@contextlib.contextmanager
def announcing() -> Iterator[None]:
    """Make an error that leaves the block one of all processes, which raise it where they exchange or end next."""
    try:
        yield
        gather(None)
    except (Exception, KeyboardInterrupt) as error:
        if _stores and not _failures:
            import torch

            told: Exception = FailedElsewhere(f"process {rank()} failed: {type(error).__name__}: {error}")
            if isinstance(error, torch.OutOfMemoryError):
                told = error
            elif isinstance(error, UserError):
                told = UserError(str(error))  # what its own class needs is not sent
            # The others may lose their way in the meantime: what counts is the error.
            with contextlib.suppress(UserError, RuntimeError):
                _stores[0].set("failed", "")
                gather(None, told)
        raise


@contextlib.contextmanager
def _exchange() -> Iterator[ModuleType]:
    """What exchanges; where it fails, another process is out of reach."""
    import torch.distributed as dist

    try:
        yield dist
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        _failures.append(FailedElsewhere(f"another process of this run ended or is out of reach ({reason})"))
        raise _failures[-1] from error


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of the run, if torchrun started several; all but the main one fall silent."""
    if size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if not is_main():
        logging.disable(logging.CRITICAL)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    store, own, n = next(iter(rendezvous("env://")))
    # One process may work long while others wait; torchrun ends all of them when one dies.
    dist.init_process_group(backend, timeout=datetime.timedelta(days=7), store=store, rank=own, world_size=n)
    _stores.append(store)
    try:
        yield
        # torchrun ends all once one has ended: the main one must have spoken.
        with contextlib.suppress(UserError, RuntimeError):
            gather(None)
    finally:
        _stores.clear()
        _failures.clear()
        # Gloo's threads need Python's lock to free what was sent; torch 2.6 holds it while it waits for their end. Let
        # them be done by then.
        time.sleep(0.3)
        dist.destroy_process_group()
