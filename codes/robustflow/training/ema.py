"""Exponential moving average of the weights: averaged = decay·averaged + (1 − decay)·weights after each update.

It begins with the weights of the first update, when ActNorms are initialised. Buffers are copied.
"""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build(network: nn.Module, decay: float | None) -> AveragedModel | None:
    """The average, not begun yet; None without a decay."""
    if decay is None:
        return None
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.requires_grad_(False)
    return average


def has_begun(average: AveragedModel | None) -> bool:
    """Whether there is an average of anything."""
    return average is not None and bool(average.n_averaged > 0)


def evaluated(network: nn.Module, average: AveragedModel | None) -> nn.Module:
    """What to draw samples from: the average once it has begun, else the network itself."""
    return average.module if average is not None and has_begun(average) else network
