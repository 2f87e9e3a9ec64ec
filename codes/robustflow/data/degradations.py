"""What images suffer, on purpose: ``datasets.<name>.degrade`` lists it, and latent-space commands restore it.

A third party adds a degradation in one file, named under ``plugins:`` in the YAML file::

    class FogOptions(DegradationOptions):
        type: Literal["fog"] = "fog"
        density: float = Field(0.5, description="Share of white.")

    @DEGRADATIONS.register("fog", FogOptions)
    class Fog(Degradation):
        def __init__(self, density: float) -> None:
            self.density = density

        def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
            return (1 - self.density) * image + self.density
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from robustflow.data.images import to_float, to_uint8
from robustflow.options.schema import DatasetOptions, DegradationOptions
from robustflow.options.values import Finite, Positive
from robustflow.registry import DEGRADATIONS
from robustflow.utils.errors import UserError

Side = Literal["LR", "HR"]
Enhancement = Literal["published", "unit"]


class Degradation(ABC):
    """Alters images; a subclass says how a floating one is altered.

    Attributes:
        on: LR: applied to the crop of the LR image, turned and flipped as it is trained on. HR: to the whole HR image.
        reach: Pixels around each that its result depends on, if that is all it depends on: batches, on any device, are
            then altered as one, and a crop with that margin in place of the whole image. None: chance has a part in it,
            or the whole image.
    """

    on: Side = "LR"
    reach: int | None = None

    @abstractmethod
    def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Alter an image.

        Args:
            image: (3, h, w), or a batch if there is a ``reach``; floating, nominally in [0, 1]; not to be changed.
            generator: Source of all chance, on the CPU; None where there is a ``reach``.

        Returns:
            Same shape and dtype; values beyond [0, 1] are kept in LR images.
        """

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Alter an image (..., 3, h, w), uint8 or floating; uint8 ones are clipped and rounded after.

        The images of a batch are altered one after the other unless there is a ``reach``.
        """
        if self.reach is None and image.ndim > 3:
            return torch.stack([self(one, generator) for one in image])
        degrade = self.degrade_levels if image.dtype == torch.uint8 else self.degrade
        result = degrade(image, generator)
        if result.shape != image.shape or result.dtype != image.dtype:
            found, wanted = (f"{tuple(some.shape)}, {some.dtype}" for some in (result, image))
            raise UserError(f"degradation {type(self).__name__}: expected {wanted}, as it was given, got {found}")
        return result

    def degrade_levels(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Alter a uint8 image (..., 3, h, w): as `degrade` does, rounded."""
        return to_uint8(self.degrade(to_float(image), generator))


class NoiseOptions(DegradationOptions):
    """White Gaussian noise, clipped to [0, 1] after."""

    type: Literal["noise"] = "noise"
    std: Annotated[Finite, Field(gt=0)] = Field(description="Standard deviation; images in [0, 1].")


@DEGRADATIONS.register("noise", NoiseOptions)
class Noise(Degradation):
    """Add white Gaussian noise of standard deviation ``std`` (images in [0, 1]), and clip to [0, 1]."""

    def __init__(self, std: float) -> None:
        self.std = std

    def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Add noise."""
        white = torch.randn(image.shape, generator=generator, dtype=image.dtype)
        return (image + self.std * white.to(image.device)).clamp(0, 1)


class GainOptions(DegradationOptions):
    """A factor on all pixels; LR images are not clipped after."""

    type: Literal["gain"] = "gain"
    factor: Annotated[Finite, Field(gt=0)] = Field(description="Factor.")


@DEGRADATIONS.register("gain", GainOptions)
class Gain(Degradation):
    """Multiply by ``factor``, without clipping."""

    reach = 0

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Multiply."""
        return image * self.factor


class InvertOptions(DegradationOptions):
    """The negative."""

    type: Literal["invert"] = "invert"


