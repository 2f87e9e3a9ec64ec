"""What is done to whole images, before anything is cropped."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robustflow.data.degradations import Degradation, apply, degrade_hr, on_side
from robustflow.data.images import to_float
from robustflow.data.sources.base import Source
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

ConditionOf = Callable[[Tensor], Tensor]


class WholeImages(Source):
    """A source whose HR images are degraded, or whose LR images are degraded and then made conditions, as a whole.

    Args:
        source: HR images, pairs, or LR images alone.
        degradations: Of HR images, which LR images are then to be made from; of LR images if there is ``condition_of``.
        condition_of: Makes a condition (c, h, w), its first three channels the image, of an LR image (3, h, w).
        seed: Seed of all chance, which depends on the image's name beside it.
    """

    def __init__(
        self,
        source: Source,
        degradations: Sequence[Degradation],
        condition_of: ConditionOf | None = None,
        seed: int = 0,
    ) -> None:
        self.source, self.condition_of, self.names, self.seed = source, condition_of, source.names, seed
        self.of_hr, self.of_lr = on_side("HR", degradations), on_side("LR", degradations)
        if source.names and condition_of is not None:
            # Said before training: a source has input images, or it has none.
            self._require_lr(0, source.pair(0)[1])

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an HR image if known without decoding it."""
        return self.source.size(index)

    def pair(self, index: int, epoch: int | None = None) -> tuple[Tensor | None, Tensor | None]:
        """HR (3, H, W) or None, and LR (3, h, w), None or the condition (c, h, w).

        Of an image always the same; with an ``epoch``, with chance of its own.
        """
        hr, lr = self.source.pair(index)
        if self.of_hr:
            if hr is None:
                raise UserError(f"image '{self.names[index]}': expected an HR image to degrade, got an LR image alone")
            hr, lr = degrade_hr(self.of_hr, hr, self._generator("hr degradations", index, epoch)), None
        if self.condition_of is None:
            return hr, lr
        lr = self._require_lr(index, lr)
        lr = apply(self.of_lr, to_float(lr), self._generator("lr noise", index, epoch)) if self.of_lr else lr
        return hr, self.condition_of(lr)

    def _generator(self, purpose: str, index: int, epoch: int | None) -> torch.Generator:
        epochs = () if epoch is None else (epoch,)
        return torch.Generator().manual_seed(derive_seed(purpose, self.seed, self.names[index], *epochs))

    def _require_lr(self, index: int, lr: Tensor | None) -> Tensor:
        if lr is None:
            raise UserError(
                f"image '{self.names[index]}': expected an input image beside the one to be made, got none; give "
                "dataroot_LQ, or another mode"
            )
        return lr


def alter_whole(
    source: Source, degradations: Sequence[Degradation], condition_of: ConditionOf | None, seed: int
) -> tuple[Source, tuple[Degradation, ...], tuple[Degradation, ...]]:
    """Let a source do what must be done to whole images.

    Returns:
        The source, or `WholeImages` of it, and the degradations that are left, for crops of HR and of LR images.
    """
    of_hr, of_lr = on_side("HR", degradations), on_side("LR", degradations)
    whole: tuple[Degradation, ...] = ()
    if any(degradation.reach is None for degradation in of_hr):
        whole, of_hr = of_hr, ()
    if condition_of is not None:
        whole, of_lr = whole + of_lr, ()
    if whole or condition_of is not None:
        source = WholeImages(source, whole, condition_of, seed)
    return source, of_hr, of_lr
