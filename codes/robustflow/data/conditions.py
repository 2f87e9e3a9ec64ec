"""Conditions that depend on whole images, made before anything is cut."""

from collections.abc import Callable

import torch
from torch import Tensor

from robustflow.data.degrade import degrade_lr
from robustflow.data.images import to_float
from robustflow.data.source import Source
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

ConditionOf = Callable[[Tensor], Tensor]


class ConditionSource(Source):
    """A source whose LR images are altered and then replaced by what a task makes of them, as a whole.

    Args:
        source: Pairs, or LR images alone.
        condition_of: Makes a condition (c, h, w), its first three channels the image, of an LR image (3, h, w).
        lr_noise: See `degrade_lr`; likewise ``lr_gain`` and ``lr_invert``.
        seed: Seed of the noise, which depends on the image's name beside it.
    """

    def __init__(
        self,
        source: Source,
        condition_of: ConditionOf,
        lr_noise: float = 0.0,
        lr_gain: float = 1.0,
        lr_invert: bool = False,
        seed: int = 0,
    ) -> None:
        self.source, self.condition_of, self.names, self.seed = source, condition_of, source.names, seed
        self.lr_noise, self.lr_gain, self.lr_invert = lr_noise, lr_gain, lr_invert
        if source.names:
            # Said before training: a source has input images, or it has none.
            self._lr(0)

    @property
    def alters(self) -> bool:
        """Whether conditions are those of altered images."""
        return self.lr_noise > 0 or self.lr_gain != 1 or self.lr_invert

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an HR image if known without decoding it."""
        return self.source.size(index)

    def pair(self, index: int) -> tuple[Tensor | None, Tensor]:
        """HR (3, H, W) or None, and the condition (c, h, w); the noise of an image is always the same."""
        return self._pair(index, derive_seed("lr noise", self.seed, self.names[index]))

    def pair_in(self, epoch: int, index: int) -> tuple[Tensor | None, Tensor]:
        """As `pair`, with noise of the epoch's own."""
        return self._pair(index, derive_seed("lr noise", self.seed, self.names[index], epoch))

    def _pair(self, index: int, noise_seed: int) -> tuple[Tensor | None, Tensor]:
        hr, lr = self._lr(index)
        if self.alters:
            generator = torch.Generator().manual_seed(noise_seed)
            lr = degrade_lr(
                to_float(lr), noise=self.lr_noise, gain=self.lr_gain, invert=self.lr_invert, generator=generator
            )
        return hr, self.condition_of(lr)

    def _lr(self, index: int) -> tuple[Tensor | None, Tensor]:
        hr, lr = self.source.pair(index)
        if lr is None:
            raise UserError(
                f"image '{self.names[index]}': expected an input image beside the one to be made, got none; give "
                "dataroot_LQ, or another mode"
            )
        return hr, lr
