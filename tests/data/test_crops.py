"""A batch assembled at once equals, bit for bit, crops that are made one by one in the plain way."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from robustflow.data import TrainingCrops
from robustflow.data.bicubic import downsample, mirror_pad
from robustflow.data.crops import Box, Cropping, collate, lr_size, turn
from robustflow.data.degradations import Degradation, Enhance, Gain, Invert, Noise, apply
from robustflow.data.images import to_float
from robustflow.data.sources.base import Source
from robustflow.data.training_crops import _draw
from robustflow.utils.seeds import derive_seed

CPU = torch.device("cpu")


class Pictures(Source):
    """Random images of given sizes; those whose number is in ``deep`` are floating, those in ``paired`` have an LR."""

    def __init__(self, sizes: Sequence[tuple[int, int]], scale: int, deep=(), paired=()) -> None:
        self.names = [str(number) for number in range(len(sizes))]
        self.sizes, self.scale, self.deep, self.paired = sizes, scale, deep, paired

    def pair(self, index: int) -> tuple[Tensor, Tensor | None]:
        height, width = self.sizes[index]
        lr_size = (height // self.scale, width // self.scale)
        return self._image(index, height, width), self._image(index, *lr_size) if index in self.paired else None

    def _image(self, index: int, height: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        return image / 255 if index in self.deep else image


def plain_crop(crops: TrainingCrops, i: int) -> tuple[Tensor, Tensor]:
    """Sample i: crop, downsample, convert, turn, degrade, shift, one after another."""
    generator = torch.Generator().manual_seed(derive_seed("training crop", crops.seed, i))
    hr, lr = crops.source.pair(crops._image_of(i))
    height, width = lr_size(hr, lr, crops.scale)
    side = crops.size // crops.scale
    box = Box(_draw(height - side + 1, generator), _draw(width - side + 1, generator), side, side)
    gt, lr = crops.cropping.crop_hr(hr, box), crops.cropping.crop_lr(hr, lr, box)
    flip, turns = _draw(2, generator) == 1, _draw(4, generator)
    lr = apply(crops.of_lr, turn(to_float(lr), flip and crops.use_flip, turns * crops.use_rot), generator)
    if crops.hr_shift > 0:
        gt = shifted_crop(crops, hr[:, : height * crops.scale, : width * crops.scale], box, generator)
    return turn(to_float(gt), flip and crops.use_flip, turns * crops.use_rot), lr


def shifted_crop(crops: TrainingCrops, whole: Tensor, box: Box, generator: torch.Generator) -> Tensor:
    """The HR crop out of the whole image, enhanced, then mirrored around, by a shift drawn after all else."""
    whole = apply(crops.cropping.degradations, whole)
    margin, side = crops.hr_shift, crops.size
    padded = mirror_pad(whole, margin, margin, margin, margin)
    top, left = (place * crops.scale + _draw(2 * margin + 1, generator) for place in (box.top, box.left))
    return padded[:, top : top + side, left : left + side]


def assert_as_plain(crops: TrainingCrops, n: int = 24) -> None:
    gt, lr = crops.assemble(collate([crops.raw[i] for i in range(n)]), CPU)
    assert gt.dtype == lr.dtype == torch.float32
    for i in range(n):
        expected_gt, expected_lr = plain_crop(crops, i)
        for found in ({"gt": gt[i], "lr": lr[i]}, crops[i]):
            assert found["gt"].equal(expected_gt)
            assert found["lr"].equal(expected_lr)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "enhancement", [[], [Enhance("published")], [Enhance("unit")]], ids=["none", "published", "unit"]
)
@pytest.mark.parametrize("share", [0, 1])
def test_batch_equals_plain_crops(scale: int, enhancement: list[Degradation], share: int):
    # Images of one crop, barely more, and much more than a crop, with sides that are no multiples of the scale.
    sizes = [(2 * scale, 2 * scale), (3 * scale + 1, 2 * scale + scale - 1), (20 * scale, 9 * scale + 1)]
    source = Pictures(sizes, scale)
    assert_as_plain(
        TrainingCrops(source, scale, 2 * scale, True, True, degradations=enhancement, hr_shift=share * scale)
    )


@pytest.mark.parametrize("size", [4, 64, 160])
def test_sizes_of_crops(size: int):
    assert_as_plain(TrainingCrops(Pictures([(170, 190), (161, 299)], 4), 4, size, True, True), n=6)


@pytest.mark.parametrize("enhancement", [[], [Enhance("published")]], ids=["none", "published"])
@pytest.mark.parametrize("hr_shift", [0, 3])
def test_deep_and_paired_images_among_others(enhancement: list[Degradation], hr_shift: int):
    source = Pictures([(40, 44), (19, 16)] * 4, 4, deep=(1, 2, 6), paired=(2, 3, 7))
    assert_as_plain(TrainingCrops(source, 4, 16, True, True, degradations=enhancement, hr_shift=hr_shift))


@pytest.mark.parametrize("change", [[Noise(0.1)], [Gain(1.7), Invert(), Noise(0.3)]], ids=len)
@pytest.mark.parametrize("deep", [(), (0, 1)])
@pytest.mark.parametrize("hr_shift", [0, 4])
def test_alterations_of_the_lr(change: list[Degradation], deep: tuple[int, ...], hr_shift: int):
    source = Pictures([(40, 44)] * 2, 4, deep=deep)
    assert_as_plain(TrainingCrops(source, 4, 16, True, True, degradations=change, hr_shift=hr_shift))


@pytest.mark.parametrize(("workers", "hr_shift"), [(0, 0), (2, 0), (2, 4)])
def test_loader_gives_pixels_as_bytes(workers: int, hr_shift: int):
    crops = TrainingCrops(Pictures([(60, 70)] * 3, 4), 4, 32, True, True, hr_shift=hr_shift)
    loader = DataLoader(crops.raw, 5, sampler=range(7, 17), num_workers=workers, collate_fn=collate)
    batches = list(loader)
    assert [sum(part.nbytes for part in batch[0].values() if part.ndim > 2) for batch in batches] == [5 * 3 * 48**2] * 2
    for number, batch in zip((7, 12), batches, strict=True):
        gt, lr = crops.assemble(batch, CPU)
        for i in range(5):
            expected = plain_crop(crops, number + i)
            assert gt[i].equal(expected[0])
            assert lr[i].equal(expected[1])


def test_window_is_mirrored_as_the_bicubic_does_it():
    hr = Pictures([(33, 41)], 4).pair(0)[0]
    enhance, cropping = Enhance("unit"), Cropping(4, degradations=(Enhance("unit"),))
    whole = enhance(hr[:, :32, :40])
    for box in (Box(0, 0, 8, 10), Box(0, 0, 1, 1), Box(7, 9, 1, 1), Box(3, 0, 2, 10), Box(2, 2, 4, 4)):
        window = cropping.mirrored_window(hr, box)
        assert window.shape == (3, 4 * (box.height + 4), 4 * (box.width + 4))
        small = downsample(enhance(window), 4)[:, 2:-2, 2:-2]
        assert small.equal(box.of(downsample(whole, 4)))


@pytest.mark.parametrize("kinds", [{}, {"deep": (1, 2), "paired": (2,)}], ids=str)
@pytest.mark.parametrize("of_lr", [[], [Noise(0.1)]], ids=len)
def test_nothing_is_read_back_from_the_device(kinds: dict[str, tuple[int, ...]], of_lr: list[Degradation]):
    crops = TrainingCrops(
        Pictures([(60, 70)] * 4, 4, **kinds), 4, 32, True, True, degradations=[Enhance("unit"), *of_lr], hr_shift=2
    )
    # A device without contents: reading is an error.
    gt, lr = crops.assemble(collate([crops.raw[i] for i in range(9)]), torch.device("meta"))
    assert (gt.shape, lr.shape) == ((9, 3, 32, 32), (9, 3, 8, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for():
    crops = TrainingCrops(
        Pictures([(60, 70)] * 4, 4, deep=(1,)), 4, 32, True, True, degradations=[Enhance("unit")], hr_shift=2
    )
    loader = DataLoader(crops.raw, 8, sampler=range(32), collate_fn=collate, pin_memory=True)
    for number, batch in enumerate(loader):
        assert all(part.is_pinned() for cuts in batch for part in cuts.values())
        torch.cuda.set_sync_debug_mode("error" if number > 0 else "default")
        try:
            crops.assemble(batch, torch.device("cuda"))
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "enhancement", [[], [Enhance("published")], [Enhance("unit")]], ids=["none", "published", "unit"]
)
@pytest.mark.parametrize("hr_shift", [0, 4])
def test_same_on_a_gpu(enhancement: list[Degradation], hr_shift: int):
    crops = TrainingCrops(Pictures([(60, 70)] * 3, 4), 4, 32, True, True, degradations=enhancement, hr_shift=hr_shift)
    batch = collate([crops.raw[i] for i in range(9)])
    for here, there in zip(crops.assemble(batch, CPU), crops.assemble(batch, torch.device("cuda")), strict=True):
        assert there.cpu().equal(here)
