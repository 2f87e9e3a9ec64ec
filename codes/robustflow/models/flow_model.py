"""Models that are conditional flows."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from robustflow.bijections.base import Elementwise
from robustflow.data.bicubic import mirror_pad
from robustflow.encoders import Encoder
from robustflow.flows import ConditionalFlow, builder
from robustflow.models.architecture import Architecture, network_options
from robustflow.models.base import Draw, Likelihood, LossInputs, Model, seed_generator
from robustflow.models.decoding import prepare_decoding
from robustflow.registry import ELEMENTWISE, Options
from robustflow.utils.errors import UserError


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


class FlowModel(Model):
    """A ConditionalFlow of images. Subclasses say how images become its inputs and back.

    Args:
        scale: H / h.
        coupling: Elementwise map of couplings and injectors: an instance, its name, or its options.
        precision: Arithmetic of encoder and parameter networks: "bf16", or "auto", "fp32" or "tf32", all of them
            float32 to the network.
        checkpointing: What is recomputed in the backward pass: "none", "step" or "level".
        cuda_graphs: Capture sampling, on GPUs.
        **architecture: Sizes other than the published ones; see `Architecture`.

    Raises:
        ValueError: Values that cannot be, or cannot go together.
    """

    network: ConditionalFlow
    published: ClassVar[Architecture] = {}

    def __init__(
        self,
        scale: int,
        coupling: Elementwise | Options | Mapping[str, Any] | str = "affine",
        *,
        precision: str = "fp32",
        checkpointing: str = "none",
        cuda_graphs: bool = True,
        **architecture: Any,
    ) -> None:
        if isinstance(coupling, Elementwise):
            coupling = ELEMENTWISE.options_of(coupling)
        sizes = {**self.published_at(scale), **architecture}
        options = network_options(type(self), scale, coupling=coupling, **sizes)
        network = builder.build(options, scale, precision=precision, checkpointing=checkpointing)
        super().__init__(network, scale, options, cuda_graphs)

    @classmethod
    def published_at(cls, scale: int) -> Architecture:
        """Sizes of the published network of this scale, where they are not the defaults of `Architecture`."""
        return cls.published

    @abstractmethod
    def inputs(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """Make the flow's training inputs of images in [0, 1]; noise comes from the generator."""

    @abstractmethod
    def image(self, x: Tensor, lr: Tensor) -> Tensor:
        """Make the image (n·b, 3, H, W) of a decoded x, which may be overwritten; not clamped."""

    @property
    def flow(self) -> ConditionalFlow:
        """The network."""
        return self.network

    @property
    def encoder(self) -> Encoder:
        """The flow's encoder."""
        return self.network.encoder

    @property
    def size_multiple(self) -> int:
        """HR images whose sides are multiples of this need no padding."""
        return self.network.size_multiple

    def mapped_elements(self, pixels: int) -> int:
        """Elements that couplings and injectors map for so many pixels of HR images."""
        return sum(
            (2 + (1 if step.noise_coupling is None else 2)) * step.actnorm.bias.numel() * pixels // (2 * 4**number)
            for number, level in enumerate(self.network.levels, start=1)
            for step in level.steps
        )

    def forward(self, hr: Tensor, lr: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``loss``, by the weights of this call alone, which ``torch.func.functional_call`` may lend."""
        self.network.forget()
        try:
            return super().forward(hr, lr, generator)
        finally:
            self.network.forget()

    def loss_inputs(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> LossInputs:
        """The flow's training inputs."""
        return self.inputs(hr, lr, generator)

    def data_loss(self, inputs: LossInputs) -> Tensor:
        """Mean negative log-likelihood, bits per dimension, less ``weight_loss``."""
        given = FlowInputs(*inputs)  # type: ignore[arg-type]
        return self.network.encode(*given, mixing=False).bits_per_dim(given.x[0].numel()).mean()

    def weight_loss(self) -> Tensor:
        """Bits per dimension that ActNorms and 1×1 convolutions give: their log-determinant is no matter of data."""
        return -self.network.mixing_log_det() / (math.log(2) * self.network.image_channels)

    def skip_noise(self, hr: Tensor, lr: Tensor, generator: torch.Generator, n: int) -> None:
        """Make the inputs of n images and forget them; a subclass that can draws their noise alone."""
        for _ in range(n):
            self.inputs(hr[:1], lr[:1], generator)

    def likelihood(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> Likelihood:
        """Likelihood of the noisy x that ``inputs`` makes."""
        inputs = self.inputs(hr, lr, generator)
        encoding = self.network.encode(*inputs)
        return Likelihood(encoding.bits_per_dim(inputs.x[0].numel()), encoding.latents)

    @torch.no_grad()
    def bits_per_dim(self, hr: Tensor, lr: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """−log₂ p(hr | lr) / (3HW), (b,), of a density on [0, 1]; ``generator``: of the training noise, None: seed 0.

        Sides of hr (b, 3, H, W) must be multiples of ``size_multiple``. ValueError if not, or if hr does not fit lr.
        """
        self._require_pair(hr, lr)
        generator = torch.Generator().manual_seed(0) if generator is None else seed_generator(generator)
        return self.likelihood(hr, self.condition_of(lr), generator).bits_per_dim

    def pad(self, lr: Tensor) -> Tensor:
        """What ``condition_of`` makes of lr (b, c, h, w), mirrored on the far sides to a size that the flow takes."""
        height, width = lr.shape[-2:]
        multiple = self.size_multiple // self.scale
        return mirror_pad(self.condition_of(lr), 0, -width % multiple, 0, -height % multiple)

    def encode(self, hr: Tensor, lr: Tensor) -> list[Tensor]:
        """Latents (b, c, h', w'), finest level first, standard normal under the model, of hr itself: without noise.

        Images of any size; what the flow's size needs beyond them is mirrored. ValueError if hr is larger than
        ``scale`` times lr, or smaller by ``scale`` pixels or more.
        """
        self._require_pair(hr, lr, missing=self.scale - 1)
        lr = self.pad(lr)
        height, width = (self.scale * side for side in lr.shape[-2:])
        hr = mirror_pad(hr, 0, width - hr.shape[-1], 0, height - hr.shape[-2])
        # What a decoded x lacks: nothing, or the upsampled LR image.
        x = hr - self.image(torch.zeros_like(hr), lr)
        return self.network.encode(x, self.encoder_input(lr)).latents

    def decode(self, latents: Sequence[Tensor], lr: Tensor) -> Tensor:
        """The image (n·b, 3, H, W), not clamped, of latents as ``encode`` returns; n·b for b conditions, sample-major.

        H and W are ``scale`` times the sides of lr (b, 3, h, w).
        """
        self._require_lr(lr)
        for latent in latents:
            self._require_dtype("latents", latent)
        padded = self.pad(lr)
        x, _ = self.network.decode(list(latents), self.encoder_input(padded))
        return self.image(x, padded)[..., : self.scale * lr.shape[-2], : self.scale * lr.shape[-1]]

    def prepare(self, lr: Tensor, tile: int | None = None, overlap: int | None = None) -> Draw:
        """Do the work on lr, padded by mirroring to a size that the flow takes; samples are cropped back.

        With several tiles it is done once per tile and call, for the conditions of all of them would take as much
        memory as that of the whole image.
        """
        height, width = (self.scale * side for side in lr.shape[-2:])
        lr = self.pad(lr)
        multiple = self.size_multiple // self.scale
        decode = prepare_decoding(self.network, self.encoder_input(lr), tile, overlap, multiple, self.cuda_graphs)

        def draw(temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
            # Latents take as much memory as the image: without a name they are gone once x is decoded.
            x = decode(self.draw_latents(lr, temperature, generators))[0]
            return self.image(x, lr)[..., :height, :width]

        return draw

    def draw_latents(self, lr: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Latents z ~ N(0, temperature²·I) of one sample per generator and condition of lr (b, c, h, w), padded."""
        size = (lr.shape[-2] * self.scale, lr.shape[-1] * self.scale)
        draws = (self.network.draw_latents(size, generator) for generator in generators for _ in range(len(lr)))
        return [torch.cat(of_level).to(lr).mul_(temperature) for of_level in zip(*draws, strict=True)]


def require_flow(model: Model, what: str) -> FlowModel:
    """The model, if it is a flow; UserError, saying what needs one, if not."""
    if not isinstance(model, FlowModel):
        raise UserError(f"{what}: expected a flow, got model {type(model).__name__}, which has no layers to invert")
    return model
