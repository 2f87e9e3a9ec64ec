"""Learning rate and trainable parts, functions of the iteration alone: a resumed run continues exactly."""

import torch
from torch import nn

from robustflow.options.schema import TrainOptions


def learning_rate(options: TrainOptions, iteration: int) -> float:
    """Learning rate of an iteration, counted from 1: linear warm-up, then lr_gamma at each of lr_steps_rel."""
    warmup = min(1.0, iteration / options.warmup_iter) if options.warmup_iter > 0 else 1.0
    steps = sum(iteration > step * options.niter for step in options.lr_steps_rel)
    return options.lr_G * warmup * options.lr_gamma**steps


def build(network: nn.Module, options: TrainOptions) -> torch.optim.Adam:
    """Adam over all parameters; frozen ones have no gradient and are skipped."""
    return torch.optim.Adam(network.parameters(), options.lr_G, (options.beta1, options.beta2))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
