"""train.py as a whole: data, logging, optimizer and all."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import cost, jobs, networks, throughput
from benchmarks.cost import Cost
from benchmarks.jobs import Job
from benchmarks.networks import ROOT
from benchmarks.setting import Row, Setting, reporting
from robustflow.options.schema import RunOptions

CROPS = "{{mode: bundled, split: {split}, GT_size: {side}, {more}}}"
NEVER = 1_000_000
NOTE = (
    "Without start-up and validation. peak: of all of torch's allocations. kernels: per iteration. floor: of forward "
    "and backward alone, see case train."
)


@dataclass(frozen=True)
class Run:
    """A configuration to train.

    Attributes:
        conf: Name in confs/.
        overrides: What is changed.
        period: Iterations between lines of the log.
        batch: Crops per iteration.
        full: Whether it is the full spline network.
    """

    conf: str
    overrides: tuple[str, ...]
    period: int
    batch: int
    full: bool = False


def loop(setting: Setting) -> None:
    """Iterations per second of train.py, everything included but the start: the demo and the full spline network."""
    needed = cost.flops(jobs.prepare(Job("train", "ours fp32", "rq"), setting))
    used = ("tf32", "bf16") if setting.on_cuda else ("fp32", "bf16")
    rates = {precision: throughput.fastest(precision, setting) for precision in used}
    with reporting(setting, "loop: train.py", NOTE, "bundled photographs") as rows:
        runs, (captured, *uncaptured) = (_full(setting), _demo(setting)), _graphs(setting)
        # Uncaptured is there to be compared with, and slow: once, at last, will do.
        cases = [*itertools.product(used, runs, [captured]), *itertools.product(used[:1], runs[:1], uncaptured)]
        for precision, run, graphs in cases:
            found = _trained(run, precision, graphs, setting)
            rows.append(_row(run, precision, graphs, found, needed, rates[precision]))
            print(" ".join(f"{key}: {value}" for key, value in rows[-1].items()), file=sys.stderr, flush=True)


def _graphs(setting: Setting) -> Sequence[str | None]:
    """Values of the option cuda_graphs; None where there is none."""
    return ("auto", "off") if setting.on_cuda and "cuda_graphs" in RunOptions.model_fields else (None,)


def _demo(setting: Setting) -> Run:
    batch, period = (2, 1) if setting.tiny else (8, 50 if setting.on_cuda else 5)
    return Run("demo", (f"datasets.train.batch_size={batch}",), period, batch)


def _full(setting: Setting) -> Run:
    """Network of confs/fsncsr_4x_rq.yml; crops of bundled photographs."""
    batch, side = (2, 32) if setting.tiny else (16 if setting.on_cuda else 2, 160)
    workers = 4 if setting.on_cuda else 0
    more = f"batch_size: {batch}, n_workers: {workers}, use_flip: true, use_rot: true"
    overrides = (
        *networks.FULL,
        *(networks.TINY if setting.tiny else ()),
        f"datasets.train={CROPS.format(split='train', side=side, more=more)}",
    )
    return Run(networks.CONFS["rq"], overrides, 5 if setting.on_cuda else 1, batch, full=True)


def _trained(run: Run, precision: str, graphs: str | None, setting: Setting) -> Cost:
    """Train in a fresh process; what it says is passed on if it fails."""
    niter = run.period * (2 + setting.repeats + setting.on_cuda)
    with TemporaryDirectory() as folder:
        override = "|".join(
            (
                *run.overrides,
                *("name=loop", f"path.experiments={Path(folder)}", f"precision={precision}"),
                *(() if graphs is None else (f"cuda_graphs={graphs}",)),
                *(f"device={setting.device}", f"train.niter={niter}", "datasets.val=null", "train.ood_patches=0"),
                *(f"logger.print_freq={run.period}", f"logger.save_checkpoint_freq={NEVER}"),
            )
        )
        command = [sys.executable, "-m", "benchmarks.loop_child", str(run.period)]
        command += ["-opt", f"confs/{run.conf}.yml", "--override", override]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{run.conf}, {precision}: failed\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
        return Cost()
    values = json.loads(done.stdout.splitlines()[-1])
    return Cost(1 / values.pop("rate"), **values)


def _row(run: Run, precision: str, graphs: str | None, found: Cost, needed: float, rate: float) -> Row:
    columns = found.columns(run.batch * needed, rate)
    return {
        "conf": run.conf,
        "crops": run.batch,
        "precision": precision,
        "cuda_graphs": graphs,
        "it/s": found.seconds and 1 / found.seconds,
        **columns,
        "floor / seconds": columns["floor / seconds"] if run.full else None,
    }
