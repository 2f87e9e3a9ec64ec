"""Training in several processes: each computes its share of every batch, all make the same update.

A batch is that of one process: the same crops by their global numbers, the same noise, image by image. Each process
computes the gradients of its share; their average, the gradients of the whole batch, is taken once they are complete.
That is simpler than DistributedDataParallel, and as exact: the encoder may begin to learn in mid-run, a batch may be
computed in pieces, ActNorms are initialised from a batch that no process computes alone. What is given up is the
overlap of communication and backward pass: the gradients of 40 M parameters are 160 MB per iteration.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import default_collate

from robustflow import data
from robustflow.bijections.actnorm import ActNorm
from robustflow.models import Model
from robustflow.options.schema import RunOptions
from robustflow.training.failures.dump import Step
from robustflow.training.optimizer import load_state
from robustflow.utils.distributed import Processes


class Silent:
    """Stands in for what writes, in processes that do not: every method does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: None


def share_of_numbers(processes: Processes, batch_size: int, first: int, last: int) -> Iterator[int]:
    """Numbers of the crops of this process in iterations ``first`` + 1 to ``last``."""
    own = processes.share_of(batch_size)
    for start in range(first * batch_size + processes.rank * own, last * batch_size, batch_size):
        yield from range(start, start + own)


def whole_batch(crops: data.TrainingCrops, batch_size: int, iteration: int, n: int | None = None) -> dict[str, Tensor]:
    """The crops of all processes in an iteration, counted from 1, or the first n of them; loaded here, one by one."""
    start = (iteration - 1) * batch_size
    return default_collate([crops[number] for number in range(start, start + (n or batch_size))])


def share(processes: Processes, network: nn.Module, adam: torch.optim.Adam, average: AveragedModel | None) -> None:
    """Give all processes the weights, their moving average and the optimizer state of the main one."""
    if processes.size == 1:
        return
    for module in (network, average):
        if module is not None:
            _copy_from_main(processes, module)
    state = processes.on_main(lambda: _on_cpu(adam.state_dict()))
    if not processes.main:
        load_state(adam, state)


def _copy_from_main(processes: Processes, module: nn.Module) -> None:
    """Load what the main process has, as from a file: modules may know something of what they hold."""
    state = module.state_dict()
    processes.copy_from_main(list(state.values()))
    module.load_state_dict(state)


def _on_cpu(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.cpu()
    if isinstance(values, dict):
        return {key: _on_cpu(value) for key, value in values.items()}
    return [_on_cpu(value) for value in values] if isinstance(values, list) else values


def initialise_actnorms(
    processes: Processes,
    model: Model,
    crops: data.TrainingCrops,
    options: RunOptions,
    step: Step,
) -> None:
    """Before the first update: show ActNorms the crops that one process would initialise them from.

    These are the first ``micro_batch`` of the whole batch, or all of it, computed in the main process; without
    autograd, which takes less memory than a training step of as many crops.
    """
    ready = all(module.is_initialized() for module in model.modules() if isinstance(module, ActNorm))
    if processes.size == 1 or ready:
        return

    def initialise() -> None:
        device = model.device
        batch = whole_batch(crops, options.datasets["train"].batch_size, step.iteration, options.train.micro_batch)
        gt, lr = (batch[key].to(device) for key in ("gt", "lr"))
        with torch.no_grad():
            model.loss(gt, lr, torch.Generator(device).manual_seed(step.seed))

    processes.on_main(initialise)
    _copy_from_main(processes, model.network)


def average(processes: Processes, network: nn.Module, loss: Tensor) -> Tensor:
    """Make gradients those of the whole batch; return its loss, from that of this process's share."""
    if processes.size == 1:
        return loss
    loss = loss.clone()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    processes.average([loss, *gradients])
    return loss
