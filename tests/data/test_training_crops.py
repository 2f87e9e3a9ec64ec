import functools
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from robustflow.data import EvaluationSet, TrainingCrops, build_evaluation, build_training, register_source
from robustflow.data.bicubic import downsample
from robustflow.data.crops import Box, Cropping, turn
from robustflow.data.degradations import Degradation, Enhance, Gain, Invert, Noise
from robustflow.data.images import to_float
from robustflow.data.sources.base import Source
from robustflow.data.sources.folders import FolderOptions
from robustflow.options.schema import DatasetOptions
from robustflow.registry import DATASETS


class Pictures(Source):
    """Random images, each depending on its name alone."""

    def __init__(self, sizes: Sequence[tuple[int, int]], floating: bool = False, headers: bool = True) -> None:
        self.names = [f"{height}x{width}_{n}" for n, (height, width) in enumerate(sizes)]
        self.sizes, self.floating, self.headers = sizes, floating, headers

    def size(self, index: int) -> tuple[int, int] | None:
        return self.sizes[index] if self.headers else None

    def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        image = torch.rand(3, *self.sizes[index], generator=torch.Generator().manual_seed(index))
        return (image if self.floating else (image * 255).to(torch.uint8)), None


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a["gt"].equal(b["gt"]) and a["lr"].equal(b["lr"])


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize(
    "suffered", [(), (Enhance("published"),), (Enhance("unit"),)], ids=["none", "published", "unit"]
)
def test_lr_of_a_crop_is_the_crop_of_the_lr(scale: int, suffered: tuple[Degradation, ...]):
    hr, _ = Pictures([(15 * scale + 1, 12 * scale + scale - 1)]).pair(0)
    whole = hr[:, : 15 * scale, : 12 * scale]
    whole = suffered[0](whole) if suffered else whole
    cropping = Cropping(scale, degradations=suffered)
    lr = downsample(whole, scale)
    for side in (1, 4, 12):
        for top in range(15 - side + 1):
            for left in {0, 1, 4, 12 - side} & set(range(12 - side + 1)):
                box = Box(top, left, side, side)
                assert cropping.crop_hr(hr, box).equal(box.of(whole, scale))
                assert cropping.crop_lr(hr, None, box).equal(box.of(lr))


def test_lr_of_a_floating_crop():
    hr, _ = Pictures([(64, 64)], floating=True).pair(0)
    lr = Cropping(4).crop_lr(hr, None, Box(3, 5, 4, 4))
    torch.testing.assert_close(lr, downsample(hr, 4)[:, 3:7, 5:9], rtol=0, atol=1e-6)


def test_given_lr_is_cut_at_the_same_place():
    hr = torch.arange(3 * 16 * 24).reshape(3, 16, 24)
    lr = hr[:, ::4, ::4]
    box = Box(1, 2, 2, 3)
    gt_crop, lr_crop = Cropping(4).crop_hr(hr, box), Cropping(4).crop_lr(hr, lr, box)
    assert lr_crop.shape == (3, 2, 3)
    assert gt_crop[:, ::4, ::4].equal(lr_crop)


def test_enhancement_makes_the_lr_anew():
    hr, _ = Pictures([(32, 32)]).pair(0)
    given = torch.zeros(3, 8, 8, dtype=torch.uint8)
    lr_crop = Cropping(4, degradations=(Enhance("unit"),)).crop_lr(hr, given, Box(2, 2, 4, 4))
    assert lr_crop.equal(downsample(Enhance("unit")(hr), 4)[:, 2:6, 2:6])


def test_training_sample():
    sample = TrainingCrops(Pictures([(50, 61)]), scale=4, size=32, use_flip=True, use_rot=True)[0]
    assert sample["gt"].shape == (3, 32, 32)
    assert sample["lr"].shape == (3, 8, 8)
    for image in sample.values():
        assert image.dtype == torch.float32
        assert image.is_contiguous()
        assert 0 <= image.min() < image.max() <= 1


def test_samples_depend_on_their_number_alone():
    def crops() -> TrainingCrops:
        return TrainingCrops(
            Pictures([(40, 40)] * 5), scale=4, size=16, use_flip=True, use_rot=True, degradations=[Noise(0.1)]
        )

    first = crops()
    samples = [first[i] for i in range(12)]
    assert all(equal(crops()[i], samples[i]) for i in reversed(range(12)))
    loader = DataLoader(crops(), batch_size=3, sampler=range(6, 12), num_workers=2)
    loaded = [dict(zip(batch, pair, strict=True)) for batch in loader for pair in zip(*batch.values(), strict=True)]
    assert all(equal(a, b) for a, b in zip(loaded, samples[6:], strict=True))


def test_seeds_and_numbers_differ():
    crops = [TrainingCrops(Pictures([(80, 80)]), scale=2, size=8, seed=seed) for seed in (0, 1)]
    assert not equal(crops[0][0], crops[1][0])
    assert not equal(crops[0][0], crops[0][1])
    with pytest.raises(IndexError):
        crops[0][-1]


