"""Bicubic interpolation, the comparator that has nothing to learn."""

from collections.abc import Iterator
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from robustflow.data.bicubic import upsample
from robustflow.models import protocol
from robustflow.models.architecture import network_options
from robustflow.models.base import Draw, LossInputs, Model, repeat
from robustflow.models.super_resolution import SuperResolutionOptions
from robustflow.registry import MODELS
from robustflow.utils.errors import UserError


class BicubicOptions(SuperResolutionOptions):
    """Bicubic interpolation: no weights, no training; network_G and train have no effect."""

    type: Literal["bicubic"] = "bicubic"

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Weights that would not be used."""
        yield from super().contradictions(root)
        if root.path.model_path is not None:
            yield "path.model_path", "expected none: model bicubic has no weights; remove it, or --weights"


@MODELS.register("bicubic", BicubicOptions)
class Bicubic(Model):
    """The LR image enlarged as MATLAB's ``imresize`` does (a = -0.5), not clamped; every "sample" is that image.

    Args:
        scale: Super-resolution factor.
        precision: Not used: float32, as ``checkpointing`` and ``cuda_graphs`` are not.
        checkpointing: See there.
        cuda_graphs: See there.
        **architecture: Not used; see `Architecture`.
    """

    has_weights = False
    protocol = protocol.DETERMINISTIC

    def __init__(
        self,
        scale: int = 4,
        *,
        precision: str = "fp32",
        checkpointing: str = "none",
        cuda_graphs: bool = True,
        **architecture: Any,
    ) -> None:
        options = network_options(type(self), scale, **architecture)
        super().__init__(nn.Identity(), scale, options, cuda_graphs)
        # Goes where the model is sent, and says where that is.
        self.register_buffer("_place", torch.zeros(()), persistent=False)

    @property
    def encoder(self) -> NoReturn:
        """UserError: there is none."""
        raise UserError("model bicubic: expected one with an encoder; bicubic interpolation has no features")

    def loss_inputs(self, hr: Tensor, lr: Tensor, generator: torch.Generator) -> NoReturn:
        """UserError: there is nothing to train."""
        raise UserError("model bicubic: expected one with weights; bicubic interpolation has nothing to train")

    def data_loss(self, inputs: LossInputs) -> NoReturn:
        """UserError: there is nothing to train."""
        raise UserError("model bicubic: expected one with weights; bicubic interpolation has nothing to train")

    def prepare(self, lr: Tensor, tile: int | None = None, overlap: int | None = None) -> Draw:
        """Enlarge once, in one piece whatever ``tile`` says: it takes little more memory than the image."""
        return repeat(upsample(lr, self.scale, torch.float64))
