"""Fixed images and crops for validation and tests."""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from robustflow.data.bicubic import Kernel
from robustflow.data.crops import Box, Cropping, lr_size, require_multiple, require_size
from robustflow.data.degradations import Degradation, apply, on_side
from robustflow.data.images import to_float
from robustflow.data.sources.base import Source, require_file_name
from robustflow.data.whole_images import ConditionOf, alter_whole
from robustflow.options.schema import USUAL_SIDE
from robustflow.utils.errors import UserError, for_all
from robustflow.utils.seeds import derive_seed


@dataclass(frozen=True)
class EvaluationItem:
    """One input of an evaluation.

    Attributes:
        name: Unique in its set, fit for file names.
        gt: (3, H, W), float32 in [0, 1], or None if there is no ground truth.
        lr: (3, H / scale, W / scale), float32, in [0, 1] unless a gain took it out.
        lr_altered: The LR image was degraded, so ``lr`` is not the downsampled ``gt``.
        whole: ``lr`` and what was made of the whole image, (c, H / scale, W / scale); None: nothing was.
        kernel: What ``lr`` was made with of ``gt``, see `downsample`.
    """

    name: str
    gt: Tensor | None
    lr: Tensor
    lr_altered: bool
    whole: Tensor | None = None
    kernel: Kernel = "bicubic"

    @property
    def condition(self) -> Tensor:
        """What the task is given."""
        return self.lr if self.whole is None else self.whole


class EvaluationSet(Sequence[EvaluationItem]):
    """Whole images or fixed crops, the same in every run and on every machine.

    An item depends on its image, its name and the seed, not on what else is in the source.

    Args:
        source: Whole images.
        scale: Super-resolution factor; HR sides that are no multiples of it lose their far end.
        size: Side of square crops in HR pixels, a multiple of ``scale``; None: whole images.
        n_crops: Number of randomly placed crops in all, spread evenly over the images and named
            ``<image>_crop00`` and so on; None: one crop from the centre of each image.
        seed: Seed of the places and of the noise.
        degradations: What the images suffer: whole HR images, before anything else; LR images or the crops of them.
        kernel: What LR images are made with, see `downsample`.
        condition_of: See `WholeImages`; LR images are then degraded as a whole, too.

    Raises:
        UserError: if ``size`` does not suit the scale, an image is smaller (here if known without decoding it), or its
            name is not fit for files of results.
    """

    def __init__(
        self,
        source: Source,
        scale: int,
        size: int | None = None,
        n_crops: int | None = None,
        seed: int = 0,
        degradations: Sequence[Degradation] = (),
        kernel: Kernel = "bicubic",
        condition_of: ConditionOf | None = None,
    ) -> None:
        if size is not None:
            require_multiple(size, scale)
        elif n_crops is not None:
            raise UserError(f"expected GT_size beside n_crops = {n_crops}: the side of the crops")
        self.source, of_hr, self.of_lr = alter_whole(source, degradations, condition_of, seed)
        self.scale, self.size, self.seed = scale, size, seed
        self.cropping = Cropping(scale, kernel, of_hr)
        self._lr_altered = len(on_side("LR", degradations)) > 0
        self._items = _spread_crops(len(source), n_crops)
        for_all(source.names, require_file_name)
        for_all({index: None for index, _ in self._items}, lambda index: self._require(index, source.size(index)))

    def __len__(self) -> int:
        """Return the number of images or crops."""
        return len(self._items)

    @overload
    def __getitem__(self, k: int) -> EvaluationItem: ...
    @overload
    def __getitem__(self, k: slice) -> "EvaluationSet": ...
    def __getitem__(self, k: int | slice) -> "EvaluationItem | EvaluationSet":
        """Item k, or the set of some of the items for a slice."""
        if isinstance(k, slice):
            part = copy.copy(self)
            part._items = self._items[k]
            return part
        return self._item(*self._items[k])

    @property
    def pixels(self) -> int:
        """HR pixels of all items, estimated where a size is not known without decoding."""
        sizes = (self._known_size(index) or (USUAL_SIDE, USUAL_SIDE) for index, _ in self._items)
        return sum(height * width for height, width in sizes)

    def size_of_lr(self, k: int) -> tuple[int, int]:
        """Height and width of the LR image of item k, which is decoded only where they are not known without."""
        known = self._known_size(self._items[k][0])
        if known is None:
            lr = self[k].lr
            return lr.shape[-2], lr.shape[-1]
        return known[0] // self.scale, known[1] // self.scale

    def _known_size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an image of the source, or of its crops, at HR size; None if it is yet to be decoded."""
        return self.source.size(index) if self.size is None else (self.size, self.size)

    def _item(self, index: int, crop: int | None) -> EvaluationItem:
        image = self.source.names[index]
        name = image if crop is None else f"{image}_crop{crop:02d}"
        hr, lr = self.source.pair(index)
        if hr is None and self.cropping.degradations:
            raise UserError(f"image '{image}': expected an HR image to degrade, got an LR image alone")
        height, width = lr_size(hr, lr, self.scale)
        self._require(index, (height * self.scale, width * self.scale))
        box = self._box(image, crop, height, width)
        gt = None if hr is None else to_float(self.cropping.crop_hr(hr, box)).contiguous()
        lr = to_float(self.cropping.crop_lr(hr, lr, box)).contiguous()
        lr = apply(self.of_lr, lr, torch.Generator().manual_seed(derive_seed("lr noise", self.seed, name)))
        rgb, whole = (lr, None) if len(lr) == 3 else (lr[:3].contiguous(), lr)
        return EvaluationItem(name, gt, rgb, self._lr_altered, whole, self.cropping.kernel)

    def _box(self, image: str, crop: int | None, height: int, width: int) -> Box:
        """Where to cut, in an LR image of (height, width)."""
        if self.size is None:
            return Box(0, 0, height, width)
        side = self.size // self.scale
        if crop is None:
            return Box((height - side) // 2, (width - side) // 2, side, side)
        generator = torch.Generator().manual_seed(derive_seed("fixed crop", self.seed, image, crop))
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        return Box(top, left, side, side)

    def _require(self, index: int, available: tuple[int, int] | None) -> None:
        if available is not None:
            smallest = self.scale if self.size is None else self.size
            require_size(self.source.names[index], available, smallest, self.scale)


def _spread_crops(n_images: int, n_crops: int | None) -> list[tuple[int, int | None]]:
    """(image, number of the crop in it) of each item; crops as evenly over the images as can be."""
    if n_crops is None:
        return [(index, None) for index in range(n_images)]
    images = Counter(k * n_images // n_crops for k in range(n_crops))
    return [(index, crop) for index, count in images.items() for crop in range(count)]
