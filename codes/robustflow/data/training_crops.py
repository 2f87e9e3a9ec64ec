"""Random training crops, each a function of its number alone."""

import copy
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import Dataset

from robustflow.data.bicubic import Kernel
from robustflow.data.crops import (
    Batch,
    Box,
    Cropping,
    RawCrop,
    Shift,
    collate,
    lr_size,
    require_multiple,
    require_size,
    turn,
)
from robustflow.data.degradations import Degradation, apply
from robustflow.data.images import to_float
from robustflow.data.sources.base import Source
from robustflow.data.whole_images import ConditionOf, WholeImages, alter_whole
from robustflow.utils.errors import UserError, for_all
from robustflow.utils.seeds import derive_seed


class TrainingCrops(Dataset[dict[str, Tensor]]):
    """Crops of HR images and their LR crops, randomly placed, flipped, turned and shifted.

    Sample i is the same whatever came before it, whoever loads it and in whatever batch, so that a resumed run sees
    what an uninterrupted one would have seen. Samples e * n ... e * n + n - 1 take one crop of each of the n images, in
    an order shuffled per epoch e; any i >= 0 is valid, e.g. ``DataLoader(crops, sampler=range(first, last))``.

    The same crops faster: ``DataLoader(crops.raw, ..., collate_fn=collate)`` decodes and crops only, and ``assemble``
    makes the rest of a batch at once, on the device that trains.

    Args:
        source: Whole images, HR given.
        scale: Super-resolution factor.
        size: Side of the HR crops, a multiple of ``scale``.
        use_flip: Flip horizontally, half of the time.
        use_rot: Turn by 0, 90, 180 or 270 degrees, all equally likely.
        hr_shift: N, HR pixels, from 0 to the scale: the HR crop is taken -N to N pixels further down, and as many
            further right, than its LR crop, all distances equally likely, pixels mirrored beyond the image's borders
            (Lugmayr et al., SRFlow, for content transfer). Nothing else depends on it.
        seed: Seed of all choices.
        degradations: What the images suffer: whole HR images, before anything else; LR crops, flipped and turned.
        kernel: What LR images are made with, see `downsample`.
        condition_of: See `WholeImages`; LR images are then degraded as a whole, too.

    Raises:
        UserError: if ``size`` or ``hr_shift`` does not suit the scale or an image is smaller (here if known without
            decoding it).
    """

    def __init__(
        self,
        source: Source,
        scale: int,
        size: int,
        use_flip: bool = False,
        use_rot: bool = False,
        seed: int = 0,
        hr_shift: int = 0,
        degradations: Sequence[Degradation] = (),
        kernel: Kernel = "bicubic",
        condition_of: ConditionOf | None = None,
    ) -> None:
        require_multiple(size, scale)
        if not 0 <= hr_shift <= scale:
            raise UserError(f"expected hr_shift from 0 to the scale {scale} (HR pixels), got {hr_shift}")
        self.source, of_hr, self.of_lr = alter_whole(source, degradations, condition_of, seed)
        self.scale, self.size, self.seed = scale, size, seed
        self.use_flip, self.use_rot, self.hr_shift = use_flip, use_rot, hr_shift
        self.cropping = Cropping(scale, kernel, of_hr)
        self._require_sizes()

    def __len__(self) -> int:
        """Return the number of images, i.e. of samples per epoch."""
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Sample i >= 0: ``gt`` (3, size, size) and ``lr`` (3, size / scale, size / scale), float32 in [0, 1]."""
        gt, lr = self.assemble(collate([self.crop(i)]), torch.device("cpu"))
        return {"gt": gt[0], "lr": lr[0]}

    @property
    def raw(self) -> "RawCrops":
        """These crops as loader processes are to make them."""
        return RawCrops(self)

    def crop(self, i: int) -> RawCrop:
        """Decode the image of sample i >= 0 and crop what the sample is made from, see `Cropping.crop_raw`."""
        if i < 0:
            raise IndexError(f"expected a sample number of at least 0, got {i}")
        generator = torch.Generator().manual_seed(derive_seed("training crop", self.seed, i))
        hr, lr, box = self._random_box(i, generator)
        flip, turns = _draw(2, generator) == 1, _draw(4, generator)
        pose = (flip and self.use_flip, turns * self.use_rot)
        # Shifts are drawn last, so that all else is the same without them.
        if not self.of_lr:
            raw = self.cropping.crop_raw(hr, lr, box, self._random_shift(generator))
            return {**raw, "pose": torch.tensor(pose)}
        small = turn(to_float(self.cropping.crop_lr(hr, lr, box)), *pose)
        small = apply(self.of_lr, small, generator)
        large = turn(self.cropping.crop_hr(hr, box, self._random_shift(generator) or (0, 0)), *pose)
        return {"gt": large, "lr": small, "pose": torch.tensor((False, 0))}

    def assemble(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make samples from a batch of raw crops, bit for bit those of ``crops[i]``.

        Args:
            batch: From `collate`.
            device: Where to.

        Returns:
            ``gt`` (b, 3, size, size) and ``lr`` (b, 3, size / scale, size / scale), float32 in [0, 1].
        """
        return self.cropping.assemble(batch, device)

    def upright(self, size: int, seed: int) -> "TrainingCrops":
        """Crops of another size and seed, neither flipped nor turned nor shifted."""
        require_multiple(size, self.scale)
        other = copy.copy(self)
        other.size, other.seed, other.use_flip, other.use_rot, other.hr_shift = size, seed, False, False, 0
        other._require_sizes()
        return other

    def _require_sizes(self) -> None:
        sizes = ((name, self.source.size(index)) for index, name in enumerate(self.source.names))
        known = [(name, size) for name, size in sizes if size is not None]
        for_all(known, lambda image: require_size(*image, self.size, self.scale))

    def _image_of(self, i: int) -> int:
        epoch, position = divmod(i, len(self.source))
        return int(_shuffle(len(self.source), self.seed, epoch)[position])

    def _random_box(self, i: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Box]:
        index = self._image_of(i)
        name = self.source.names[index]
        source, epoch = self.source, i // len(self.source)
        hr, lr = source.pair(index, epoch) if isinstance(source, WholeImages) else source.pair(index)
        if hr is None:
            raise UserError(f"image '{name}': expected an HR image to train on, got an LR image alone")
        height, width = lr_size(hr, lr, self.scale)
        require_size(name, (height * self.scale, width * self.scale), self.size, self.scale)
        side = self.size // self.scale
        return hr, lr, Box(_draw(height - side + 1, generator), _draw(width - side + 1, generator), side, side)

    def _random_shift(self, generator: torch.Generator) -> Shift | None:
        if self.hr_shift == 0:
            return None
        span = 2 * self.hr_shift + 1
        return _draw(span, generator) - self.hr_shift, _draw(span, generator) - self.hr_shift


class RawCrops(Dataset[RawCrop]):
    """Training crops as far as loader processes make them: `TrainingCrops.assemble` makes the rest."""

    def __init__(self, crops: TrainingCrops) -> None:
        self._crops = crops

    def __getitem__(self, i: int) -> RawCrop:
        """Raw crop of sample i >= 0."""
        return self._crops.crop(i)


def _draw(n: int, generator: torch.Generator) -> int:
    """Draw from 0 .. n - 1."""
    return int(torch.randint(n, (), generator=generator))


@lru_cache(maxsize=4)
def _shuffle(n: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed("image order", seed, epoch))
    return torch.randperm(n, generator=generator)
