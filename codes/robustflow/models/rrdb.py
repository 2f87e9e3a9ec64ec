"""The encoder alone, as plain super-resolution: pretraining, and a deterministic comparator."""

import math
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from robustflow import encoders
from robustflow.data.bicubic import downsample
from robustflow.encoders import RRDBNet
from robustflow.models import protocol, tiling
from robustflow.models.architecture import network_options
from robustflow.models.base import Draw, LossInputs, Model, repeat
from robustflow.models.super_resolution import SuperResolutionOptions
from robustflow.registry import MODELS, require_valid
from robustflow.utils.errors import UserError

Residual = Literal["last_block", "first_conv"]


class RRDBOptions(SuperResolutionOptions):
    """RRDB trained with L1, or L2, or published weights of ESRGAN's (Wang et al., ECCVW 2018)."""

    type: Literal["RRDB"] = "RRDB"
    pixel_criterion: Literal["l1", "l2"] = Field("l1", description="Mean absolute or mean squared error.")
    residual: Residual | None = Field(
        None,
        description="What the trunk's last convolution is added to: last_block, the output of the last block, as in "
        "SRFlow and all flows here; first_conv, that of the first convolution, as in ESRGAN and BasicSR. null: "
        "first_conv for weights under names that ESRGAN's first code or BasicSR alone use, that of the training for "
        "weights trained here, else last_block. RRDB_PSNR_x4.pth and RRDB_ESRGAN_x4.pth need first_conv.",
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """One image per input, in its place."""
        yield from super().contradictions(root)
        training = root.datasets.get("train")
        if training is not None and training.hr_shift != 0:
            yield "datasets.train.hr_shift", "expected 0 with model RRDB: of shifted images it learns a blurred mean"


# The head's convolutions, one after each upsampling and two more, reach scale + 1 HR pixels.
_HEAD_RADIUS = 2


@MODELS.register("RRDB", RRDBOptions)
class RRDB(Model):
    """RRDB trunk and image head, trained with a mean absolute (or squared) error; every "sample" is the same image.

    Args:
        scale: Super-resolution factor.
        pixel_criterion: "l1" or "l2".
        residual: "last_block" or "first_conv", what the trunk's last convolution is added to; None: the former.
        precision: See `FlowModel`, as ``checkpointing``.
        checkpointing: See `FlowModel`.
        cuda_graphs: Not used.
        **architecture: nf, nb, gc; see `Architecture`. What concerns flows is kept for those that begin with this
            encoder.
    """

    network: RRDBNet
    protocol = protocol.DETERMINISTIC

    def __init__(
        self,
        scale: int = 4,
        *,
        pixel_criterion: Literal["l1", "l2"] = "l1",
        residual: Residual | None = None,
        precision: str = "fp32",
        checkpointing: str = "none",
        cuda_graphs: bool = True,
        **architecture: Any,
    ) -> None:
        require_valid(RRDBOptions, pixel_criterion=pixel_criterion, residual=residual)
        options = network_options(type(self), scale, **architecture)
        encoder = encoders.build(options, scale, n_levels=1, precision=precision, checkpointing=checkpointing)
        if not isinstance(encoder, encoders.RRDBEncoder):
            raise UserError(f"model RRDB pretrains the encoder RRDB, got network_G.encoder: {options.encoder}")
        encoder.residual_of_first = residual == "first_conv"
        network = RRDBNet(encoder, scale).to(memory_format=torch.channels_last)
        super().__init__(network, scale, options, cuda_graphs)
        self.loss_name = self.pixel_criterion = pixel_criterion
        self.residual = residual
        self._criterion = F.l1_loss if pixel_criterion == "l1" else F.mse_loss

    @property
    def encoder(self) -> encoders.RRDBEncoder:
        """The encoder without its head."""
        return self.network.encoder

    @torch.no_grad()
    def lr_psnr(self, residual: Residual) -> float:
        """How well the image of a smooth input, made with that residual and downsampled, agrees with it, in dB.

        Of trained weights the residual that they were trained with is tens of dB better than the other.
        """
        waves = torch.linspace(0, 2 * math.pi, 24)
        lr = torch.stack([0.5 + 0.3 * (waves[:, None] + k).sin() * (waves + k).cos() for k in range(3)])[None]
        lr, own = lr.to(self.device), self.encoder.residual_of_first
        self.encoder.residual_of_first = residual == "first_conv"
        error = downsample(self.network(lr), self.scale) - lr
        self.encoder.residual_of_first = own
        return -10 * error.double().square().mean().log10().item()

    def loss_inputs(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> LossInputs:
        """Both images; nothing random."""
        return hr, lr

    def data_loss(self, inputs: LossInputs) -> Tensor:
        """Mean error, images in [0, 1]."""
        hr, lr = cast(tuple[Tensor, Tensor], inputs)
        return self._criterion(self.network(lr), hr)

    def prepare(self, lr: Tensor, tile: int | None = None, overlap: int | None = None) -> Draw:
        """Super-resolve once, in tiles if asked to; every "sample" is that image."""
        size = (lr.shape[-2], lr.shape[-1])
        tiles = [tiling.whole(size)]
        if tile is not None:
            radius = self.encoder.receptive_field + _HEAD_RADIUS
            tiles = tiling.tiles(size, tile, radius if overlap is None else overlap)
        image = tiling.stitch(lambda part: self.network(tiling.crop(lr, part.outer, size)), tiles, size, self.scale)
        return repeat(image)
