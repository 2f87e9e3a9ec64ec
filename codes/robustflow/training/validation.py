"""Validation in the course of training."""

import logging
import math

import torch

from robustflow.evaluation import metrics
from robustflow.evaluation.evaluator import Evaluator, Stopped
from robustflow.evaluation.sampling import strip
from robustflow.training import checkpoint
from robustflow.training.failures.guard import NonFiniteGuard
from robustflow.training.interruption import Interruption
from robustflow.training.run import Progress, Run
from robustflow.utils import distributed

log = logging.getLogger(__name__)


def validate(run: Run, guard: NonFiniteGuard, interruption: Interruption) -> None:
    """Evaluate the validation set and note its figures and, of the first image, input, sample and ground truth.

    A signal breaks it off after the image under way: a batch system does not wait for a whole validation. It is then
    missed, and made up for when the run goes on.

    It comes before the checkpoint is saved, so that this holds the best validation so far, and is not what training
    is rolled back to if its samples are not finite.
    """
    options, items, iteration = run.options, run.validation, run.progress.iteration
    assert items is not None, "validated only where there is a set"
    model = run.evaluated.eval()
    try:
        summary, _ = Evaluator(model, options.val, None).evaluate("val", items, stop=lambda: interruption.requested)
    except Stopped:
        return
    except torch.OutOfMemoryError:
        # The training itself is sound.
        if distributed.is_main():
            checkpoint.save(run)
        raise
    drawn, finite = (sum(of_heat[key] for of_heat in summary["heats"].values()) for key in ("n_samples", "n_finite"))
    scalars = {"bits_per_dim": summary["bits_per_dim"], "non_finite_samples": drawn - finite}
    columns = [column for metric in metrics.choose(model.protocol) for column in metric.columns]
    noted = [column.key for column in columns if "training" in column.places]
    for heat, values in summary["heats"].items():
        scalars |= {f"{key}_t{heat}": values.get(key) for key in noted}
    if distributed.is_main():
        run.logbook.validation(iteration, scalars, strip(model, items[0], options.val))
    model.eval()  # lets go of what it kept for sampling, a moving average, too
    run.model.train()
    run.progress.validated = iteration
    if not guard.bad_validation(drawn - finite, drawn) and run.saves(iteration):
        _note_best(run.progress, summary["bits_per_dim"])


def _note_best(progress: Progress, bits_per_dim: float | None) -> None:
    if bits_per_dim is None or not math.isfinite(bits_per_dim):
        return
    if progress.best is None or bits_per_dim < progress.best[1]:
        progress.best = (progress.iteration, bits_per_dim)
    log.info("best validation with a checkpoint: iteration %d, bits_per_dim %.4f", *progress.best)
