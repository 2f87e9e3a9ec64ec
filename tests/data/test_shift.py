"""HR crops shifted against their LR crops (test_cuts compares them with crops made in the plain way)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustflow.data import TrainingCrops, collate
from robustflow.data.bicubic import Kernel, mirror_pad
from robustflow.data.crops import Box, Cropping, Shift, crop_shifted
from robustflow.data.degradations import Degradation, Enhance, Gain, Noise, degrade_hr
from robustflow.data.sources.base import Source
from robustflow.options.load import load
from robustflow.utils.errors import UserError

SIZE = (40, 48)


class Places(Source):
    """One image whose red and green are the row and column of each pixel; of floats, or with an LR image, if asked."""

    names = ("places",)

    def __init__(self, floating: bool = False, paired: bool = False) -> None:
        self.floating, self.paired = floating, paired

    def pair(self, index: int) -> tuple[Tensor, Tensor | None]:
        rows, columns = torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")
        image = torch.stack([rows, columns, 0 * rows]).to(torch.uint8)
        image = image / 255 if self.floating else image
        return image, image[:, ::4, ::4] if self.paired else None


ROUTES = {"window": Places(), "floating": Places(floating=True), "paired": Places(paired=True)}


def of_255(image: Tensor) -> Tensor:
    return (255 * image).round()


def corner(crops: TrainingCrops, number: int) -> tuple[int, int]:
    """Row and column of the first pixel of an HR crop."""
    return tuple(int(value) for value in of_255(crops[number]["gt"])[:2, 0, 0])


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Callable[[Shift], None]:
    """Let all shifts be this one."""
    return lambda shift: monkeypatch.setattr(TrainingCrops, "_random_shift", lambda self, generator: shift)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shift", [(0, 0), (4, 0), (0, 4), (-4, -4), (1, -3)])
def test_pixels_of_a_known_shift(route: str, shift: Shift, always: Callable[[Shift], None]):
    plain = TrainingCrops(ROUTES[route], scale=4, size=16)
    places = [corner(plain, number) for number in range(20)]
    always(shift)
    moved = TrainingCrops(ROUTES[route], scale=4, size=16, hr_shift=4)
    padded = mirror_pad(Places().pair(0)[0], 4, 4, 4, 4)
    for number, (top, left) in enumerate(places):
        row, column = top + 4 + shift[0], left + 4 + shift[1]
        expected = padded[:, row : row + 16, column : column + 16]
        assert of_255(moved[number]["gt"]).equal(expected.float())
        assert moved[number]["lr"].equal(plain[number]["lr"])


def test_beyond_the_borders_pixels_are_mirrored():
    image = torch.arange(12).reshape(1, 3, 4)
    whole = Box(0, 0, 3, 4)
    assert crop_shifted(image, whole, 1, (0, 1)).tolist() == [[[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]]
    assert crop_shifted(image, whole, 1, (-2, 0)).tolist() == [[[4, 5, 6, 7], [0, 1, 2, 3], [0, 1, 2, 3]]]
    assert crop_shifted(image, whole, 1, (2, -2)).tolist() == [[[9, 8, 8, 9], [9, 8, 8, 9], [5, 4, 4, 5]]]
    assert crop_shifted(image, Box(1, 1, 1, 2), 1, (1, 1)).tolist() == [[[10, 11]]]


def test_pixels_that_no_lr_pixel_stands_for_are_not_used():
    hr = torch.arange(7 * 7).reshape(1, 7, 7)
    cropping, box = Cropping(2), Box(2, 2, 1, 1)
    assert cropping.crop_hr(hr, box, (1, 1)).tolist() == [[[40, 40], [40, 40]]]
    assert cropping.crop_lr(hr, hr[:, ::2, ::2][:, :3, :3], box).tolist() == [[[32]]]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("n", [1, 2])
def test_all_shifts_occur(route: str, n: int):
    plain = TrainingCrops(ROUTES[route], scale=4, size=16)
    moved = TrainingCrops(ROUTES[route], scale=4, size=16, hr_shift=n)
    starts = [corner(plain, i) for i in range(600)]
    numbers = [i for i, (top, left) in enumerate(starts) if 0 < top < SIZE[0] - 16 and 0 < left < SIZE[1] - 16]
    found = [tuple(a - b for a, b in zip(corner(moved, i), starts[i], strict=True)) for i in numbers]
    assert set(found) == {(down, right) for down in range(-n, n + 1) for right in range(-n, n + 1)}


@pytest.mark.parametrize("kernel", ["bicubic", "bilinear", "area"])
@pytest.mark.parametrize("shift", [(4, -4), (-4, 3)])
def test_shifted_crops_of_a_degraded_image_are_those_of_the_whole(kernel: Kernel, shift: Shift):
    """However little the LR image depends on: what a shifted crop shows is degraded with all that lies around it."""
    generator = torch.Generator().manual_seed(0)
    hr = torch.randint(256, (3, 40, 48), generator=generator, dtype=torch.uint8)
    degradations, box = (Enhance("unit"), Enhance("unit")), Box(4, 4, 2, 2)
    cropping = Cropping(4, kernel, degradations)
    expected = crop_shifted(degrade_hr(degradations, hr), box, 4, shift)
    assert cropping.crop_hr(hr, box, shift).equal(expected)
    raw = {**cropping.crop_raw(hr, None, box, shift), "pose": torch.tensor((0, 0))}
    gt, _ = cropping.assemble(collate([raw]), torch.device("cpu"))
    assert of_255(gt[0]).equal(expected.float())


@pytest.mark.parametrize("suffered", [[], [Enhance("unit")], [Gain(2.0), Noise(0.1)]], ids=len)
@pytest.mark.parametrize("route", ROUTES)
def test_nothing_else_depends_on_shifts(route: str, suffered: list[Degradation]):
    plain, moved = (TrainingCrops(ROUTES[route], 4, 16, True, True, degradations=suffered, hr_shift=n) for n in (0, 4))
    differing = 0
    for number in range(30):
        raw, other = plain.crop(number), moved.crop(number)
        assert all(other[key].equal(part) for key, part in raw.items() if key != "gt")
        assert moved[number]["lr"].equal(plain[number]["lr"])
        differing += not moved[number]["gt"].equal(plain[number]["gt"])
    assert differing > 20


@pytest.mark.parametrize("route", ROUTES)
def test_without_shifts_nothing_is_drawn_or_carried(route: str):
    crops = TrainingCrops(ROUTES[route], scale=4, size=16)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert crops._random_shift(generator) is None
    assert generator.get_state().equal(before)
    (raw,) = collate([crops.crop(number) for number in range(3)])
    assert set(raw) - {"number", "pose"} in ({"window"}, {"gt", "lr"})


@pytest.mark.parametrize("n", [-1, 5])
def test_shifts_beyond_one_lr_pixel_are_refused(n: int):
    with pytest.raises(UserError, match=f"expected hr_shift from 0 to the scale 4 .HR pixels., got {n}"):
        TrainingCrops(Places(), scale=4, size=16, hr_shift=n)


BUNDLED = "datasets: {train: {mode: bundled, GT_size: 16, hr_shift: 4}"
LOW_LIGHT = (
    "model: LLFlow\nscale: 1\nnetwork_G: {encoder: low_light}\nval: {protocol: llflow}\n"
    "datasets: {train: {mode: bundled_low_light, GT_size: 16, hr_shift: 1}}"
)
PATCHES = "datasets: {train: {mode: LRHR_IMG_nocrop, dataroot_GT: patches, GT_size: 16, hr_shift: 1}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"model: SRFlow\nscale: 2\n{BUNDLED}}}", "train.hr_shift: expected at most the scale 2 .one LR pixel., got 4"),
        (f"model: SRFlow\n{BUNDLED}, val: {{mode: bundled, hr_shift: 1}}}}", "val.hr_shift: expected in training only"),
        (f"model: RRDB\n{BUNDLED}}}", "train.hr_shift: expected 0 with model RRDB"),
        (LOW_LIGHT, "train.hr_shift: expected 0 with model LLFlow"),
        (f"model: SRFlow\n{PATCHES}", "train.hr_shift: expected 0: patches are used whole"),
        (f"model: SRFlow\n{BUNDLED}}}".replace("4", "-1"), "train.hr_shift: expected at least 0, got -1"),
    ],
)
def test_options_that_make_no_sense(tmp_path, text: str, message: str):
    file = tmp_path / "run.yml"
    file.write_text(
        f"name: run\nnetwork_G: {{flow: {{L: 2}}}}\n{text}" if "network_G" not in text else f"name: run\n{text}"
    )
    with pytest.raises(UserError, match=message) as caught:
        load(file)
    assert str(caught.value).count("hr_shift") == 1


def test_option(tmp_path):
    file = tmp_path / "run.yml"
    file.write_text(f"name: run\nmodel: SRFlow\n{BUNDLED}}}")
    assert load(file).datasets["train"].hr_shift == 4
