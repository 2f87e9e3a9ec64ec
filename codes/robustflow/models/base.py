"""One object per model: a network, and how images become its data and back."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from robustflow.models.protocol import SUPER_RESOLUTION, Protocol
from robustflow.nn.convolutions import autocast_dtype
from robustflow.options.schema import NetworkOptions, RunOptions
from robustflow.registry import MODELS, plugins_of
from robustflow.utils.files import expand

# Draws one image (3, H, W) for each generator and each of b conditions, sample-major (n·b, 3, H, W), at a temperature.
Draw = Callable[[float, Sequence[torch.Generator]], Tensor]
# What a training loss is a function of, besides the network: a NamedTuple of tensors (b, ...) and None.
LossInputs = tuple[Tensor | None, ...]


class Likelihood(NamedTuple):
    """−log₂ p / dimensions, (b,), and the latents, standard normal under the model, finest level first."""

    bits_per_dim: Tensor
    latents: list[Tensor]


class Model(nn.Module, ABC):
    """Images in, images out: the same calls for every network.

    Images are of the type of the weights (float32), in [0, 1]: hr (b, 3, H, W), lr (b, 3, h, w) or what
    ``condition_of`` makes of whole ones.

    Args:
        network: Encoder and flow, or whatever is trained; its tensors are what weights files hold.
        scale: H / h.
        options: What the network was built from.
        cuda_graphs: Capture sampling, on GPUs.

    Attributes:
        loss_name: What ``loss`` measures; the name in logs.
        condition_channels: Channels of what ``condition_of`` makes.
        has_weights: Whether there is anything to train and to load.
        protocol: How it is evaluated.
        file: The weights file it was loaded from; the empty path without one.
    """

    loss_name: str = "bits_per_dim"
    condition_channels: ClassVar[int] = 3
    has_weights: ClassVar[bool] = True
    protocol: ClassVar[Protocol] = SUPER_RESOLUTION

    def __init__(self, network: nn.Module, scale: int, options: NetworkOptions, cuda_graphs: bool = True) -> None:
        super().__init__()
        self.network, self.scale, self.cuda_graphs = network, scale, cuda_graphs
        self.file = Path()
        self._options = options
        self._run: RunOptions | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; AttributeError for a property that cannot be set, as ``encoder``, modules included."""
        # A module would be filed beside the property, which goes on returning what it did.
        if isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The part of the network that is pretrained, and frozen at first."""

    @property
    def size_multiple(self) -> int:
        """HR images whose sides are multiples of this need no padding: the scale, at least."""
        return self.scale

    def mapped_elements(self, pixels: int) -> int:
        """Elements that couplings and injectors map for so many pixels of HR images: how much compiling them pays."""
        return 0

    @classmethod
    def condition_of(cls, image: Tensor) -> Tensor:
        """What the model is given as ``lr``: the LR image (..., 3, h, w) and what depends on all of it.

        To be called on whole images, before they are cropped: other channels come out otherwise on a crop.

        Args:
            image: uint8, or floating in [0, 1]; a condition already made is returned as it is.

        Returns:
            (..., condition_channels, h, w), dtype as given; the first three channels are the image.
        """
        return image

    @classmethod
    def whole_image_condition(cls) -> Callable[[Tensor], Tensor] | None:
        """``condition_of`` if it adds to the image; None: data may cut, alter or make LR images as they come."""
        return None if cls.condition_channels == 3 else cls.condition_of

    def encoder_input(self, lr: Tensor) -> Tensor:
        """What the encoder reads, made pixel by pixel of ``lr`` (b, condition_channels, h, w), in [0, 1]."""
        return lr

    def loss(self, hr: Tensor, lr: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Training loss, scalar, in the unit that ``loss_name`` names: bits per dimension for flows.

        Args:
            hr: (b, 3, H, W).
            lr: (b, 3, h, w).
            generator: Source of the training noise; None: torch's global one seeds it.

        Raises:
            ValueError: They are not such images, or not ``scale`` times the size of each other.
        """
        self._require_pair(hr, lr)
        inputs = self.loss_inputs(hr, self.condition_of(lr), seed_generator(generator))
        data, weights = self.data_loss(inputs), self.weight_loss()
        return data if weights is None else data + weights

    def forward(self, hr: Tensor, lr: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``loss``, for what wraps a module and calls it: DistributedDataParallel, say."""
        return self.loss(hr, lr, generator)

    def _require_lr(self, lr: Tensor) -> None:
        """ValueError unless lr is what a model is given."""
        _require_images("lr", lr, (3, self.condition_channels))
        self._require_dtype("lr", lr)

    def _require_dtype(self, name: str, value: Tensor) -> None:
        """ValueError unless a tensor is of the type of the weights, if there are any, or autocast converts both."""
        weight = next(self.parameters(), value)
        if value.dtype != weight.dtype and autocast_dtype(value) is None:
            raise ValueError(
                f"expected {name} in {weight.dtype}, as the weights are, got {value.dtype}: convert one of them, as by "
                f"{name}.to({weight.dtype})"
            )

    def _require_pair(self, hr: Tensor, lr: Tensor, missing: int = 0) -> None:
        """ValueError unless the sides of hr are ``scale`` times those of lr, or up to ``missing`` pixels less."""
        self._require_lr(lr)
        _require_images("hr", hr, (3,))
        self._require_dtype("hr", hr)
        if len(hr) != len(lr):
            raise ValueError(f"expected as many hr as lr, got {len(hr)} and {len(lr)}")
        less = [self.scale * small - large for large, small in zip(hr.shape[-2:], lr.shape[-2:], strict=True)]
        if not all(0 <= pixels <= missing for pixels in less):
            shapes = f"{tuple(hr.shape)} and {tuple(lr.shape)}"
            raise ValueError(f"expected hr with sides {self.scale} times those of lr, got shapes {shapes}")

    @abstractmethod
    def loss_inputs(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> LossInputs:
        """All that the loss of a batch takes besides the network; whatever is random in it is drawn here."""

    @abstractmethod
    def data_loss(self, inputs: LossInputs) -> Tensor:
        """The loss less ``weight_loss``, a mean over the batch, scalar; nothing in it is read back from the device."""

    def weight_loss(self) -> Tensor | None:
        """What the loss owes to the weights alone, scalar; None: nothing."""
        return None

    def skip_noise(self, hr: Tensor, lr: Tensor, generator: torch.Generator, n: int) -> None:
        """Draw from the generator what ``loss`` draws for n images of the size of those of hr and lr.

        The images after them, in another process, then get the noise that they would get in one.
        """
        return

    def likelihood(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> Likelihood | None:
        """Likelihood of hr given lr under the training noise; None for models without one."""
        return None

    @abstractmethod
    def prepare(self, lr: Tensor, tile: int | None = None, overlap: int | None = None) -> Draw:
        """Do the work on lr (b, c, h, w), any size; the function returned shares it among all its calls.

        Args:
            lr: c: condition_channels, or 3 for whole images.
            tile: Side of the tiles that are computed one after the other (memory), LR pixels; None: no tiles. Rounded
                up to what the network takes.
            overlap: LR pixels around each tile, rounded up likewise; None: so many that tiling changes nothing but
                the last digits.
        """

    @torch.no_grad()
    def sample(
        self,
        lr: Tensor,
        n: int = 1,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        at_once: int | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> Tensor:
        """Draw n images for each of b conditions, (n, b, 3, H, W), not clamped; work on lr is done once.

        Args:
            lr: (b, 3, h, w), any size.
            n: Samples for each.
            temperature: Standard deviation of the latents.
            generator: Source of the latents; None: torch's global one seeds it.
            at_once: Samples computed together (memory); None: all.
            tile: See ``prepare``, as ``overlap``.
            overlap: See ``prepare``.
        """
        step = n if at_once is None else at_once
        if min(n, step) < 1:
            raise ValueError(f"expected at least one sample, and one at once, got n = {n}, at_once = {at_once}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"expected a finite temperature of at least 0, got {temperature}")
        self._require_lr(lr)
        draw, generator = self.prepare(lr, tile, overlap), seed_generator(generator)
        parts = [draw(temperature, [generator] * min(step, n - first)) for first in range(0, n, step)]
        return torch.cat(parts).unflatten(0, (n, len(lr)))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that ``robustflow.load`` reads: the weights, and what the model is.

        Folders that are missing are made; ``~`` and ``$NAME`` in the path are filled in.
        """
        from robustflow.models import weights

        place = Path(expand(path))
        if place.suffix != ".safetensors":
            raise ValueError(f"expected a path that ends in .safetensors, by which load knows it, got {path}")
        weights.save(place, self, self.options, iteration=0)

    @property
    def options(self) -> RunOptions:
        """Options of its run; of a model that was built without, options that describe it.

        ValueError for a model or coupling that is not registered.
        """
        if self._run is None:
            kind = MODELS.options_of(self)
            plugins = plugins_of(kind, self._options.encoder, self._options.flow.coupling)
            name = type(self).__name__
            self._run = RunOptions(name=name, model=kind, scale=self.scale, network_G=self._options, plugins=plugins)  # type: ignore[arg-type]
        return self._run

    @options.setter
    def options(self, run: RunOptions) -> None:
        self._run = run


def _require_images(name: str, images: Tensor, channels: Collection[int]) -> None:
    expected = f"expected {name} (b, 3, h, w), a floating tensor with values in [0, 1], got"
    if not torch.is_tensor(images):
        raise ValueError(f"{expected} {type(images).__name__}")
    fits = images.ndim == 4 and images.shape[1] in channels and min(images.shape) > 0
    if not (fits and images.is_floating_point()):
        raise ValueError(f"{expected} one of {images.dtype}, shape {tuple(images.shape)}")


def repeat(image: Tensor) -> Draw:
    """What a model without randomness prepares: every sample is its image (b, 3, H, W)."""
    return lambda _, generators: image.expand(len(generators), *image.shape).flatten(0, 1)


def seed_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator; in place of None a new one, seeded by torch's global generator. ValueError for anything else."""
    if isinstance(generator, torch.Generator):
        return generator
    if generator is not None:
        got = type(generator).__name__
        raise ValueError(f"expected a torch.Generator, as torch.Generator().manual_seed(0) is one, or None, got {got}")
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))
