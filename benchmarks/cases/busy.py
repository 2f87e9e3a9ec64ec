"""train.py on two CPUs that it does not have for itself."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import networks, revisions
from benchmarks.networks import ROOT
from benchmarks.setting import Row, Setting, report

CPUS = 2
LINE = re.compile(r"iteration (\d+)/\d+: ")
NOTE = (
    "Processes are bound to two CPUs; OMP_NUM_THREADS is not set. it/s: from the second to the last of the iterations "
    "timed, in the middle of a run of usual length; start: seconds up to the second, compiling included. busy: beside "
    "one process that never waits; two: the slower of two trainings side by side. Ratios: to alone, of the same code."
)


@dataclass(frozen=True)
class Run:
    """A training of which some iterations are timed.

    Attributes:
        name: In the table.
        conf: Name in confs/.
        overrides: What is changed.
        period: Iterations between lines of the log.
        lines: Lines of the log that are waited for.
    """

    name: str
    conf: str
    overrides: tuple[str, ...]
    period: int
    lines: int


def busy(setting: Setting) -> None:
    """Iterations per second of train.py alone, beside one busy loop and beside its like, and those of --before."""
    runs = _runs(setting)
    with TemporaryDirectory() as folder, _bound_to(CPUS):
        missing = revisions.extract(setting.before, Path(folder))
        codes = {"now": ROOT} if missing else {setting.before: Path(folder), "now": ROOT}
        rows = [_row(run, code, root) for run in runs for code, root in codes.items()]
    report(setting, "busy: train.py on two CPUs", rows, f"{NOTE}{missing}", "networks as named", "one run each")


def _runs(setting: Setting) -> Sequence[Run]:
    crops = "{mode: bundled, split: train, GT_size: 160, batch_size: 2, use_flip: true, use_rot: true}"
    full = (*networks.FULL, f"datasets.train={crops}", "datasets.val=null")
    couplings = [
        Run(f"demo {name}", "demo", (f"network_G.flow.coupling={name}", "datasets.val=null"), 10, 10)
        for name in ("affine", "rq_spline")
    ]
    if setting.tiny:
        return [Run("demo affine", "demo", (*couplings[0].overrides, "datasets.train.batch_size=1"), 1, 3)]
    return [*couplings, Run("full rq_spline, 2 crops", networks.CONFS["rq"], full, 1, 8)]


def _row(run: Run, code: str, root: Path) -> Row:
    # Code that other processes compiled is found again, as where users train more than once.
    alone, start = _rates(run, root, 1)
    with _busy_loop():
        busy, _ = _rates(run, root, 1)
    two, _ = _rates(run, root, 2)
    row = {"training": run.name, "code": code, "start": start, "it/s": alone, "busy": busy, "two": two}
    print(row, file=sys.stderr, flush=True)
    return {**row, "busy / alone": busy / alone, "two / alone": two / alone}


def _rates(run: Run, root: Path, n: int) -> tuple[float, float]:
    """Iterations per second, and seconds of start, of the slowest of n trainings side by side."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        started = [stack.enter_context(_training(run, root, Path(folder, str(k)))) for k in range(n)]
        found = [_timed(run, process, begun) for process, begun in started]
    return min(rate for rate, _ in found), max(start for _, start in found)


@contextmanager
def _training(run: Run, root: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """Start train.py; end it afterwards, wherever it is."""
    override = (*run.overrides, "name=busy", f"path.experiments={folder}", f"logger.print_freq={run.period}")
    command = [sys.executable, "train.py", "-opt", f"confs/{run.conf}.yml", "--override", "|".join(override)]
    own = {"PYTHONPATH": str(root / "codes"), "TQDM_DISABLE": "1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_", "GOMP_"))}
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=root, env=environment | own, stderr=subprocess.PIPE, text=True)
    try:
        yield process, begun
    finally:
        process.kill()
        process.communicate()


def _timed(run: Run, process: subprocess.Popen[str], begun: float) -> tuple[float, float]:
    assert process.stderr is not None
    marks: list[float] = []
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if LINE.match(line):
            marks.append(time.perf_counter())
        if len(marks) == run.lines:
            break
    if len(marks) < run.lines:
        raise SystemExit(f"{run.name}: training ended early\n{''.join(said[-20:])}")
    return run.period * (len(marks) - 2) / (marks[-1] - marks[1]), marks[1] - begun


@contextmanager
def _busy_loop() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _bound_to(n: int) -> Iterator[None]:
    """Bind this process, and those it starts, to so many CPUs, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:n])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
