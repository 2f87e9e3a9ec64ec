"""Low-light enhancement: LLFlow."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from robustflow.data.equalize import equalized
from robustflow.encoders.low_light import chromaticity
from robustflow.models.base import FlowInputs, FlowTask
from robustflow.registry import TASKS, Options
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
            if dataset.enhance is not False:
                yield (
                    f"datasets.{key}.enhance",
                    "expected false with model LLFlow: inputs are given, not made of others",
                )
            if key == "train" and dataset.hr_shift != 0:
                yield (
                    "datasets.train.hr_shift",
                    "expected 0 with model LLFlow: input and output show the same, pixel by pixel",
                )
        if max(root.network_G.flow.S) > 0:
            yield "network_G.flow.S", "expected 0: LLFlow has no noise coupling"


@TASKS.register("LLFlow", LLFlowOptions)
class LLFlow(FlowTask):
    """p(normal light | low light), its prior's mean a colour map (Wang et al., LLFlow, AAAI 2022).

    The network reads log(l + 1e-3) of the low-light image l and l with its histogram equalised. The encoder gives the
    prior mean; some training batches take the colour map of the normal-light image x instead, x/(Σ_c x + 1e-4).

    Args:
        scale: 1.
        train_gt_ratio: Share of training batches that do.
    """

    condition_channels = 6

    def __init__(self, scale: int, train_gt_ratio: float) -> None:
        super().__init__(scale)
        self.train_gt_ratio = train_gt_ratio

    def condition_of(self, image: Tensor) -> Tensor:
        """The image (..., 3, h, w) and its equalised version: (..., 6, h, w)."""
        if image.shape[-3] == self.condition_channels:
            return image
        return torch.cat([image, equalized(image)], dim=-3)

    def encoder_input(self, lr: Tensor) -> Tensor:
        """log(l + 1e-3) and the equalised image, (b, 6, h, w), of lr (b, 6, h, w)."""
        if lr.shape[-3] != self.condition_channels:
            raise ValueError(
                f"expected lr (b, 6, h, w) as LLFlow.condition_of makes it of whole images, got {tuple(lr.shape)}"
            )
        image, equal = lr.split(3, dim=-3)
        return torch.cat([(image + 1e-3).clamp(min=1e-3).log(), equal], dim=-3)

    def inputs(self, gt: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """The flow's inputs of gt (b, 3, H, W) and lr (b, 6, H, W), in [0, 1]; nothing random."""
        return FlowInputs(gt, self.encoder_input(lr), None)

    def image(self, x: Tensor, lr: Tensor) -> Tensor:
        """The decoded x is the image."""
        return x

    def loss_inputs(self, gt: Tensor, lr: Tensor, generator: torch.Generator) -> FlowInputs:
        """The flow's training inputs, with one of the two prior means.

        Which one is a function of the generator's seed, not of its state, so that all pieces of a batch get the same.
        """
        inputs = self.inputs(gt, lr, generator)
        return inputs._replace(mean=chromaticity(gt)) if self._takes_mean_of_gt(generator) else inputs

    def _takes_mean_of_gt(self, generator: torch.Generator) -> bool:
        own = torch.Generator().manual_seed(derive_seed(generator.initial_seed(), "prior mean"))
        return bool(torch.rand((), generator=own) < self.train_gt_ratio)
