"""How weights are updated: learning rate, clipping, Adam, and their exponential moving average.

The learning rate is a function of the iteration alone: a resumed run continues exactly.
"""

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from robustflow.options.schema import TrainOptions


def learning_rate(options: TrainOptions, iteration: int) -> float:
    """Learning rate of an iteration, counted from 1: linear warm-up, times what lr_scheme says."""
    warmup = min(1.0, iteration / options.warmup_iter) if options.warmup_iter > 0 else 1.0
    if options.lr_scheme == "CosineAnnealingRestartLR":
        return warmup * _cosine(options, iteration - 1)
    steps = sum(iteration > step * options.niter for step in options.lr_steps_rel)
    return options.lr_G * warmup * options.lr_gamma**steps


def _cosine(options: TrainOptions, done: int) -> float:
    """Rate after some iterations: η + w·½(lr − η)(1 + cos(π t/T)), t iterations into a period of T, as in BasicSR.

    torch's CosineAnnealingWarmRestarts knows no weights, and no periods but those of one ratio.
    """
    ends = list(itertools.accumulate(options.periods))
    k = bisect.bisect_left(ends, done)
    length = options.periods[k]
    weight = 1.0 if options.restart_weights is None else options.restart_weights[k]
    fallen = math.cos(math.pi * (done - ends[k] + length) / length)
    return options.eta_min + weight * 0.5 * (options.lr_G - options.eta_min) * (1 + fallen)


def build(network: nn.Module, options: TrainOptions) -> torch.optim.Adam:
    """Adam over all parameters, all updated at once; frozen ones have no gradient and are skipped."""
    return torch.optim.Adam(network.parameters(), options.lr_G, (options.beta1, options.beta2), fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(adam: torch.optim.Adam, limit: float | None) -> Tensor:
    """Clip the L2 norm of the gradients that are there, if there is a limit; return it as it was, on the device."""
    (group,) = adam.param_groups
    norm = nn.utils.get_total_norm([parameter.grad for parameter in group["params"] if parameter.grad is not None])
    if limit is not None:
        nn.utils.clip_grads_with_norm_(group["params"], limit, norm)
    return norm


def suppress_unless_finite(adam: torch.optim.Adam, measured: Tensor) -> None:
    """Let the device itself leave out the next update if anything measured is not finite; nobody waits for it."""
    adam.found_inf = (~measured.isfinite()).any().float()  # type: ignore[attr-defined]


def load_state(adam: torch.optim.Adam, state: Mapping[str, Any]) -> None:
    """Load a state, also of an optimizer that updated otherwise; moments are laid out in memory as parameters are.

    Updates of all parameters at once do not look at strides. ValueError for a state of other parameters.
    """
    groups = [{**group, "fused": True, "foreach": None} for group in state["param_groups"]]
    adam.load_state_dict({**state, "param_groups": groups})
    for parameter, values in adam.state.items():
        for name in values.keys() - {"step"}:
            if values[name].shape != parameter.shape:
                raise ValueError(f"{name}: expected shape {tuple(parameter.shape)}, got {tuple(values[name].shape)}")
            values[name] = torch.empty_like(parameter, requires_grad=False).copy_(values[name])


class MovingAverage(AveragedModel):
    """Exponential moving average of a network's weights, in ``module``; buffers are those of the network.

    It begins with the weights of the first update, when ActNorms are initialised. All is done at once and, unlike
    AveragedModel's own update, without waiting for the device; the count is on the CPU.

    Args:
        network: Whose parameters stay the same tensors; buffers may be replaced.
        decay: Share of the average that an update keeps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network)
        self.requires_grad_(False)
        self._decay = decay
        # Found once: to look for thousands takes the host longer than to update them.
        self._weights = _by_type(self.module.parameters(), network.parameters())
        self._places = [_places_of_buffers(each) for each in (self.module, network)]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after an update: averaged = decay·averaged + (1 − decay)·weights."""
        weight = 1.0 if self.n_averaged == 0 else 1 - self._decay
        for averaged, current in self._weights:
            torch._foreach_lerp_(averaged, current, weight)
        both = ([module.get_buffer(name) for module, name in places] for places in self._places)
        for averaged, current in _by_type(*both):
            torch._foreach_copy_(averaged, current)
        self.n_averaged += 1


def _places_of_buffers(network: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(module, name) for module in network.modules() for name, _ in module.named_buffers(recurse=False)]


def _by_type(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Pairs of tensors as lists of one type each, which functions of many tensors take."""
    groups: defaultdict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for one, other in zip(first, second, strict=True):
        groups[one.dtype][0].append(one)
        groups[one.dtype][1].append(other)
    return list(groups.values())
