"""Low-light enhancement: LLFlow."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from robustflow.encoders.low_light import chromaticity
from robustflow.models.architecture import Architecture
from robustflow.models.flow_model import FlowInputs, FlowModel
from robustflow.models.protocol import ENHANCEMENT
from robustflow.registry import MODELS, Options, require_valid
from robustflow.utils.seeds import derive_seed


class LLFlowOptions(Options):
    """LLFlow (Wang et al., AAAI 2022)."""

    type: Literal["LLFlow"] = "LLFlow"
    train_gt_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Probability that a training batch takes its prior mean from the normal-light images."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Input and output are of one size; the encoder reads 6 channels; there is no noise map."""
        if root.scale != 1:
            yield "scale", f"expected 1 with model LLFlow, got {root.scale}: input and output are of one size"
        if root.network_G.encoder.type == "RRDB":
            yield "network_G.encoder", "expected low_light with model LLFlow, got RRDB, which reads 3 channels"
        for key, dataset in root.datasets.items():
            made = "downsampling" if dataset.downsampling != "bicubic" else dataset.altering_hr
            if made is not None:
                yield (
                    f"datasets.{key}.{made}",
                    "expected none with model LLFlow (of HR images): inputs are given, not made of others",
                )
            if key == "train" and dataset.hr_shift != 0:
                yield (
                    "datasets.train.hr_shift",
                    "expected 0 with model LLFlow: input and output show the same, pixel by pixel",
                )
        if max(root.network_G.flow.S) > 0:
            yield "network_G.flow.S", "expected 0: LLFlow has no noise coupling"


@MODELS.register("LLFlow", LLFlowOptions)
class LLFlow(FlowModel):
    """p(normal-light image | low-light image) of the same size (Wang et al., AAAI 2022).

    The condition is the low-light image l and its equalised version; the encoder reads log(l + 1e-3) and gives the
    prior mean; some training batches take the colour map of the normal-light image x instead, x/(Σ_c x + 1e-4).

    Args:
        scale: 1.
        coupling: Elementwise map; see `FlowModel`, as the rest.
        train_gt_ratio: Share of training batches that do; whether one does is decided by the seed of the generator that
            ``loss`` is given: one of its own for each batch, or None, not one for all.
        **architecture: See `FlowModel`.
    """

    condition_channels = 6
    protocol = ENHANCEMENT
    published: ClassVar[Architecture] = {
        "encoder": "low_light",
        "nb": 24,
        "K": 12,
        "split": False,
        "taps": (1, 3, 5, 7),
    }

    def __init__(
        self, scale: int = 1, coupling: Any = "affine", *, train_gt_ratio: float = 0.2, **architecture: Any
    ) -> None:
        require_valid(LLFlowOptions, train_gt_ratio=train_gt_ratio)
        if "nb" in architecture and "taps" not in architecture:
            architecture["taps"] = None  # the published ones are those of the published depth
        super().__init__(scale, coupling, **architecture)
        self.train_gt_ratio = train_gt_ratio

    @classmethod
    def condition_of(cls, image: Tensor) -> Tensor:
        """The image (..., 3, h, w) and its equalised version: (..., 6, h, w)."""
        if image.shape[-3] == cls.condition_channels:
            return image
        return torch.cat([image, equalize(image)], dim=-3)

    def encoder_input(self, lr: Tensor) -> Tensor:
        """log(l + 1e-3) and the equalised image, (b, 6, h, w), of lr (b, 6, h, w)."""
        if lr.shape[-3] != self.condition_channels:
            raise ValueError(
                f"expected lr (b, 6, h, w) as LLFlow.condition_of makes it of whole images, got {tuple(lr.shape)}"
            )
        image, equal = lr.split(3, dim=-3)
        return torch.cat([(image + 1e-3).clamp(min=1e-3).log(), equal], dim=-3)

    def inputs(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """The flow's inputs of hr (b, 3, H, W) and lr (b, 6, H, W), in [0, 1]; nothing random."""
        return FlowInputs(hr, self.encoder_input(lr), None)

    def image(self, x: Tensor, lr: Tensor) -> Tensor:
        """The decoded x is the image."""
        return x

    def loss_inputs(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """The flow's training inputs, with one of the two prior means.

        Which one is a function of the generator's seed, not of its state, so that all pieces of a batch get the same.
        """
        inputs = self.inputs(hr, lr, generator)
        return inputs._replace(mean=chromaticity(hr)) if self._takes_mean_of_gt(generator) else inputs

    def _takes_mean_of_gt(self, generator: torch.Generator) -> bool:
        own = torch.Generator().manual_seed(derive_seed(generator.initial_seed(), "prior mean"))
        return bool(torch.rand((), generator=own) < self.train_gt_ratio)


def equalize(image: Tensor) -> Tensor:
    """Equalise the histogram of each channel of each image, rounded to 256 levels, by OpenCV's ``equalizeHist``.

    It depends on the whole image: that of a crop is not the crop of it.

    Args:
        image: (..., h, w), uint8, or floating and clamped to [0, 1]; not finite counts as 0.

    Returns:
        Same shape, dtype and device; 256 levels.
    """
    levels = image if image.dtype == torch.uint8 else (image.nan_to_num(0, 0, 0).clamp(0, 1) * 255).round()
    channels = levels.to(torch.uint8).flatten(0, -3).cpu().contiguous().numpy()
    equal = torch.from_numpy(np.stack([cv2.equalizeHist(channel) for channel in channels])).view(image.shape)
    equal = equal.to(image.device)
    return equal if image.dtype == torch.uint8 else equal.to(image.dtype) / 255
