"""From options to a finished training run, for the command line."""

import logging
import sys

import torch

from robustflow import distributed
from robustflow.errors import UserError
from robustflow.options.schema import RunOptions
from robustflow.training.trainer import TrainingStopped, train

# What a shell reports for a process ended by Ctrl-C.
INTERRUPTED = 130


def run(options: RunOptions) -> int:
    """Train; return the exit status: 0 done, 1 mistake or failure (message on stderr), 130 interrupted and saved.

    Started by torchrun, train together with its other processes.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with distributed.joined() as processes:
        return _answered(options, processes)


def _answered(options: RunOptions, processes: distributed.Processes) -> int:
    try:
        with processes.sharing_errors():
            return 0 if train(options, processes) else INTERRUPTED
    except (UserError, TrainingStopped, distributed.FailedElsewhere) as error:
        logging.getLogger(__name__).error("error: %s", str(error))
        return 1
    except torch.OutOfMemoryError as error:
        hint = (
            "Lower train.micro_batch, datasets.train.GT_size or network_G.flow.projection_memory, or set "
            "train.checkpointing: step or level."
        )
        logging.getLogger(__name__).error("error: %s\n  %s", str(error), hint)
        return 1
    except KeyboardInterrupt:
        logging.getLogger(__name__).error("interrupted at once; go on from the newest checkpoint with --resume auto")
        return INTERRUPTED
