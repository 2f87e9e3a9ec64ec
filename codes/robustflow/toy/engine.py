"""From options to the toy's figures and tables."""

import contextlib
import itertools
import json
import logging
import multiprocessing
import pickle
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from robustflow.options import load as options_load
from robustflow.options.toy import ToyOptions
from robustflow.report import plots
from robustflow.toy import figures, summary
from robustflow.toy.run import Given, Trial, draw_held_out, perform
from robustflow.utils import cpus, locks, memory
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)


def experiment(options: ToyOptions) -> str:
    """Do all runs and write figure.png, layers.png, summary.md, summary.json and options.yml; return the summary."""
    folder = Path(options.path.results) / options.name
    with locks.hold(locks.within(folder), folder):
        start = time.perf_counter()
        given = draw_held_out(options)
        trials = _perform_all(options, given)
        text = summary.markdown(options, given, trials, time.perf_counter() - start)
        options_load.save(options, folder / "options.yml")
        plots.save_png(figures.draw_samples(options, given, trials), folder / "figure.png")
        plots.save_png(figures.draw_layers(options, trials), folder / "layers.png")
        write_atomically(folder / "summary.json", json.dumps(summary.record(options, given, trials), indent=1))
        write_atomically(folder / "summary.md", text)
    log.info("%s: figure.png, layers.png, summary.md, summary.json", folder)
    return text


def _perform_all(options: ToyOptions, given: Given) -> list[Trial]:
    """Do the run of each coupling and seed, in this order, in processes of their own unless ``n_workers`` is 0."""
    planned = list(itertools.product(options.couplings, options.train.seeds))
    jobs = [(options, given, *job) for job in planned]
    n_workers = cpus.available() if options.n_workers is None else options.n_workers
    memory.require_shared(n_workers, "n_workers")
    trials = []
    with contextlib.ExitStack() as stack:
        done: Iterable[Trial] = itertools.starmap(perform, jobs)
        if n_workers > 0:
            # Forking a process whose torch has started threads can hang.
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(context.Pool(min(n_workers, len(jobs)), _leave_signals_to_main))
            done = map(pickle.loads, pool.imap_unordered(_perform_packed, map(pickle.dumps, jobs)))
        for trial in tqdm(done, total=len(jobs), unit="run", disable=None):
            log.info("%s, seed %d: %s", trial.coupling, trial.seed, summary.line(trial))
            trials.append(trial)
    return sorted(trials, key=lambda trial: planned.index((trial.coupling, trial.seed)))


def _perform_packed(arguments: bytes) -> bytes:
    """``perform`` on pickles: torch itself hands tensors over in shared memory, of which containers have little."""
    return pickle.dumps(perform(*pickle.loads(arguments)))


def _leave_signals_to_main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
