"""Super-resolution: SRFlow, NCSR, FS-NCSR."""

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from robustflow.data.bicubic import downsample
from robustflow.models.architecture import Architecture
from robustflow.models.flow_model import FlowInputs, FlowModel
from robustflow.registry import MODELS, Options, require_valid

SRFLOW_STD = 4 / math.sqrt(3) / 255
NoiseLevel = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SuperResolutionOptions(Options):
    """What models of super-resolution share."""

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """The HR image is larger, and the LR image has three channels."""
        if root.scale not in (2, 4, 8, 16):
            yield "scale", f"expected 2, 4, 8 or 16 for super-resolution, got {root.scale!r}"
        if root.network_G.encoder.type == "low_light":
            yield "network_G.encoder", "expected RRDB for super-resolution, got low_light, which reads 6 channels"


class SRFlowOptions(SuperResolutionOptions):
    """SRFlow (Lugmayr et al., ECCV 2020)."""

    type: Literal["SRFlow"] = "SRFlow"
    noise_std: NoiseLevel = Field(
        SRFLOW_STD, description="Std of the Gaussian noise on HR images in training; images in [0, 1]."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Noise couplings need a noise map, which SRFlow does not have."""
        yield from super().contradictions(root)
        if max(root.network_G.flow.S) > 0:
            yield "network_G.flow.S", "expected 0: SRFlow has no noise coupling (use model: NCSR or FS-NCSR)"


class _NoiseConditionalOptions(SuperResolutionOptions):
    noise_max: NoiseLevel | None = Field(
        None, description="Largest noise std c_max in training; images in [0, 1]; null: 0.03 from 8x on, else 0.05."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """The noise map must be seen, and has the channels of an image."""
        yield from super().contradictions(root)
        if max(root.network_G.flow.S) == 0:
            yield "network_G.flow.S", "expected noise couplings in at least one level, e.g. [0, K, K], got none"
        if root.network_G.flow.std_channels != 3:
            yield "network_G.flow.std_channels", f"expected 3, as images have, got {root.network_G.flow.std_channels}"


class NCSROptions(_NoiseConditionalOptions):
    """NCSR (Kim & Son, CVPRW 2021)."""

    type: Literal["NCSR"] = "NCSR"


class FSNCSROptions(_NoiseConditionalOptions):
    """FS-NCSR (Song et al., CVPRW 2022)."""

    type: Literal["FS-NCSR"] = "FS-NCSR"


class SuperResolution(FlowModel):
    """p(HR | LR), or p(HR − upsampled LR | LR) with frequency separation.

    Noise is added to HR images in training. It is drawn image by image, so that the pieces of a batch, one after the
    other, get the noise of the whole. Arguments are those of `FlowModel`.

    Attributes:
        noise_conditional: The LR image gets the downsampled noise (bicubic, with whatever kernel LR images were made)
            and noise couplings see it (NCSR).
        frequency_separation: Model the residual to the LR image's bicubic upsampling, which is added back (FS-NCSR).
    """

    noise_conditional: ClassVar[bool] = False
    frequency_separation: ClassVar[bool] = False

    @classmethod
    def published_at(cls, scale: int) -> Architecture:
        """Four levels from 8x on, three otherwise."""
        return {"L": 4} if scale >= 8 else {}

    @abstractmethod
    def draw_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Training noise of one image of shape (3, H, W), on the generator's device."""

    def _base(self, lr: Tensor) -> Tensor:
        return F.interpolate(lr, scale_factor=self.scale, mode="bicubic", align_corners=False)

    def inputs(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """Make the flow's training inputs of hr (b, 3, H, W) and lr (b, 3, h, w) in [0, 1]."""
        noise = torch.stack([self.draw_noise(image.shape, generator) for image in hr]).to(hr)
        x = hr + noise
        if self.frequency_separation:
            x = x - self._base(lr)
        if not self.noise_conditional:
            return FlowInputs(x, lr, None)
        return FlowInputs(x, lr + downsample(noise, self.scale), noise)

    def skip_noise(self, hr: Tensor, lr: Tensor, generator: torch.Generator, n: int) -> None:
        """Draw the noise of n images of the size of those of hr (b, 3, H, W)."""
        for _ in range(n):
            self.draw_noise(hr.shape[1:], generator)

    def image(self, x: Tensor, lr: Tensor) -> Tensor:
        """Make the image (n·b, 3, H, W) of a decoded x, which is overwritten; not clamped."""
        if not self.frequency_separation:
            return x
        base = self._base(lr)
        x.unflatten(0, (-1, base.shape[0])).add_(base)
        return x


@MODELS.register("SRFlow", SRFlowOptions)
class SRFlow(SuperResolution):
    """HR itself, Gaussian noise of fixed strength, no noise coupling (Lugmayr et al., ECCV 2020).

    Args:
        scale: Super-resolution factor.
        coupling: Elementwise map; see `FlowModel`, as the rest.
        noise_std: Std of the noise; images in [0, 1].
        **architecture: See `FlowModel`.
    """

    def __init__(
        self, scale: int = 4, coupling: Any = "affine", *, noise_std: float = SRFLOW_STD, **architecture: Any
    ) -> None:
        require_valid(SRFlowOptions, noise_std=noise_std)
        super().__init__(scale, coupling, **architecture)
        self.noise_std = noise_std

    def draw_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """ε = noise_std·N(0, 1)."""
        return self.noise_std * torch.randn(shape, generator=generator, device=generator.device)


@MODELS.register("NCSR", NCSROptions)
class NCSR(SuperResolution):
    """HR itself, noise of random strength that the flow is conditioned on (Kim & Son, CVPRW 2021).

    Args:
        scale: Super-resolution factor.
        coupling: Elementwise map; see `FlowModel`, as the rest.
        noise_max: Largest std of the noise; images in [0, 1]; None: 0.03 from 8x on, else 0.05.
        **architecture: See `FlowModel`; without ``S``, the two coarsest levels, but never the finest, see the noise.
    """

    noise_conditional = True

    def __init__(
        self, scale: int = 4, coupling: Any = "affine", *, noise_max: float | None = None, **architecture: Any
    ) -> None:
        require_valid(NCSROptions, noise_max=noise_max)
        sizes = {**self.published_at(scale), **architecture}
        architecture.setdefault("S", _noisy_steps(sizes.get("K", 16), sizes.get("L", 3)))
        super().__init__(scale, coupling, **architecture)
        self.noise_max = noise_max
        default = 0.03 if scale >= 8 else 0.05
        self.largest_noise = default if noise_max is None else noise_max

    @classmethod
    def published_at(cls, scale: int) -> Architecture:
        """Four levels of 20 steps at 8x, of 16 at 16x; three of 16 otherwise."""
        return {"K": 20, "L": 4} if scale == 8 else super().published_at(scale)

    def draw_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """ε = c·N(0, 1), c ~ U(0, largest_noise) for each image."""
        level = torch.rand((), generator=generator, device=generator.device)
        return self.largest_noise * level * torch.randn(shape, generator=generator, device=generator.device)


def _noisy_steps(steps: int, levels: int) -> tuple[int, ...]:
    return tuple(0 if level == 1 or level < levels - 1 else min(16, steps) for level in range(1, levels + 1))


@MODELS.register("FS-NCSR", FSNCSROptions)
class FSNCSR(NCSR):
    """NCSR on the residual to the upsampled LR image (Song et al., CVPRW 2022); arguments as of `NCSR`."""

    frequency_separation = True
