"""L1 pretraining of the encoder alone, as plain super-resolution."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow import encoders
from robustflow.encoders import RRDB, RRDBNet
from robustflow.errors import UserError
from robustflow.options.schema import NetworkOptions
from robustflow.registry import TASKS, Options
from robustflow.tasks.base import Draw, Task


class EncoderPretrainingOptions(Options):
    """ESRGAN's RRDB trained with L1 (Wang et al., ECCVW 2018)."""

    type: Literal["RRDB"] = "RRDB"


@TASKS.register("RRDB", EncoderPretrainingOptions)
class EncoderPretraining(Task):
    """Mean absolute error of the encoder's image head; one deterministic "sample"."""

    loss_name = "l1"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def build_network(self, options: NetworkOptions) -> RRDBNet:
        """Build the encoder with its image head."""
        encoder = encoders.build(options, self.scale, n_levels=1)
        if not isinstance(encoder, RRDB):
            raise UserError(f"model RRDB pretrains the encoder RRDB, got network_G.encoder: {options.encoder}")
        return RRDBNet(encoder, self.scale)

    def encoder(self, network: nn.Module) -> nn.Module:
        """Return the encoder without its head."""
        return network.encoder  # type: ignore[return-value]

    def loss(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor:
        """Mean absolute error, images in [0, 1]."""
        return F.l1_loss(network(lr), gt)

    def bits_per_dim(self, network: nn.Module, gt: Tensor, lr: Tensor, generator: torch.Generator) -> None:
        """None: this model has no likelihood."""
        return

    def size_multiple(self, network: nn.Module) -> int:
        """HR images whose sides are multiples of the scale need no padding."""
        return self.scale

    def drawing(self, network: nn.Module, lr: Tensor) -> Draw:
        """Super-resolve once; every "sample" is that image."""
        image = network(lr)

        def draw(temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
            return image.expand(len(generators), -1, -1, -1)

        return draw
