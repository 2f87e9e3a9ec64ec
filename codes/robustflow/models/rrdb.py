"""Pretraining of the encoder alone, as plain super-resolution."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from robustflow import encoders
from robustflow.encoders import RRDB, RRDBNet
from robustflow.models import tiling
from robustflow.models.base import Draw, LossInputs, Task
from robustflow.models.super_resolution import SuperResolutionOptions
from robustflow.options.schema import NetworkOptions
from robustflow.registry import TASKS
from robustflow.utils.errors import UserError


class EncoderPretrainingOptions(SuperResolutionOptions):
    """ESRGAN's RRDB trained with L1, or L2 (Wang et al., ECCVW 2018)."""

    type: Literal["RRDB"] = "RRDB"
    pixel_criterion: Literal["l1", "l2"] = Field("l1", description="Mean absolute or mean squared error.")

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """One image per input, in its place."""
        yield from super().contradictions(root)
        training = root.datasets.get("train")
        if training is not None and training.hr_shift != 0:
            yield "datasets.train.hr_shift", "expected 0 with model RRDB: of shifted images it learns a blurred mean"


# The head's convolutions, one after each upsampling and two more, reach scale + 1 HR pixels.
_HEAD_RADIUS = 2


class ImagePair(NamedTuple):
    """HR and LR images, (b, 3, H, W) and (b, 3, h, w)."""

    gt: Tensor
    lr: Tensor


@TASKS.register("RRDB", EncoderPretrainingOptions)
class EncoderPretraining(Task):
    """Mean absolute (or squared) error of the encoder's image head; one deterministic "sample"."""

    def __init__(self, scale: int, pixel_criterion: Literal["l1", "l2"] = "l1") -> None:
        self.scale, self.loss_name = scale, pixel_criterion
        self._criterion = F.l1_loss if pixel_criterion == "l1" else F.mse_loss

    def build_network(self, options: NetworkOptions, precision: str = "fp32", checkpointing: str = "none") -> RRDBNet:
        """Build the encoder with its image head."""
        encoder = encoders.build(options, self.scale, n_levels=1, precision=precision, checkpointing=checkpointing)
        if not isinstance(encoder, RRDB):
            raise UserError(f"model RRDB pretrains the encoder RRDB, got network_G.encoder: {options.encoder}")
        return RRDBNet(encoder, self.scale).to(memory_format=torch.channels_last)

    def encoder(self, network: nn.Module) -> RRDB:
        """Return the encoder without its head."""
        return network.encoder  # type: ignore[return-value]

    def loss_inputs(self, gt: Tensor, lr: Tensor, generator: torch.Generator) -> ImagePair:
        """Both images; nothing random."""
        return ImagePair(gt, lr)

    def data_loss(self, network: nn.Module, inputs: LossInputs) -> Tensor:
        """Mean error, images in [0, 1]."""
        gt, lr = cast(ImagePair, inputs)
        return self._criterion(network(lr), gt)

    def likelihood(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> None:
        """None: this model has no likelihood."""
        return

    def size_multiple(self, network: nn.Module) -> int:
        """HR images whose sides are multiples of the scale need no padding."""
        return self.scale

    def drawing(self, network: nn.Module, lr: Tensor, tile: int | None = None, overlap: int | None = None) -> Draw:
        """Super-resolve once, in tiles if asked to; every "sample" is that image."""
        size = (lr.shape[-2], lr.shape[-1])
        tiles = [tiling.whole(size)]
        if tile is not None:
            radius = self.encoder(network).receptive_field + _HEAD_RADIUS
            tiles = tiling.tiles(size, tile, radius if overlap is None else overlap)
        image = tiling.stitched(lambda part: network(tiling.crop(lr, part.outer, size)), tiles, size, self.scale)

        def draw(temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
            return image.expand(len(generators), -1, -1, -1)

        return draw
