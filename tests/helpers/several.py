"""Several processes in a test: forked, which is quick, or started by torchrun as a user does."""

import contextlib
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

from robustflow.options.load import save
from robustflow.utils import distributed, locks
from robustflow.utils.errors import UserError

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def forked(function, n=2, dying=()):
    """Call a function in n processes; return what each returned, but for those that die before."""
    context = multiprocessing.get_context("fork")
    port, results = free_port(), context.Queue()
    children = [context.Process(target=_child, args=(function, rank, n, port, results)) for rank in range(n)]
    for child in children:
        child.start()
    try:
        found = dict(results.get(timeout=100) for _ in range(n - len(dying)))
    finally:
        for child in children:
            child.join(10)
            child.kill()
    return [found[rank] for rank in range(n) if rank not in dying]


@contextlib.contextmanager
def holding(lock, folder):
    """Another process that holds the lock of a folder until it is told to leave."""
    context = multiprocessing.get_context("fork")
    has, leave = context.Event(), context.Event()

    def hold():
        with locks.hold(lock, folder):
            has.set()
            leave.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert has.wait(60)
    process.leave = lambda: (leave.set(), process.join(60))
    try:
        yield process
        # An event waits for those that wait for it, also if they are dead.
        if process.is_alive():
            process.leave()
    finally:
        process.kill()
        process.join()


def _child(function, rank, n, port, results):
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    os.environ.update({key: str(value) for key, value in {**places, **numbers}.items()})
    # Those of the test; a command writes to stderr.
    logging.getLogger().handlers.clear()
    try:
        value = function()
    except (Exception, SystemExit, KeyboardInterrupt):  # noqa: BLE001  what it was is for the test to judge
        value = traceback.format_exc()
    results.put((rank, value))


def in_group(function):
    """A function that calls another once the processes of the run have joined."""

    def joined():
        with distributed.joined():
            try:
                with distributed.announcing():
                    return function()
            except (UserError, distributed.FailedElsewhere) as error:
                return f"{type(error).__name__}: {error}"

    return joined


def torchrun(script, options, *arguments):
    """Run a script in two processes, with options."""
    file = Path(options.path.experiments) / f"{options.name}.yml"
    save(options, file)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, str(ROOT / script), "-opt", str(file), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