@DEGRADATIONS.register("invert", InvertOptions)
class Invert(Degradation):
    """Replace y by 1 - y."""

    reach = 0

    def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Invert."""
        return 1 - image


class JPEGOptions(DegradationOptions):
    """JPEG compression, in 8 bits."""

    type: Literal["jpeg"] = "jpeg"
    quality: Annotated[Positive, Field(le=100)] = Field(description="Quality, 1 to 100.")


@DEGRADATIONS.register("jpeg", JPEGOptions)
class JPEG(Degradation):
    """Compress with JPEG, by Pillow, of a ``quality`` from 1 to 100; floating images are rounded to 256 levels."""

    def __init__(self, quality: int) -> None:
        self.quality = quality

    def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Compress and decode."""
        return to_float(self.degrade_levels(to_uint8(image), generator)).to(image)

    def degrade_levels(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Compress and decode."""
        encoded = io.BytesIO()
        Image.fromarray(_to_pixels(image)).save(encoded, format="JPEG", quality=self.quality)
        return _to_tensor(np.array(Image.open(encoded).convert("RGB"))).to(image.device)


class BlurOptions(DegradationOptions):
    """Gaussian blur, the image mirrored beyond its borders."""

    type: Literal["blur"] = "blur"
    sigma: Annotated[Finite, Field(ge=0.1, le=1000)] = Field(description="Standard deviation, pixels.")


@DEGRADATIONS.register("blur", BlurOptions)
class Blur(Degradation):
    """Blur with a Gaussian of standard deviation ``sigma``, pixels, by OpenCV."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Blur."""
        pixels = cv2.GaussianBlur(_to_pixels(image), (0, 0), self.sigma, borderType=cv2.BORDER_REFLECT)
        return _to_tensor(pixels).to(image.device)


class EnhanceOptions(DegradationOptions):
    """The filter of Enhanced Urban100 (Hong et al., ICCV 2023), on the HR image unless it is said otherwise."""

    type: Literal["enhance"] = "enhance"
    on: Side = Field("HR", description="HR: the whole HR image, and the LR image made from it; LR: the LR image.")
    kernel: Enhancement = Field("published", description="published: sums to 2, twice as bright; unit: sums to 1.")


# Hong et al., ICCV 2023, supplement S1. Kept integer and divided afterwards, so that uint8 images are filtered exactly.
_KERNEL = ((-1.0, -4.0, -1.0), (-4.0, 26.0, -4.0), (-1.0, -4.0, -1.0))
_DIVISORS: dict[Enhancement, float] = {"published": 3.0, "unit": 6.0}


@DEGRADATIONS.register("enhance", EnhanceOptions)
class Enhance(Degradation):
    """Sharpen each channel as in Enhanced Urban100 (Hong et al., ICCV 2023, supplement S1); edges are replicated.

    Args:
        kernel: ``published`` divides the kernel by 3 (sum 2: sharper and twice as bright), ``unit`` by 6 (sum 1).
    """

    on: Side = "HR"
    reach = 1

    def __init__(self, kernel: Enhancement = "published") -> None:
        self.divisor = _DIVISORS[kernel]

    def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Sharpen, and clip to [0, 1]."""
        return self._filter(image, image.dtype).clamp(0, 1)

    def degrade_levels(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Sharpen, round and clip to 0 ... 255."""
        return self._filter(image, torch.float32).round().clamp(0, 255).to(torch.uint8)

    def _filter(self, image: Tensor, dtype: torch.dtype) -> Tensor:
        flat = image.reshape(-1, 1, *image.shape[-2:]).to(dtype)
        filtered = F.conv2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), _kernel(flat.dtype, flat.device))
        # By a tensor: GPUs replace division by a number with multiplication by its inverse, which breaks ties.
        return filtered.reshape(image.shape) / filtered.new_full((), self.divisor)


@lru_cache(maxsize=8)
def _kernel(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The kernel (1, 1, 3, 3); copied to a device once, for a GPU would be waited for."""
    return torch.tensor([[_KERNEL]], dtype=dtype, device=device)


def build(options: DegradationOptions) -> Degradation:
    """Build what an entry of ``degrade`` describes."""
    degradation: Degradation = DEGRADATIONS.build(options, without=("on",))
    degradation.on = options.on
    return degradation


def build_all(options: DatasetOptions) -> list[Degradation]:
    """Build what the images of a data set suffer, in order: its list, or what its short forms say.

    The short forms mean the filter of the HR image, then gain, inversion and noise of the LR image.
    """
    found = [build(entry) for entry in options.degrade]
    if options.enhance is not False:
        found.append(Enhance("published" if options.enhance is True else options.enhance))
    if options.lr_gain != 1:
        found.append(Gain(options.lr_gain))
    if options.lr_invert:
        found.append(Invert())
    if options.lr_noise > 0:
        found.append(Noise(options.lr_noise))
    return found


def on_side(side: Side, degradations: Iterable[Degradation]) -> tuple[Degradation, ...]:
    """Those of one side, in order."""
    return tuple(degradation for degradation in degradations if degradation.on == side)


def apply(degradations: Sequence[Degradation], image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Alter an image by one after another, see `Degradation.__call__`; itself if there is nothing to alter."""
    for degradation in degradations:
        image = degradation(image, generator)
    return image


def degrade_hr(degradations: Sequence[Degradation], image: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """As `apply`, of HR images, which stay images: floating ones are clipped to [0, 1], too."""
    if not degradations:
        return image
    image = apply(degradations, image, generator)
    return image if image.dtype == torch.uint8 else image.clamp(0, 1)


def _to_pixels(image: Tensor) -> np.ndarray:
    """(3, h, w) as (h, w, 3)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
