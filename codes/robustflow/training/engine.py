"""From options to a finished training run, for the command line."""

from robustflow import exit_status
from robustflow.options.schema import RunOptions
from robustflow.training.trainer import train

_MEMORY = (
    "Lower train.micro_batch, datasets.train.batch_size, datasets.train.GT_size, datasets.train.n_workers or "
    "network_G.flow.projection_memory, or set train.checkpointing: step or level."
)


def run(options: RunOptions) -> int:
    """Train; return the exit status: 0 done, 1 failed, 2 mistake (message on stderr), 130 interrupted and saved."""
    return exit_status.answered(
        lambda: exit_status.DONE if train(options) else exit_status.INTERRUPTED,
        memory=_MEMORY,
        interrupted="interrupted at once; go on from the newest checkpoint with --resume auto",
    )
