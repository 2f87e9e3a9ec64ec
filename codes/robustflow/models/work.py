"""How much a network computes."""

from torch import nn

from robustflow.flows import ConditionalFlow


def mapped_elements(network: nn.Module, pixels: int) -> int:
    """Elements that a network's couplings and injectors map for so many pixels of HR images."""
    if not isinstance(network, ConditionalFlow):
        return 0
    total = 0
    for number, level in enumerate(network.typed_levels, start=1):
        for step in level.full_steps:
            channels = step.actnorm.bias.numel()
            halves = 1 if step.noise_coupling is None else 2
            total += (2 + halves) * channels * pixels // (2 * 4**number)
    return total
