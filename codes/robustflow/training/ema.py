"""Exponential moving average of the weights: averaged = decay·averaged + (1 − decay)·weights after each update.

It begins with the weights of the first update, when ActNorms are initialised. Buffers are copied.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from robustflow.models import Model


def build(model: Model, decay: float | None) -> AveragedModel | None:
    """The average, not begun yet; None without a decay."""
    if decay is None:
        return None
    average = AveragedModel(model)
    average.requires_grad_(False)
    return average


def update(average: AveragedModel, network: nn.Module, decay: float) -> None:
    """Take in the weights after an update; all at once, and without waiting for the device."""
    pairs = list(zip(average.module.parameters(), network.parameters(), strict=True))
    buffers = list(zip(average.module.buffers(), network.buffers(), strict=True))
    with torch.no_grad():
        # The count is on the CPU.
        if average.n_averaged == 0:
            _copy([*pairs, *buffers])
        else:
            for averaged, current in _by_type(pairs):
                torch._foreach_lerp_(averaged, current, 1 - decay)
            _copy(buffers)
    average.n_averaged += 1


def has_begun(average: AveragedModel | None) -> bool:
    """Whether there is an average of anything."""
    return average is not None and bool(average.n_averaged > 0)


def evaluated(model: Model, average: AveragedModel | None) -> Model:
    """What to draw samples from: the average once it has begun, else the model itself."""
    return cast(Model, average.module) if average is not None and has_begun(average) else model


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for averaged, current in _by_type(pairs):
        torch._foreach_copy_(averaged, current)


def _by_type(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Lists of tensors of one type each, as functions of many tensors take them."""
    found: defaultdict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for averaged, current in pairs:
        found[averaged.dtype][0].append(averaged)
        found[averaged.dtype][1].append(current)
    return list(found.values())
