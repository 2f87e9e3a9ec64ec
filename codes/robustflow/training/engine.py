"""From options to a finished training run, for the command line."""

from functools import partial
from pathlib import Path

from robustflow.data import checks
from robustflow.models import Model
from robustflow.options import memory_advice
from robustflow.options.schema import RunOptions
from robustflow.registry import MODELS
from robustflow.training import check as trial
from robustflow.training.loop import finish, iterate
from robustflow.training.preparation import prepare
from robustflow.utils import distributed
from robustflow.utils.answer import DONE, INTERRUPTED, answering, require_one_process
from robustflow.utils.errors import UserError
from robustflow.utils.files import require_inside


def run(options: RunOptions, *, check: bool = False) -> int:
    """Train; return the exit status: 0 done, 1 failed, 2 mistake (message on stderr), 130 interrupted and saved.

    Started by torchrun, train together with its other processes. With ``check`` only try whether all is right.
    """
    memory = partial(memory_advice.of_training, options)
    interrupted = "interrupted at once; go on from the newest checkpoint with --resume auto"
    with (
        distributed.joined(),
        answering(memory=memory, interrupted=interrupted) as reply,
        distributed.announcing(),
    ):
        if check:
            require_one_process()
        _require_weights(options)
        for folder in ("models", "training_state", "tensorboard", "non_finite", "checksums"):
            require_inside(Path(options.path.experiments, options.name), folder)
        if distributed.is_main():
            checks.warn(options.datasets, options.scale, used="train")
        if check:
            print(trial.check(options))  # noqa: T201
        else:
            with prepare(options) as run:
                iterate(run)
                reply.status = DONE if finish(run) else INTERRUPTED
    return reply.status


def _require_weights(options: RunOptions) -> None:
    kind: type[Model] = MODELS.entry_of(options.model)
    if not kind.has_weights:
        name = getattr(options.model, MODELS.key)
        raise UserError(
            f"model: expected one that can be trained, got {name}, which has no weights; it is ready to be tested: "
            "python test.py -opt ..."
        )
