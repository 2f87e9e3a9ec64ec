"""What is specific to a problem: how a batch becomes a flow's inputs, and how a sample becomes an image."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustflow.data.bicubic import mirror_pad
from robustflow.flows import ConditionalFlow, builder
from robustflow.options.schema import NetworkOptions

# Draws one image (3, H, W) for each generator, at a temperature.
Draw = Callable[[float, Sequence[torch.Generator]], Tensor]


@dataclass(frozen=True)
class FlowInputs:
    """Data x (b, c, H, W), condition (b, c', h, w) and noise map (b, c, H, W), or None without noise couplings."""

    x: Tensor
    condition: Tensor
    noise: Tensor | None


class Task(ABC):
    """A problem and its model: losses, likelihoods and samples, the same calls for every network.

    Attributes:
        loss_name: What ``loss`` measures; the name in logs.
    """

    loss_name: str

    @abstractmethod
    def build_network(self, options: NetworkOptions) -> nn.Module:
        """Build the untrained network."""

    @abstractmethod
    def encoder(self, network: nn.Module) -> nn.Module:
        """Return the part of the network that is pretrained, and frozen at first."""

    @abstractmethod
    def loss(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor:
        """Training loss, scalar, of images gt (b, 3, H, W) and lr (b, 3, h, w), both in [0, 1]."""

    @abstractmethod
    def bits_per_dim(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor | None:
        """−log₂ p(gt | lr) per dimension, (b,), under the training noise; None for models without likelihood."""

    @abstractmethod
    def size_multiple(self, network: nn.Module) -> int:
        """HR images whose sides are multiples of this need no padding."""

    @abstractmethod
    def drawing(self, network: nn.Module, lr: Tensor) -> Draw:
        """Prepare one lr (1, 3, h, w), any size; the returned function shares that work among all its calls."""


class FlowTask(Task):
    """A problem solved with a ConditionalFlow. Subclasses say how images become flow inputs and back."""

    loss_name = "bits_per_dim"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    @abstractmethod
    def inputs(self, gt: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """Make the flow's training inputs of images in [0, 1]; noise comes from the generator."""

    @abstractmethod
    def image(self, x: Tensor, lr: Tensor) -> Tensor:
        """Make the image (n·b, 3, H, W) of a decoded x; not clamped."""

    def build_network(self, options: NetworkOptions) -> ConditionalFlow:
        """Build the untrained flow."""
        return builder.build(options, self.scale)

    def encoder(self, network: nn.Module) -> nn.Module:
        """Return the flow's encoder."""
        return _as_flow(network).encoder

    def loss(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor:
        """Mean negative log-likelihood, bits per dimension."""
        return self.bits_per_dim(network, gt, lr, generator).mean()

    def bits_per_dim(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor:
        """−log₂ p(x | lr) / dimensions, (b,), of the noisy x that ``inputs`` makes; image range [0, 1]."""
        inputs = self.inputs(gt, lr, generator)
        encoding = _as_flow(network).encode(inputs.x, inputs.condition, inputs.noise)
        return -encoding.log_prob / (math.log(2) * gt[0].numel())

    def size_multiple(self, network: nn.Module) -> int:
        """HR images whose sides are multiples of this need no padding."""
        return _as_flow(network).size_multiple

    def drawing(self, network: nn.Module, lr: Tensor) -> Draw:
        """Prepare one lr (1, 3, h, w): padded by mirroring to a size the flow takes; samples are cropped back."""
        flow = _as_flow(network)
        height, width = lr.shape[-2:]
        multiple = flow.size_multiple // self.scale
        lr = mirror_pad(lr, 0, -width % multiple, 0, -height % multiple)
        condition = flow.condition(lr)

        def draw(temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
            draws = [flow.draw_latents(condition.size, generator) for generator in generators]
            latents = [temperature * torch.cat(per_level).to(lr) for per_level in zip(*draws, strict=True)]
            x, _ = flow.decode(latents, condition)
            return self.image(x, lr)[..., : height * self.scale, : width * self.scale]

        return draw


def _as_flow(network: nn.Module) -> ConditionalFlow:
    if not isinstance(network, ConditionalFlow):
        raise TypeError(f"expected a ConditionalFlow, got {type(network).__name__}")
    return network
