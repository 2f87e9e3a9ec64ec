"""Several processes that compute one result, as torchrun starts them; a process by itself is the simplest case.

The processes talk in two ways: small messages over the CPUs (``agree`` and what is built on it), and tensors over the
network of the devices (NCCL between GPUs, gloo between CPUs). Every exchange begins with an agreement, in which a
process may instead announce that it failed: so an error of one is an error of all, and none waits for another in vain.
"""

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from robustflow.utils import devices, exit_status, launcher
from robustflow.utils.errors import RunFailed, UserError

log = logging.getLogger(__name__)

T = TypeVar("T")

# One process may work long while others wait; torchrun ends all of them when one dies.
PATIENCE = datetime.timedelta(days=7)
# Elements of the gradients that are averaged at once.
BUCKET = 2**24


class FailedElsewhere(RunFailed):
    """Another process of this run failed; the message says which and, if known, why."""


class Processes:
    """The processes of a run, seen from one of them; this class is the run of one process, which needs no exchange.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank = 0
    size = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def device(self, name: str) -> torch.device:
        """Device for the option ``device``."""
        return devices.choose(name)

    def share_of(self, batch_size: int) -> int:
        """Crops of a batch that each process computes. UserError if they cannot be dealt out evenly."""
        if batch_size % self.size != 0:
            raise UserError(
                f"datasets.train.batch_size: expected a multiple of the {self.size} processes, among which each batch "
                f"is divided, got {batch_size}; change it or torchrun's --nproc_per_node"
            )
        return batch_size // self.size

    def agree(self, wish: bool = False) -> bool:
        """Whether any process wishes it. Raises what another process announced.

        All processes must call it, in the same order as everything else here but ``announce``.
        """
        return wish

    def announce(self, error: Exception) -> None:
        """Make an error of this process one of all: they raise it where they agree next."""

    @contextlib.contextmanager
    def sharing_errors(self) -> Iterator[None]:
        """Announce whatever error leaves the block."""
        try:
            yield
        except Exception as error:
            self.announce(error)
            raise

    def on_main(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the main process alone; all get its result, a plain value."""
        return function(*arguments)

    def gathered(self, value: T) -> list[T]:
        """The plain values of all processes, by rank."""
        return [value]

    def dealt(self, n: int) -> Iterator[int]:
        """Those of the numbers 0 .. n - 1 that this process is to take: each goes to the first that is free."""
        yield from range(n)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, of the same shapes in all processes, by their means over the processes."""

    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, of the same shapes in all processes, by those of the main process."""


ALONE = Processes()


class _Launched(Processes):
    """One of several processes that torchrun started."""

    def __init__(self) -> None:
        store, self.rank, self.size = next(iter(rendezvous("env://")))
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        dist.init_process_group(backend, store=PrefixStore("tensors", store), rank=self.rank, world_size=self.size)
        self._store = PrefixStore("robustflow", store)
        self._messages = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        self._over = self._lost = False
        self._n_deals = 0

    def device(self, name: str) -> torch.device:
        return devices.choose_one_each(name, launcher.local_rank())

    def agree(self, wish: bool = False) -> bool:
        failed, wished = self._flags(False, wish)
        if failed:
            raise self._errors(None)[0]
        return wished

    def announce(self, error: Exception) -> None:
        if self._over:
            return
        # The others may lose their way in the meantime: what counts is the error.
        with contextlib.suppress(FailedElsewhere):
            with self._exchange():
                self._store.set("failed", "")
            self._flags(True, False)
            self._errors(error)

    def on_main(self, function: Callable[..., T], *arguments: Any) -> T:
        result: list[Any] = [function(*arguments) if self.main else None]
        self.agree()
        with self._exchange():
            dist.broadcast_object_list(result, 0, group=self._messages)
        return result[0]

    def gathered(self, value: T) -> list[T]:
        self.agree()
        return self._all_values(value)

    def dealt(self, n: int) -> Iterator[int]:
        self._n_deals += 1
        while (number := self._next_of_deal()) is not None and number < n:
            yield number

    def _next_of_deal(self) -> int | None:
        """The next number that no process has; None once a process has failed."""
        with self._exchange():
            failed = self._store.check(["failed"])
            return None if failed else self._store.add(f"deal {self._n_deals}", 1) - 1

    def average(self, tensors: Sequence[Tensor]) -> None:
        self.agree()
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with self._exchange():
                dist.all_reduce(flat)
            means = (flat / self.size).split([tensor.numel() for tensor in bucket])
            for tensor, mean in zip(bucket, means, strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        self.agree()
        for tensor in tensors:
            # Not all backends know truth values.
            copy = tensor.to(torch.uint8 if tensor.dtype == torch.bool else tensor.dtype).contiguous().clone()
            with self._exchange():
                dist.broadcast(copy, 0)
            tensor.copy_(copy)

    def leave(self) -> None:
        """Wait for the others, so that torchrun ends none that is still at work."""
        if self._lost:
            return
        with contextlib.suppress(FailedElsewhere):
            failed, _ = self._flags(False, False)
            if failed:
                log.error("error: %s", self._errors(None)[0])

    def _flags(self, *own: bool) -> list[bool]:
        flags = torch.tensor(own, dtype=torch.int32)
        with self._exchange():
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._messages)
        return [flag > 0 for flag in flags.tolist()]

    def _all_values(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        with self._exchange():
            dist.all_gather_object(values, value, group=self._messages)
        return values

    def _errors(self, own: Exception | None) -> list[Exception]:
        """Errors of all processes, by rank, once some announced theirs."""
        self._over = True
        return [error for error in self._all_values(self._portable(own)) if error is not None]

    def _portable(self, error: Exception | None) -> Exception | None:
        """An error as the other processes raise it."""
        if isinstance(error, UserError):
            return UserError(str(error))
        if error is None or isinstance(error, torch.OutOfMemoryError | FailedElsewhere):
            return error
        return FailedElsewhere(f"process {self.rank} failed: {type(error).__name__}: {error}")

    @contextlib.contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self._over = self._lost = True
            reason = str(error).strip().partition("\n")[0]
            raise FailedElsewhere(f"another process of this run ended or is out of reach ({reason})") from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type that follow each other, in groups of about BUCKET elements."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(each.numel() for each in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the other processes of the run, if torchrun started several; all but the main one fall silent."""
    if launcher.size() == 1:
        yield ALONE
        return
    if launcher.rank() != 0:
        logging.disable(logging.CRITICAL)
    processes = _Launched()
    try:
        yield processes
        processes.leave()
    finally:
        dist.destroy_process_group()


def answered(
    work: Callable[[Processes], int | None], *, memory: Callable[[], str], interrupted: str, alone: bool
) -> int:
    """Do the work of a command together with the other processes of the run; see `exit_status.answered`."""

    def shared(processes: Processes) -> int | None:
        with processes.sharing_errors():
            return work(processes)

    with joined() as processes:
        return exit_status.answered(lambda: shared(processes), memory=memory, interrupted=interrupted, alone=alone)
