"""Validation in the course of training."""

import logging
import math
from functools import partial

import torch

from robustflow.evaluation.evaluate import Evaluator
from robustflow.evaluation.sampling import strip
from robustflow.training import ema, saving
from robustflow.training.checkpoint import Progress
from robustflow.training.failures.sentinel import Sentinel
from robustflow.training.logbook import Logbook
from robustflow.training.run import Run

log = logging.getLogger(__name__)


def was_left_out(run: Run, progress: Progress) -> bool:
    """Whether a signal or a fault left out the validation of the iteration that the run goes on from."""
    iteration, o = progress.iteration, run.options.train
    planned = iteration > 0 and (iteration % o.val_freq == 0 or iteration == o.niter)
    return run.validation is not None and planned and progress.validated < iteration


def validate(run: Run, logbook: Logbook, progress: Progress, sentinel: Sentinel) -> None:
    """Evaluate the validation set and note its figures and, of the first image, input, sample and ground truth.

    It comes before the checkpoint is saved, so that this holds the best validation so far, and is not what training
    goes back to if its samples are not finite.
    """
    options, items, iteration = run.options, run.validation, progress.iteration
    if items is None:
        return
    model = ema.evaluated(run.model, run.average).eval()
    try:
        evaluator = Evaluator(model, options.val, None, processes=run.processes)
        summary, _ = evaluator.evaluate("val", items)
    except torch.OutOfMemoryError:
        # The training itself is sound.
        if run.processes.main:
            saving.save(run, progress)
        raise
    drawn, finite = (sum(of_heat[key] for of_heat in summary["heats"].values()) for key in ("n_samples", "n_finite"))
    scalars = {"bits_per_dim": summary["bits_per_dim"], "non_finite_samples": drawn - finite}
    for heat, values in summary["heats"].items():
        figures = ("psnr", "psnr_gtmean", "lr_psnr_mean", "pixel_error_pct", "inf_pct")
        scalars |= {f"{key}_t{heat}": values.get(key) for key in figures}
    if run.processes.main:
        logbook.validation(iteration, scalars, strip(model, items[0], options.val))
    run.model.train()
    progress.validated = iteration
    save = partial(run.processes.on_main, saving.save, run, progress)
    if sentinel.bad_validation(iteration, drawn - finite, drawn, save):
        saving.after_event(run, logbook, iteration, progress)
    elif saving.is_due(options, iteration):
        _note_best(progress, summary["bits_per_dim"])


def _note_best(progress: Progress, bits_per_dim: float | None) -> None:
    if bits_per_dim is None or not math.isfinite(bits_per_dim):
        return
    if progress.best is None or bits_per_dim < progress.best[1]:
        progress.best = (progress.iteration, bits_per_dim)
    log.info("best validation with a checkpoint: iteration %d, bits_per_dim %.4f", *progress.best)
