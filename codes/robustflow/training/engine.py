"""From options to a finished training run, for the command line."""

from pathlib import Path

from robustflow.data import checks
from robustflow.options import memory_advice
from robustflow.options.schema import RunOptions
from robustflow.training import check as trial
from robustflow.training.loop import train
from robustflow.utils import distributed
from robustflow.utils.answer import DONE, INTERRUPTED, answer
from robustflow.utils.files import require_inside


def run(options: RunOptions, *, check: bool = False) -> int:
    """Train; return the exit status: 0 done, 1 failed, 2 mistake (message on stderr), 130 interrupted and saved.

    Started by torchrun, train together with its other processes. With ``check`` only try whether all is right.
    """

    @distributed.announcing()
    def work() -> int:
        for folder in ("models", "training_state", "tensorboard", "non_finite", "checksums"):
            require_inside(Path(options.path.experiments, options.name), folder)
        if distributed.is_main():
            checks.warn(options.datasets, options.scale, used="train")
        if check:
            print(trial.check(options))  # noqa: T201
            return DONE
        return DONE if train(options) else INTERRUPTED

    with distributed.joined():
        return answer(
            work,
            memory=lambda: memory_advice.of_training(options),
            interrupted="interrupted at once; go on from the newest checkpoint with --resume auto",
            alone=check,
        )
