"""What is specific to a problem: how a batch becomes a flow's inputs, and how a sample becomes an image."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustflow.data.bicubic import mirror_pad
from robustflow.flows import ConditionalFlow, builder
from robustflow.models.decoding import decoding
from robustflow.options.schema import NetworkOptions

# Draws one image (3, H, W) for each generator, at a temperature.
Draw = Callable[[float, Sequence[torch.Generator]], Tensor]


# What a training loss is a function of, besides the network: a NamedTuple of tensors (b, ...) and None.
LossInputs = tuple[Tensor | None, ...]


class FlowInputs(NamedTuple):
    """What a flow encodes.

    Attributes:
        x: Data, (b, c, H, W).
        condition: (b, c', h, w).
        noise: Noise map (b, c, H, W), or None without noise couplings.
        mean: Prior mean laid out as x is, instead of the encoder's; None: the encoder's, or zero.
    """

    x: Tensor
    condition: Tensor
    noise: Tensor | None
    mean: Tensor | None = None


class Likelihood(NamedTuple):
    """−log₂ p / dimensions, (b,), and the latents, standard normal under the model, finest level first."""

    bits_per_dim: Tensor
    latents: list[Tensor]


class Task(ABC):
    """A problem and its model: losses, likelihoods and samples, the same calls for every network.

    Attributes:
        loss_name: What ``loss`` measures; the name in logs.
        condition_channels: Channels of what ``condition_of`` makes.
        cuda_graphs: Capture sampling, on GPUs.
    """

    loss_name: str
    cuda_graphs: bool = True
    condition_channels: int = 3

    @abstractmethod
    def build_network(self, options: NetworkOptions, precision: str = "fp32", checkpointing: str = "none") -> nn.Module:
        """Build the untrained network.

        Args:
            options: Encoder and flow.
            precision: Arithmetic of encoder and parameter networks, the option of that name: "bf16", or
                "auto", "fp32" or "tf32", all of them float32 to the network.
            checkpointing: What is recomputed in the backward pass, "none", "step" or "level".
        """

    @abstractmethod
    def encoder(self, network: nn.Module) -> nn.Module:
        """Return the part of the network that is pretrained, and frozen at first."""

    def condition_of(self, image: Tensor) -> Tensor:
        """What the task is given as ``lr``: the LR image (..., 3, h, w) and what depends on all of it.

        To be called on whole images, before they are cropped: other channels come out otherwise on a crop.

        Args:
            image: uint8, or floating in [0, 1]; a condition already made is returned as it is.

        Returns:
            (..., condition_channels, h, w), dtype as given; the first three channels are the image.
        """
        return image

    @property
    def whole_image_condition(self) -> Callable[[Tensor], Tensor] | None:
        """``condition_of`` if it adds to the image; None: data may cut, alter or make LR images as they come."""
        return None if self.condition_channels == 3 else self.condition_of

    def encoder_input(self, lr: Tensor) -> Tensor:
        """What the encoder reads, made pixel by pixel of ``lr`` (b, condition_channels, h, w), in [0, 1]."""
        return lr

    def loss(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor:
        """Training loss, scalar, of images gt (b, 3, H, W) and lr (b, c, h, w), in [0, 1]; c: condition_channels."""
        inputs = self.loss_inputs(gt, lr, generator)
        data, weights = self.data_loss(network, inputs), self.weight_loss(network)
        return data if weights is None else data + weights

    @abstractmethod
    def loss_inputs(self, gt: Tensor, lr: Tensor, generator: torch.Generator) -> LossInputs:
        """All that the loss of a batch takes besides the network; whatever is random in it is drawn here."""

    @abstractmethod
    def data_loss(self, network: nn.Module, inputs: LossInputs) -> Tensor:
        """The loss less ``weight_loss``, a mean over the batch, scalar; nothing in it is read back from the device."""

    def weight_loss(self, network: nn.Module) -> Tensor | None:
        """What the loss owes to the weights alone, scalar; None: nothing."""
        return None

    def skip_noise(self, gt: Tensor, lr: Tensor, generator: torch.Generator, n: int) -> None:
        """Draw from the generator what ``loss`` draws for n images of the size of those of gt and lr.

        The images after them, in another process, then get the noise that they would get in one.
        """
        return

    @abstractmethod
    def likelihood(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Likelihood | None:
        """Likelihood of gt given lr under the training noise; None for models without one."""

    @abstractmethod
    def size_multiple(self, network: nn.Module) -> int:
        """HR images whose sides are multiples of this need no padding."""

    @abstractmethod
    def drawing(self, network: nn.Module, lr: Tensor, tile: int | None = None, overlap: int | None = None) -> Draw:
        """Prepare one lr (1, c, h, w), any size; the returned function shares that work among all its calls.

        Args:
            network: In eval mode.
            lr: In [0, 1]; c: condition_channels, or 3 for a whole image.
            tile: Side of the tiles that are computed one after the other (memory), LR pixels; None: no tiles. Rounded
                up to what the network takes.
            overlap: LR pixels around each tile, rounded up likewise; None: so many that tiling changes nothing but
                the last digits.
        """


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
        """Make the image (n·b, 3, H, W) of a decoded x, which may be overwritten; not clamped."""

    def build_network(
        self, options: NetworkOptions, precision: str = "fp32", checkpointing: str = "none"
    ) -> ConditionalFlow:
        """Build the untrained flow."""
        return builder.build(options, self.scale, precision=precision, checkpointing=checkpointing)

    def encoder(self, network: nn.Module) -> nn.Module:
        """Return the flow's encoder."""
        return _as_flow(network).encoder

    def loss_inputs(self, gt: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """The flow's training inputs."""
        return self.inputs(gt, lr, generator)

    def data_loss(self, network: nn.Module, inputs: LossInputs) -> Tensor:
        """Mean negative log-likelihood, bits per dimension, less ``weight_loss``."""
        return likelihood_of(network, FlowInputs(*inputs), mixing=False).bits_per_dim.mean()  # type: ignore[arg-type]

    def weight_loss(self, network: nn.Module) -> Tensor:
        """Bits per dimension that ActNorms and 1×1 convolutions give: their log-determinant is no matter of data."""
        flow = _as_flow(network)
        return -flow.mixing_log_det() / (math.log(2) * flow.image_channels)

    def skip_noise(self, gt: Tensor, lr: Tensor, generator: torch.Generator, n: int) -> None:
        """Make the inputs of n images and forget them; a subclass that can draws their noise alone."""
        for _ in range(n):
            self.inputs(gt[:1], lr[:1], generator)

    def likelihood(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Likelihood:
        """Likelihood of the noisy x that ``inputs`` makes; image range [0, 1]."""
        return likelihood_of(network, self.inputs(gt, lr, generator))

    def size_multiple(self, network: nn.Module) -> int:
        """HR images whose sides are multiples of this need no padding."""
        return _as_flow(network).size_multiple

    def padded(self, flow: ConditionalFlow, lr: Tensor) -> Tensor:
        """What ``condition_of`` makes of lr (1, c, h, w), mirrored on the far sides to a size that the flow takes."""
        height, width = lr.shape[-2:]
        multiple = flow.size_multiple // self.scale
        return mirror_pad(self.condition_of(lr), 0, -width % multiple, 0, -height % multiple)

    def drawing(self, network: nn.Module, lr: Tensor, tile: int | None = None, overlap: int | None = None) -> Draw:
        """Prepare one lr (1, c, h, w): padded by mirroring to a size the flow takes; samples are cropped back.

        The condition's part of the work is done once; with several tiles, once per tile and call, for the conditions
        of all of them would take as much memory as that of the whole image.
        """
        flow = _as_flow(network)
        height, width = lr.shape[-2:]
        lr = self.padded(flow, lr)
        multiple = flow.size_multiple // self.scale
        decode = decoding(flow, self.encoder_input(lr), tile, overlap, multiple, self.cuda_graphs)

        def draw(temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
            size = (lr.shape[-2] * self.scale, lr.shape[-1] * self.scale)
            draws = map(partial(flow.draw_latents, size), generators)
            # Latents take as much memory as the image: without a name they are gone once x is decoded.
            x = decode([torch.cat(per_level).to(lr).mul_(temperature) for per_level in zip(*draws, strict=True)])
            return self.image(x, lr)[..., : height * self.scale, : width * self.scale]

        return draw


def likelihood_of(network: nn.Module, inputs: FlowInputs, mixing: bool = True) -> Likelihood:
    """Likelihood of a flow's inputs; ``mixing``: see `ConditionalFlow.encode`."""
    encoding = _as_flow(network).encode(inputs.x, inputs.condition, inputs.noise, inputs.mean, mixing)
    return Likelihood(encoding.bits_per_dim(inputs.x[0].numel()), encoding.latents)


def _as_flow(network: nn.Module) -> ConditionalFlow:
    if not isinstance(network, ConditionalFlow):
        raise TypeError(f"expected a ConditionalFlow, got {type(network).__name__}")
    return network