def test_each_epoch_visits_every_image_in_another_order():
    crops = TrainingCrops(Pictures([(8, 8)] * 20), scale=2, size=8)
    orders = [[crops._image_of(i) for i in range(20 * epoch, 20 * epoch + 20)] for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    assert orders[0] != orders[1]


class Coordinates(Source):
    """One image whose red and green channels are the row and column of each pixel."""

    names = ("coordinates",)

    def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
        return torch.stack([rows, columns, 0 * rows]), None


def test_offsets_reach_both_ends():
    crops = TrainingCrops(Coordinates(), scale=4, size=8)
    corners = {(int(s["gt"][0, 0, 0]), int(s["gt"][1, 0, 0])) for s in map(crops.__getitem__, range(100))}
    assert corners == {(top, left) for top in (0, 4) for left in (0, 4, 8)}


@pytest.mark.parametrize(
    ("flip", "rot", "count"), [(False, False, 1), (True, False, 2), (False, True, 4), (True, True, 8)]
)
def test_orientations_that_occur(flip: bool, rot: bool, count: int):
    crops = TrainingCrops(Pictures([(8, 8)]), scale=2, size=8, use_flip=flip, use_rot=rot)
    samples = [crops[i] for i in range(80)]
    assert len({tuple(s["gt"].flatten().tolist()) for s in samples}) == count
    hr = Pictures([(8, 8)]).pair(0)[0]
    for s in samples:  # the LR crop is turned like the HR crop
        ways = [(f, k) for f in (False, True) for k in range(4) if turn(to_float(hr), f, k).equal(s["gt"])]
        assert turn(to_float(downsample(hr, 2)), *ways[0]).equal(s["lr"])


def test_turn():
    image = torch.tensor([[[0, 1], [2, 3]]])
    assert turn(image, True, 0).tolist() == [[[1, 0], [3, 2]]]
    assert turn(image, False, 1).tolist() == [[[1, 3], [0, 2]]]


def test_too_small_images_are_named():
    message = r"image '33x15_1': expected at least 16 x 16 .* got 12 x 32 "
    with pytest.raises(ValueError, match=message):
        TrainingCrops(Pictures([(16, 16), (33, 15)]), scale=4, size=16)
    with pytest.raises(ValueError, match=message):
        EvaluationSet(Pictures([(16, 16), (33, 15)]), scale=4, size=16)
    late = TrainingCrops(Pictures([(33, 15)] * 2, headers=False), scale=4, size=16)
    with pytest.raises(ValueError, match="expected at least 16 x 16"):
        late[0]
    with pytest.raises(ValueError, match="multiple of the scale 4"):
        TrainingCrops(Pictures([(64, 64)]), scale=4, size=18)
    with pytest.raises(ValueError, match="multiple of the scale 4"):
        EvaluationSet(Pictures([(64, 64)]), scale=4, size=18)


def test_pixels_of_a_set_are_those_of_its_items():
    sizes = [(16, 24), (33, 40)]
    assert EvaluationSet(Pictures(sizes), scale=4).pixels == 16 * 24 + 33 * 40
    assert EvaluationSet(Pictures(sizes), scale=4, size=8, n_crops=5).pixels == 5 * 8 * 8
    assert EvaluationSet(Pictures(sizes, headers=False), scale=4).pixels == 2 * 256 * 256  # an estimate


def test_lr_alone_cannot_train():
    class LrOnly(Pictures):
        def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
            return None, super().pair(index)[0]

    with pytest.raises(ValueError, match="expected an HR image to train on"):
        TrainingCrops(LrOnly([(16, 16)]), scale=4, size=16)[0]
    item = EvaluationSet(LrOnly([(16, 16)], headers=False), scale=4, size=32)[0]
    assert item.gt is None
    assert item.lr.shape == (3, 8, 8)
    with pytest.raises(ValueError, match="expected an HR image to degrade"):
        EvaluationSet(LrOnly([(16, 16)]), scale=4, degradations=[Enhance("unit")])[0]


def test_whole_images_are_cropped_to_the_scale():
    source = Pictures([(19, 33)])
    (item,) = EvaluationSet(source, scale=4)
    hr = source.pair(0)[0][:, :16, :32]
    assert item.name == "19x33_0"
    assert item.gt.equal(to_float(hr))
    assert item.lr.equal(to_float(downsample(hr, 4)))
    assert not item.lr_altered


def test_centre_crops():
    (item,) = EvaluationSet(Coordinates(), scale=4, size=4)
    assert item.name == "coordinates"
    assert item.gt[:2, 0, 0].tolist() == [4, 4]


def test_fixed_crops_are_spread_evenly():
    items = EvaluationSet(Pictures([(40, 40)] * 3), scale=4, size=16, n_crops=7)
    names = [item.name for item in items]
    assert len(items) == len(set(names)) == 7
    assert [sum(name.startswith(f"40x40_{n}_crop") for name in names) for n in range(3)] == [3, 2, 2]
    assert names[:2] == ["40x40_0_crop00", "40x40_0_crop01"]
    few = EvaluationSet(Pictures([(40, 40)] * 6), scale=4, size=16, n_crops=2)
    assert [item.name for item in few] == ["40x40_0_crop00", "40x40_3_crop00"]


def test_fixed_crops_do_not_depend_on_other_images():
    alone = EvaluationSet(Pictures([(64, 64)]), scale=4, size=16, n_crops=2, degradations=[Noise(0.1)])
    among = EvaluationSet(Pictures([(64, 64), (40, 40)]), scale=4, size=16, n_crops=4, degradations=[Noise(0.1)])
    for a, b in zip(alone, among[:2], strict=True):
        assert a.name == b.name
        assert a.gt.equal(b.gt)
        assert a.lr.equal(b.lr)
    assert not alone[0].gt.equal(alone[1].gt)
    other = EvaluationSet(Pictures([(64, 64)]), scale=4, size=16, n_crops=2, seed=1)
    assert not alone[0].gt.equal(other[0].gt)


def test_fixed_crops_differ_between_images():
    class Twins(Pictures):
        def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
            return super().pair(0)

    items = EvaluationSet(Twins([(200, 200)] * 2), scale=4, size=16, n_crops=2)
    assert not items[0].gt.equal(items[1].gt)


def test_enhancement_comes_before_the_crop():
    source = Pictures([(40, 40)])
    item = EvaluationSet(source, scale=4, size=16, degradations=[Enhance("unit")])[0]
    hr = Enhance("unit")(source.pair(0)[0])
    assert item.gt.equal(to_float(hr[:, 12:28, 12:28]))
    assert item.lr.equal(to_float(downsample(hr, 4)[:, 3:7, 3:7]))
    assert not item.lr_altered


@pytest.mark.parametrize("change", [Noise(0.1), Gain(2.0), Invert()], ids=["noise", "gain", "invert"])
def test_altered_lr_is_marked(change: Degradation):
    clean, item = (EvaluationSet(Pictures([(40, 40)]), 4, degradations=some)[0] for some in ([], [change]))
    assert item.lr_altered
    assert not item.lr.equal(clean.lr)
    assert item.gt.equal(clean.gt)


def test_options_reach_the_sets():
    values = {"mode": "bundled", "split": "text", "GT_size": 16, "use_flip": True, "use_rot": True, "lr_gain": 2.0}
    crops = build_training(DATASETS.parse(values | {"enhance": "unit", "hr_shift": 3}), scale=8, seed=5)
    assert (crops.scale, crops.size, crops.seed, crops.use_flip, crops.use_rot) == (8, 16, 5, True, True)
    (of_hr,), (of_lr,) = crops.cropping.degradations, crops.of_lr
    assert (of_hr.divisor, of_lr.factor, crops.hr_shift) == (6, 2.0, 3)
    items = build_evaluation(DATASETS.parse(values | {"n_crops": 4, "enhance": True, "seed": 9}), scale=8)
    assert (len(items), items.cropping.degradations[0].divisor, items.seed) == (4, 3, 9)
    with pytest.raises(ValueError, match="GT_size"):
        build_training(DATASETS.parse({"mode": "bundled"}), scale=4, seed=0)


def test_a_mode_of_ones_own(monkeypatch: pytest.MonkeyPatch):

    class FlatOptions(DatasetOptions):
        mode: Literal["flat"]
        level: float

    @register_source("flat", FlatOptions)
    class Flat(Source):
        names = ("flat",)

        def __init__(self, level: float, scale: int) -> None:
            self.level, self.side = level, 4 * scale

        def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
            return torch.full((3, self.side, self.side), self.level), None

    (item,) = build_evaluation(DATASETS.parse({"mode": "flat", "level": 0.5}), scale=2)
    assert item.gt.eq(0.5).all()
    torch.testing.assert_close(item.lr, torch.full((3, 4, 4), 0.5))


@pytest.mark.parametrize("mode", ["folder", "LoL"])
def test_a_mode_is_not_taken_by_another_source(mode, monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", {name: DATASETS._entries[name] for name in DATASETS.names()})
    entry = DATASETS.entries()[mode]
    for other in (print, functools.partial(print, "x")):
        with pytest.raises(ValueError, match=f"'{mode}' is registered twice"):
            register_source(mode, FolderOptions)(other)
    assert DATASETS.entries()[mode] is entry


def test_a_source_defined_again_takes_the_place_of_the_former(monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", {name: DATASETS._entries[name] for name in DATASETS.names()})

    def run_cell():
        @register_source("own", DatasetOptions)
        def open_own(*, scale):
            return scale

    run_cell()
    former = DATASETS.entries()["own"]
    run_cell()
    assert DATASETS.entries()["own"] is not former
