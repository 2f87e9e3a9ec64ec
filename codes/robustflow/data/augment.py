"""Random training crops, each a function of its number alone."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils.data import Dataset

from robustflow.data.conditions import ConditionSource
from robustflow.data.cuts import Batch, Cut, Finish, collate, cut_box
from robustflow.data.degrade import Enhancement
from robustflow.data.source import Box, Shift, Source, lr_size, require_multiple, require_size
from robustflow.utils.errors import UserError, for_all
from robustflow.utils.seeds import derive_seed


class TrainingCrops(Dataset[dict[str, Tensor]]):
    """Crops of HR images and their LR crops, randomly placed, flipped, turned and shifted.

    Sample i is the same whatever came before it, whoever loads it and in whatever batch, so that a resumed run sees
    what an uninterrupted one would have seen. Samples e * n ... e * n + n - 1 take one crop of each of the n images, in
    an order shuffled per epoch e; any i >= 0 is valid, e.g. ``DataLoader(crops, sampler=range(first, last))``.

    The same crops faster: ``DataLoader(crops.cuts, ..., collate_fn=collate)`` decodes and cuts only, and ``finish``
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
        enhancement: Filter of the HR images, or None.
        lr_noise: See `degrade_lr`; likewise ``lr_gain`` and ``lr_invert``.

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
        enhancement: Enhancement | None = None,
        lr_noise: float = 0.0,
        lr_gain: float = 1.0,
        lr_invert: bool = False,
        hr_shift: int = 0,
    ) -> None:
        require_multiple(size, scale)
        if not 0 <= hr_shift <= scale:
            raise UserError(f"expected hr_shift from 0 to the scale {scale} (HR pixels), got {hr_shift}")
        sizes = ((name, source.size(index)) for index, name in enumerate(source.names))
        for_all(
            [(name, known) for name, known in sizes if known is not None],
            lambda image: require_size(*image, size, scale),
        )
        self.source, self.scale, self.size, self.seed = source, scale, size, seed
        self.use_flip, self.use_rot, self.hr_shift = use_flip, use_rot, hr_shift
        self.enhancement: Enhancement | None = enhancement
        self.lr_noise, self.lr_gain, self.lr_invert = lr_noise, lr_gain, lr_invert

    def __len__(self) -> int:
        """Return the number of images, i.e. of samples per epoch."""
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Sample i >= 0: ``gt`` (3, size, size) and ``lr`` (3, size / scale, size / scale), float32 in [0, 1]."""
        gt, lr = self.finish(collate([self.cut(i)]), torch.device("cpu"))
        return {"gt": gt[0], "lr": lr[0]}

    @property
    def cuts(self) -> "Cuts":
        """These crops as loader processes are to make them."""
        return Cuts(self)

    def cut(self, i: int) -> Cut:
        """Decode the image of sample i >= 0 and cut out what the sample is made from, see `cut_box`."""
        if i < 0:
            raise IndexError(f"expected a sample number of at least 0, got {i}")
        generator = torch.Generator().manual_seed(derive_seed("training crop", self.seed, i))
        hr, lr, box = self._random_box(i, generator)
        flip, turns = _draw(2, generator) == 1, _draw(4, generator)
        random = {"pose": torch.tensor([flip and self.use_flip, turns * self.use_rot])}
        if self.lr_noise > 0:
            random["white"] = torch.randn(3, box.height, box.width, generator=generator)
        # Drawn last, so that all else is the same without it.
        return {**cut_box(hr, lr, box, self.scale, self.enhancement, self._random_shift(generator)), **random}

    def finish(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make samples from a batch of cuts, bit for bit those of ``crops[i]``.

        Args:
            batch: From `collate`.
            device: Where to.

        Returns:
            ``gt`` (b, 3, size, size) and ``lr`` (b, 3, size / scale, size / scale), float32 in [0, 1].
        """
        return Finish(self.scale, self.enhancement, self.lr_noise, self.lr_gain, self.lr_invert)(batch, device)

    def _image_of(self, i: int) -> int:
        epoch, position = divmod(i, len(self.source))
        return int(_shuffled(len(self.source), self.seed, epoch)[position])

    def _random_box(self, i: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Box]:
        index = self._image_of(i)
        name = self.source.names[index]
        hr, lr = self._pair(i // len(self.source), index)
        if hr is None:
            raise UserError(f"image '{name}': expected an HR image to train on, got an LR image alone")
        height, width = lr_size(hr, lr, self.scale)
        require_size(name, (height * self.scale, width * self.scale), self.size, self.scale)
        side = self.size // self.scale
        return hr, lr, Box(_draw(height - side + 1, generator), _draw(width - side + 1, generator), side, side)

    def _pair(self, epoch: int, index: int) -> tuple[Tensor | None, Tensor | None]:
        source = self.source
        return source.pair_in(epoch, index) if isinstance(source, ConditionSource) else source.pair(index)

    def _random_shift(self, generator: torch.Generator) -> Shift | None:
        if self.hr_shift == 0:
            return None
        span = 2 * self.hr_shift + 1
        return _draw(span, generator) - self.hr_shift, _draw(span, generator) - self.hr_shift


class Cuts(Dataset[Cut]):
    """Training crops as far as loader processes make them: decoded and cut, see `TrainingCrops.finish` for the rest."""

    def __init__(self, crops: TrainingCrops) -> None:
        self._crops = crops

    def __getitem__(self, i: int) -> Cut:
        """Cut of sample i >= 0."""
        return self._crops.cut(i)


def _draw(n: int, generator: torch.Generator) -> int:
    """Draw from 0 .. n - 1."""
    return int(torch.randint(n, (), generator=generator))


@lru_cache(maxsize=4)
def _shuffled(n: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed("image order", seed, epoch))
    return torch.randperm(n, generator=generator)
