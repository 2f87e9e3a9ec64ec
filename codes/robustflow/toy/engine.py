"""From options to the toy's figures and tables."""

import contextlib
import itertools
import json
import logging
import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from robustflow.options import load as options_load
from robustflow.options.toy import ToyOptions
from robustflow.report import plots
from robustflow.toy import figures, summary
from robustflow.toy.run import Finished, Given, Job, held_out, jobs, perform
from robustflow.utils import cpus, locks
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)

Arguments = tuple[ToyOptions, Given, Job]


def experiment(options: ToyOptions) -> str:
    """Do all runs and write figure.png, layers.png, summary.md, summary.json and options.yml; return the summary."""
    folder = Path(options.path.results) / options.name
    with locks.hold(locks.within(folder), folder):
        return _experiment(options, folder)


def _experiment(options: ToyOptions, folder: Path) -> str:
    start = time.perf_counter()
    planned, given = jobs(options), held_out(options)
    with _mapping(options, len(planned)) as do_all:
        finished = list(_told(do_all([(options, given, job) for job in planned]), len(planned)))
    finished.sort(key=lambda run: planned.index(run.job))

    text = summary.markdown(options, given, finished, time.perf_counter() - start)
    options_load.save(options, folder / "options.yml")
    plots.save_png(figures.samples(options, given, finished), folder / "figure.png")
    plots.save_png(figures.layers(options, finished), folder / "layers.png")
    write_atomically(folder / "summary.json", json.dumps(summary.record(options, given, finished), indent=1).encode())
    write_atomically(folder / "summary.md", text.encode())
    log.info("%s: figure.png, layers.png, summary.md, summary.json", folder)
    return text


@contextlib.contextmanager
def _mapping(options: ToyOptions, n_jobs: int) -> Iterator[Callable[[Sequence[Arguments]], Iterator[Finished]]]:
    """A function that performs jobs, in processes of their own unless ``n_workers`` is 0; in any order."""
    n_workers = cpus.available() if options.n_workers is None else options.n_workers
    if n_workers == 0:
        yield partial(itertools.starmap, perform)
        return
    # Forking a process whose torch has started threads can hang.
    with multiprocessing.get_context("spawn").Pool(min(n_workers, n_jobs), _leave_signals_to_main) as pool:
        yield lambda jobs: map(pickle.loads, pool.imap_unordered(_perform_packed, map(pickle.dumps, jobs)))


def _perform_packed(arguments: bytes) -> bytes:
    """``perform`` on pickles: torch itself hands tensors over in shared memory, of which containers have little."""
    return pickle.dumps(perform(*pickle.loads(arguments)))


def _leave_signals_to_main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _told(finished: Iterable[Finished], total: int) -> Iterator[Finished]:
    """The same runs, with a line for each."""
    for run in tqdm(finished, total=total, unit="run", disable=None):
        log.info("%s, seed %d: %s", run.job.coupling, run.job.seed, summary.line(run))
        yield run
