"""Commands of robustflow in processes of their own, several side by side."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from robustflow.utils import cpus
from robustflow.utils.errors import RunFailed

_CODES = Path(__file__).resolve().parents[2]
# Seconds that a command is given to save what it has after it was asked to end.
_GRACE = 30
_WATCHED = "ROBUSTFLOW_ENDS_WITH_INPUT"


def run_side_by_side(chains: Mapping[str, Sequence[Sequence[str]]], at_once: int) -> None:
    """Run chains of commands, the commands of each one after the other, ``at_once`` chains at a time.

    What they print goes to stderr, with the chain's name before each line where there are several. Once one fails, or
    this process is interrupted, the others are asked to end and waited for.

    Args:
        chains: By name, commands as words after ``robustflow``.
        at_once: Chains at a time; CPU cores are divided among them, GPUs go round.

    Raises:
        RunFailed: with the first command that failed.
    """
    running = _Running(prefixed=min(at_once, len(chains)) > 1)
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        tasks = [
            pool.submit(running.run_chain, name, commands, _environment(number, min(at_once, len(chains))))
            for number, (name, commands) in enumerate(chains.items())
        ]
        try:
            wait(tasks, return_when=FIRST_EXCEPTION)
        finally:
            running.end()
        for task in tasks:
            task.result()


def end_with_parent() -> None:
    """In a process that `run_side_by_side` started: end, as by SIGTERM, when the one that started it is gone."""
    if os.environ.get(_WATCHED):
        threading.Thread(target=_wait_for_end, daemon=True).start()


def _wait_for_end() -> None:
    # Nothing is ever written there: the end of the starting process closes it.
    if not os.read(0, 1):
        os.kill(os.getpid(), signal.SIGTERM)


class _Running:
    """Processes that are at work."""

    def __init__(self, *, prefixed: bool) -> None:
        self._prefixed = prefixed
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock, self._ended = threading.Lock(), False

    def run_chain(self, name: str, commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> None:
        for words in commands:
            process = self._start(words, environment)
            if process is None:
                return
            with process:
                for line in process.stdout or ():
                    sys.stderr.write(f"{name}: {line}")
                status = process.wait()
            self._processes.discard(process)
            if status != 0 and not self._ended:
                shown = " ".join(words[:3])
                raise RunFailed(f"{name}: robustflow {shown} … ended with status {status}; mended, the same goes on")

    def _start(self, words: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str] | None":
        """Start a command, unless all is to end."""
        with self._lock:
            if self._ended:
                return None
            process = subprocess.Popen(
                _command(words),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self._prefixed else sys.stderr,
                stderr=subprocess.STDOUT if self._prefixed else None,
                text=True,
                errors="replace",
            )
            self._processes.add(process)
            return process

    def end(self) -> None:
        """Ask all that is at work to end, and let nothing begin."""
        with self._lock:
            self._ended = True
            left = list(self._processes)
        for process in left:
            process.terminate()
        for process in left:
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()


def _command(words: Sequence[str]) -> list[str]:
    if words[0].startswith("torchrun="):
        n = words[0].removeprefix("torchrun=")
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", n, "-m", "robustflow"]
        return [sys.executable, *launch, *words[1:]]
    return [sys.executable, "-m", "robustflow", *words]


def _environment(number: int, at_once: int) -> dict[str, str]:
    """Of the chain of this number: the package found, cores and GPUs divided where several are at work."""
    import torch

    path = os.pathsep.join(filter(None, [str(_CODES), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, _WATCHED: "1"}
    if at_once > 1:
        environment |= {"TQDM_DISABLE": "1"}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cpus.available() // at_once)))
        if torch.cuda.device_count() > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
            environment["CUDA_VISIBLE_DEVICES"] = str(number % torch.cuda.device_count())
    return environment
