"""Super-resolution: SRFlow, NCSR, FS-NCSR."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from robustflow.data.bicubic import downsample
from robustflow.models.base import FlowInputs, FlowTask
from robustflow.registry import TASKS, Options

NoiseLevel = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SuperResolutionOptions(Options):
    """What models of super-resolution share."""

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """The HR image is larger, and the LR image has three channels."""
        if root.scale == 1:
            yield "scale", "expected 2, 4 or 8 for super-resolution, got 1"
        if root.network_G.encoder.type == "low_light":
            yield "network_G.encoder", "expected RRDB for super-resolution, got low_light, which reads 6 channels"


class SRFlowOptions(SuperResolutionOptions):
    """SRFlow (Lugmayr et al., ECCV 2020)."""

    type: Literal["SRFlow"] = "SRFlow"
    noise_std: NoiseLevel = Field(
        4 / math.sqrt(3) / 255, description="Std of the Gaussian noise on HR images in training; images in [0, 1]."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Noise couplings need a noise map, which SRFlow does not have."""
        yield from super().contradictions(root)
        if max(root.network_G.flow.S) > 0:
            yield "network_G.flow.S", "expected 0: SRFlow has no noise coupling (use model: NCSR or FS-NCSR)"


class _NoiseConditionalOptions(SuperResolutionOptions):
    noise_max: NoiseLevel | None = Field(
        None, description="Largest noise std c_max in training; images in [0, 1]; null: 0.03 for 8x, else 0.05."
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


class Noise(ABC):
    """Noise added to HR images in training.

    It is drawn image by image, so that the pieces of a batch, one after the other, get the noise of the whole.
    """

    def draw(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        """Noise of the shape of gt (b, 3, H, W)."""
        return torch.stack([self.draw_one(image.shape, generator) for image in gt]).to(gt)

    @abstractmethod
    def draw_one(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Noise of one image of shape (3, H, W), on the generator's device."""


class GaussianNoise(Noise):
    """ε = std·N(0, 1)."""

    def __init__(self, std: float) -> None:
        self.std = std

    def draw_one(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Noise of one image of shape (3, H, W)."""
        return self.std * torch.randn(shape, generator=generator, device=generator.device)


class RandomLevelNoise(Noise):
    """ε = c·N(0, 1), c ~ U(0, maximum) for each image."""

    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def draw_one(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Noise of one image of shape (3, H, W)."""
        level = torch.rand((), generator=generator, device=generator.device)
        return self.maximum * level * torch.randn(shape, generator=generator, device=generator.device)


class SuperResolution(FlowTask):
    """p(HR | LR), or p(HR − upsampled LR | LR) with frequency separation.

    Args:
        scale: Super-resolution factor.
        noise: Noise added to HR images in training.
        noise_conditional: The LR image gets the downsampled noise and noise couplings see it (NCSR).
        frequency_separation: Model the residual to the LR image's bicubic upsampling, which is added back (FS-NCSR).
    """

    def __init__(self, scale: int, noise: Noise, noise_conditional: bool, frequency_separation: bool) -> None:
        super().__init__(scale)
        self.noise = noise
        self.noise_conditional = noise_conditional
        self.frequency_separation = frequency_separation

    def _base(self, lr: Tensor) -> Tensor:
        return F.interpolate(lr, scale_factor=self.scale, mode="bicubic", align_corners=False)

    def inputs(self, gt: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """Make the flow's training inputs of gt (b, 3, H, W) and lr (b, 3, h, w) in [0, 1]."""
        noise = self.noise.draw(gt, generator)
        x = gt + noise
        if self.frequency_separation:
            x = x - self._base(lr)
        if not self.noise_conditional:
            return FlowInputs(x, lr, None)
        return FlowInputs(x, lr + downsample(noise, self.scale), noise)

    def skip_noise(self, gt: Tensor, lr: Tensor, generator: torch.Generator, n: int) -> None:
        """Draw the noise of n images of the size of those of gt (b, 3, H, W)."""
        for _ in range(n):
            self.noise.draw_one(gt.shape[1:], generator)

    def image(self, x: Tensor, lr: Tensor) -> Tensor:
        """Make the image (n·b, 3, H, W) of a decoded x, which is overwritten; not clamped."""
        if not self.frequency_separation:
            return x
        base = self._base(lr)
        x.unflatten(0, (-1, base.shape[0])).add_(base)
        return x


@TASKS.register("SRFlow", SRFlowOptions)
def srflow(scale: int, noise_std: float) -> SuperResolution:
    """SRFlow: HR itself, Gaussian noise of fixed strength, no noise coupling."""
    return SuperResolution(scale, GaussianNoise(noise_std), noise_conditional=False, frequency_separation=False)


def _random_level(scale: int, noise_max: float | None) -> RandomLevelNoise:
    default = 0.03 if scale == 8 else 0.05
    return RandomLevelNoise(default if noise_max is None else noise_max)


@TASKS.register("NCSR", NCSROptions)
def ncsr(scale: int, noise_max: float | None) -> SuperResolution:
    """NCSR: HR itself, noise of random strength that the flow is conditioned on."""
    noise = _random_level(scale, noise_max)
    return SuperResolution(scale, noise, noise_conditional=True, frequency_separation=False)


@TASKS.register("FS-NCSR", FSNCSROptions)
def fs_ncsr(scale: int, noise_max: float | None) -> SuperResolution:
    """FS-NCSR: NCSR on the residual to the upsampled LR image."""
    noise = _random_level(scale, noise_max)
    return SuperResolution(scale, noise, noise_conditional=True, frequency_separation=True)
