"""From options to the toy's figures and tables."""

import contextlib
import itertools
import json
import logging
import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from robustflow.options import load as options_load
from robustflow.options.toy import ToyOptions
from robustflow.report import plots
from robustflow.toy import figures, summary
from robustflow.toy.run import Given, Trial, draw_held_out, perform
from robustflow.utils import cpus, locks
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)

Arguments = tuple[ToyOptions, Given, str, int]


def experiment(options: ToyOptions) -> str:
    """Do all runs and write figure.png, layers.png, summary.md, summary.json and options.yml; return the summary."""
    folder = Path(options.path.results) / options.name
    with locks.hold(locks.within(folder), folder):
        return _experiment(options, folder)


def _experiment(options: ToyOptions, folder: Path) -> str:
    start = time.perf_counter()
    given, trials = draw_held_out(options), []
    planned = list(itertools.product(options.couplings, options.train.seeds))
    with _start_workers(options, len(planned)) as do_all:
        done = do_all([(options, given, *job) for job in planned])
        for trial in tqdm(done, total=len(planned), unit="run", disable=None):
            log.info("%s, seed %d: %s", trial.coupling, trial.seed, summary.line(trial))
            trials.append(trial)
    trials.sort(key=lambda trial: planned.index((trial.coupling, trial.seed)))

    text = summary.markdown(options, given, trials, time.perf_counter() - start)
    options_load.save(options, folder / "options.yml")
    plots.save_png(figures.draw_samples(options, given, trials), folder / "figure.png")
    plots.save_png(figures.draw_layers(options, trials), folder / "layers.png")
    write_atomically(folder / "summary.json", json.dumps(summary.record(options, given, trials), indent=1))
    write_atomically(folder / "summary.md", text)
    log.info("%s: figure.png, layers.png, summary.md, summary.json", folder)
    return text


@contextlib.contextmanager
def _start_workers(options: ToyOptions, n_jobs: int) -> Iterator[Callable[[Sequence[Arguments]], Iterator[Trial]]]:
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
