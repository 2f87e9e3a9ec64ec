"""Several processes that compute one result, as torchrun starts them; a process by itself is the simplest case.

All call the same functions in the same order. Every exchange begins with plain values over the CPUs, in which a process
may instead announce that it failed: so an error of one is an error of all, and none waits for another in vain.
"""

import contextlib
import datetime
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from robustflow.utils import launcher
from robustflow.utils.errors import RunFailed, UserError

T = TypeVar("T")
# One process may work long while others wait; torchrun ends all of them when one dies.
PATIENCE = datetime.timedelta(days=7)


class FailedElsewhere(RunFailed):
    """Another process of this run failed; the message says which and, if known, why."""


@dataclass
class _Group:
    """What torch.distributed does not keep: whether a process failed, and how often numbers were distributed."""

    store: Store
    failed: bool = False
    n_distributed: int = 0


_groups: list[_Group] = []  # the one of this process, while it has joined others


def size() -> int:
    """Number of processes that compute together."""
    return dist.get_world_size() if _groups else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _groups else 0


def is_main() -> bool:
    """Whether this is the process that writes files and messages."""
    return rank() == 0


def gather(value: T, error: Exception | None = None) -> list[T]:
    """Plain values of all processes, by rank. Raises the error that any of them gives in place of its own."""
    if not _groups:
        return [value]
    found: list[Any] = [None] * size()
    with _exchange():
        dist.all_gather_object(found, (value, error))
    for _, given in found:
        if given is not None:
            _groups[0].failed = True
            raise given
    return [value for value, _ in found]


def on_main(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in the main process alone; all get its result, a plain value."""
    result: list[Any] = [function(*arguments) if is_main() else None]
    if _groups:
        gather(None)
        with _exchange():
            dist.broadcast_object_list(result, 0)
    return result[0]


def distribute(n: int) -> Iterator[int]:
    """Those of the numbers 0 .. n - 1 that this process is to take: each goes to the first that is free."""
    if not _groups:
        yield from range(n)
        return
    group = _groups[0]
    group.n_distributed += 1
    while True:
        with _exchange():
            number = n if group.store.check(["failed"]) else group.store.add(f"next {group.n_distributed}", 1) - 1
        if number >= n:
            return
        yield number


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, of the same shapes in all processes, by their means over the processes."""
    if _groups:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        gather(None)
        with _exchange():
            dist.all_reduce(flat)
        means = flat.div_(size()).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean.view(tensor.shape))


def share(*parts: nn.Module | torch.optim.Optimizer) -> None:
    """Give all processes the state that modules and optimizers have in the main one."""

    def pack() -> bytes:
        buffer = io.BytesIO()
        torch.save([part.state_dict() for part in parts], buffer)
        return buffer.getvalue()

    if _groups:
        states = torch.load(io.BytesIO(on_main(pack)), map_location="cpu", weights_only=True)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)


@contextlib.contextmanager
def announcing() -> Iterator[None]:
    """Make an error that leaves the block one of all processes: the others raise it where they exchange next.

    That is at the end of their blocks at the latest.
    """
    try:
        yield
        gather(None)
    except (Exception, KeyboardInterrupt) as error:
        if _groups and not _groups[0].failed:
            # The others may lose their way in the meantime: what counts is the error.
            with contextlib.suppress(UserError, RuntimeError):
                _groups[0].store.set("failed", "")
                gather(None, _make_portable(error))
        raise


def _make_portable(error: BaseException) -> Exception:
    """An error as other processes raise it."""
    if isinstance(error, UserError):
        return UserError(str(error))
    if isinstance(error, torch.OutOfMemoryError):
        return error
    return FailedElsewhere(f"process {rank()} failed: {type(error).__name__}: {error}")


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        _groups[0].failed = True
        reason = str(error).strip().partition("\n")[0]
        raise FailedElsewhere(f"another process of this run ended or is out of reach ({reason})") from error


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Join the other processes of the run, if torchrun started several; all but the main one fall silent."""
    if launcher.size() == 1:
        yield
        return
    if launcher.rank() != 0:
        logging.disable(logging.CRITICAL)
    store, rank, size = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, store=store, rank=rank, world_size=size)
    _groups.append(_Group(store))
    try:
        yield
        # torchrun ends all once one has ended: the main one must have spoken.
        with contextlib.suppress(UserError, RuntimeError):
            gather(None)
    finally:
        _groups.clear()
        dist.destroy_process_group()
