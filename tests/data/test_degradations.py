import numpy as np
import pytest
import readme
import torch
from PIL import Image
from torch import Tensor

from robustflow.commands.options import reference
from robustflow.data import BundledSource, EvaluationSet, Source, TrainingCrops, build_evaluation, build_training
from robustflow.data.bicubic import downsample, mirror_pad
from robustflow.data.degradations import JPEG, Blur, Degradation, Enhance, Gain, Invert, Noise, apply
from robustflow.data.images import to_float, to_uint8
from robustflow.options.load import load, save
from robustflow.registry import DATASETS, DEGRADATIONS
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

KERNEL = np.array([[-1, -4, -1], [-4, 26, -4], [-1, -4, -1]])


@pytest.mark.parametrize(("kind", "divisor"), [("published", 3), ("unit", 6)])
def test_enhance_filters_each_channel(kind: str, divisor: int):
    x = np.random.default_rng(0).random((2, 5, 6)) * 0.4 + 0.1
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    expected = np.zeros_like(x)
    for row in range(3):
        for column in range(3):
            expected += KERNEL[row, column] / divisor * padded[:, row : row + 5, column : column + 6]
    result = Enhance(kind)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(result, expected.clip(0, 1), atol=1e-12)
    assert expected.max() > 1 or kind == "unit"


def test_enhance_sums():
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert Enhance("published")(grey).eq(200).all()
    assert Enhance("unit")(grey).eq(100).all()
    assert Enhance("published")(grey + 100).eq(255).all()


def test_enhance_rounds_uint8():
    image = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    enhance = Enhance("unit")
    exact = enhance(image.double() / 255) * 255
    assert (enhance(image) - exact).abs().max() <= 0.5 + 1e-9


def test_lr_order_and_clipping():
    lr = torch.tensor([0.25, 0.75]).expand(3, 2, 2)
    assert apply([], lr) is lr
    assert Gain(4.0)(lr)[0, 0].tolist() == [1, 3]
    assert apply([Gain(4.0), Invert()], lr)[0, 0].tolist() == [0, -2]
    assert apply([Invert(), Gain(4.0)], lr)[0, 0].tolist() == [3, 1]
    noise = 0.1 * torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(3))
    noisy = apply([Invert(), Noise(0.1)], lr, torch.Generator().manual_seed(3))
    torch.testing.assert_close(noisy, (1 - lr + noise).clamp(0, 1))
    assert apply([Gain(4.0), Noise(0.1)], lr, torch.Generator()).max() <= 1


def test_lr_noise_has_the_std_asked_for():
    noisy = Noise(0.05)(torch.full((3, 100, 100), 0.5), torch.Generator().manual_seed(3))
    assert noisy.std().item() == pytest.approx(0.05, rel=0.03)


def test_seeds_are_stable_and_distinct():
    # A constant: another value would change every crop and every noise of earlier runs.
    assert derive_seed("training crop", 0, 12) == 4912660978296404795
    parts = [("ab", "c"), ("a", "bc"), (1, 2), (12,), ("12",), ("1", 2), (2, 1), ("é",), ("\udcff",)]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
    assert all(0 <= derive_seed("range", n) < 2**63 for n in range(100))


PHOTOGRAPH = BundledSource("test", 1).pair(0)[0][:, 100:164, 150:214]


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_jpeg_is_what_pillow_writes(tmp_path):
    pixels = PHOTOGRAPH.permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=10)
    expected = torch.from_numpy(np.array(Image.open(tmp_path / "a.jpg"))).permute(2, 0, 1)
    assert JPEG(10)(PHOTOGRAPH).equal(expected)
    assert JPEG(10)(PHOTOGRAPH / 255).equal(expected.float() / 255)


def test_blur_is_a_gaussian():
    sigma, radius = 1.5, 6  # OpenCV's: four standard deviations
    taps = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).view(1, 1, -1, 1)
    image = PHOTOGRAPH / 255
    padded = mirror_pad(image, radius, radius, radius, radius)[:, None]
    expected = torch.conv2d(torch.conv2d(padded, taps), taps.mT)[:, 0]
    torch.testing.assert_close(Blur(sigma)(image), expected, rtol=0, atol=1e-6)
    assert (Blur(sigma)(PHOTOGRAPH).float() - 255 * expected).abs().max() < 0.501


ALL = [Noise(0.1), Gain(1.5), Invert(), JPEG(30), Blur(1.0), Enhance("unit")]


@pytest.mark.parametrize("degradation", ALL, ids=lambda d: type(d).__name__)
def test_images_of_a_batch_are_altered_one_by_one(degradation: Degradation):
    batch = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    for images in (batch, to_uint8(batch)):
        both, alone = (torch.Generator().manual_seed(1) for _ in range(2))
        torch.testing.assert_close(degradation(images, both), torch.stack([degradation(one, alone) for one in images]))


@pytest.mark.parametrize("degradation", ALL, ids=lambda d: type(d).__name__)
def test_uint8_images_stay_so_and_chance_is_the_generators(degradation: Degradation):
    one, same = (degradation(PHOTOGRAPH, generator()) for _ in range(2))
    assert one.dtype == torch.uint8
    assert one.shape == PHOTOGRAPH.shape
    assert one.equal(same)
    floating = degradation(PHOTOGRAPH / 255, generator())
    assert floating.dtype == torch.float32
    assert (floating.clamp(0, 1) * 255 - one).abs().max() < 1.6
    assert degradation(PHOTOGRAPH, generator(4)).equal(one) != isinstance(degradation, Noise)


@pytest.mark.parametrize("degradation", [d for d in ALL if d.reach is not None], ids=lambda d: type(d).__name__)
def test_what_has_a_reach_needs_no_more(degradation: Degradation):
    batch = torch.stack([PHOTOGRAPH, PHOTOGRAPH.flip(-1)])
    whole = degradation(PHOTOGRAPH)
    assert degradation(batch)[0].equal(whole)
    margin = degradation.reach
    part = degradation(PHOTOGRAPH[:, 20 - margin : 30 + margin, 8 - margin : 16 + margin])
    assert part[:, margin : 10 + margin, margin : 8 + margin].equal(whole[:, 20:30, 8:16])


def sets(**options) -> tuple[TrainingCrops, EvaluationSet]:
    values = {"mode": "bundled", "split": "text", "GT_size": 16, **options}
    parsed = DATASETS.parse(values)
    return build_training(parsed, 4, 0), build_evaluation(DATASETS.parse({**values, "seed": 5}), 4)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"lr_noise": 0.1}, [{"type": "noise", "std": 0.1}]),
        ({"enhance": "unit"}, [{"type": "enhance", "kernel": "unit"}]),
        ({"enhance": True}, ["enhance"]),
        (
            {"lr_noise": 0.1, "lr_gain": 2.0, "lr_invert": True},
            [{"type": "gain", "factor": 2.0}, {"type": "invert"}, {"type": "noise", "std": 0.1}],
        ),
    ],
)
def test_short_forms_are_lists(short: dict[str, object], long: list[object]):
    for one, other in zip(sets(**short), sets(degrade=tuple(long)), strict=True):
        for number in range(3):
            if isinstance(one, TrainingCrops):
                assert one[number]["gt"].equal(other[number]["gt"])
                assert one[number]["lr"].equal(other[number]["lr"])
            else:
                assert one[number].gt.equal(other[number].gt)
                assert one[number].lr.equal(other[number].lr)
                assert one[number].lr_altered == other[number].lr_altered == ("enhance" not in short)


def test_a_degradation_that_changes_the_size_is_named():
    class Half(Degradation):
        def degrade(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
            return image[..., ::2]

    with pytest.raises(UserError, match=r"degradation Half: expected \(3, 64, 64\), .*, got \(3, 64, 32\), "):
        Half()(PHOTOGRAPH)


ON_HR = [
    [{"type": "noise", "std": 0.1, "on": "HR"}],
    [{"type": "jpeg", "quality": 10, "on": "HR"}, {"type": "enhance", "kernel": "unit"}],
    [{"type": "gain", "factor": 2.0, "on": "HR"}, {"type": "invert", "on": "HR"}],
]


@pytest.mark.parametrize("degrade", ON_HR, ids=lambda entries: entries[0]["type"])
def test_hr_images_are_degraded_before_lr_images_are_made(degrade: list[dict[str, object]]):
    crops, items = sets(degrade=tuple(degrade))
    plain_crops, plain_items = sets()
    for item, plain in zip(items, plain_items, strict=True):
        assert not item.lr_altered
        assert not item.gt.equal(plain.gt)
        assert (item.gt * 255).round().sub(item.gt * 255).abs().max() < 1e-3  # as of a file
    whole = EvaluationSet(items.source, 4, degradations=items.cropping.degradations)
    for item, image in zip(items, whole, strict=True):
        top, left = ((side - 4) // 2 for side in image.lr.shape[-2:])
        assert item.lr.equal(image.lr[:, top : top + 4, left : left + 4])
        assert image.lr.equal(to_float(downsample(to_uint8(image.gt), 4)))
    assert not crops[0]["gt"].equal(plain_crops[0]["gt"])


def test_noise_of_hr_images_is_new_in_every_epoch():
    class Flat(Source):
        names = ("flat",)

        def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
            return torch.full((3, 16, 16), 128, dtype=torch.uint8), None

    noise = Noise(0.1)
    noise.on = "HR"
    crops = TrainingCrops(Flat(), 4, 16, degradations=[noise])
    assert not crops[0]["gt"].equal(crops[1]["gt"])
    assert crops[1]["gt"].equal(crops[1]["gt"])
    first, again = (EvaluationSet(Flat(), 4, degradations=[noise])[0] for _ in range(2))
    assert first.gt.equal(again.gt)


@pytest.mark.parametrize("kernel", ["bilinear", "area", "lanczos"])
@pytest.mark.parametrize("degrade", [(), ({"type": "enhance"},)])
def test_kernels_of_lr_images(kernel: str, degrade: tuple[object, ...]):
    crops, items = sets(downsampling=kernel, degrade=degrade)
    plain_crops, plain_items = sets(degrade=degrade)
    whole = build_evaluation(
        DATASETS.parse({"mode": "bundled", "split": "text", "downsampling": kernel, "degrade": degrade}), 4
    )
    for item, image, plain in zip(items, whole, plain_items, strict=True):
        top, left = ((side - 4) // 2 for side in image.lr.shape[-2:])
        assert image.lr.equal(to_float(downsample(to_uint8(image.gt), 4, kernel)))
        assert item.lr.equal(image.lr[:, top : top + 4, left : left + 4])
        assert not item.lr_altered
        assert (item.kernel, plain.kernel) == (kernel, "bicubic")
        assert item.gt.equal(plain.gt)
        assert not item.lr.equal(plain.lr)
    assert crops[2]["gt"].equal(plain_crops[2]["gt"])
    assert any(not crops[k]["lr"].equal(plain_crops[k]["lr"]) for k in range(3))


def test_a_degradation_of_ones_own(tmp_path, monkeypatch):
    code = next(block for block in readme.EXTENDING.split("```python\n") if block.startswith("# my_fog.py"))
    (tmp_path / "my_fog.py").write_text(code.split("```")[0])
    (tmp_path / "run.yml").write_text(
        "name: run\nmodel: SRFlow\nplugins: [my_fog]\ndatasets:\n"
        "  train: &set {mode: bundled, split: text, GT_size: 16, degrade: [{type: fog, density: 0.25}, fog]}\n"
        "  test: {mode: bundled, split: text, degrade: [{type: fog, on: HR}]}\nnetwork_G: {flow: {L: 2}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(DEGRADATIONS, "_entries", dict(DEGRADATIONS._entries))
    options = load(tmp_path / "run.yml")
    assert "datasets.*.degrade[].density" in reference()
    foggy, (plain, _) = build_training(options.datasets["train"], 4, 0), sets()
    expected = 0.5 * (0.75 * plain[1]["lr"] + 0.25) + 0.5
    torch.testing.assert_close(foggy[1]["lr"], expected)
    assert foggy[1]["gt"].equal(plain[1]["gt"])
    items = build_evaluation(options.datasets["test"], 4)
    clean = build_evaluation(DATASETS.parse({"mode": "bundled", "split": "text"}), 4)
    for item, given in zip(items, clean, strict=True):
        torch.testing.assert_close(item.gt, 0.5 * given.gt + 0.5, rtol=0, atol=1 / 255)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("degrade: [{type: noize, std: 1}]", r"degrade\[0\]: unknown degradation 'noize', known: .*mean 'noise'\?"),
        ("degrade: [invert, {type: noise, std: 1, sdt: 1}]", r"degrade\[1\].sdt: unknown key; did you mean 'std'\?"),
        ("degrade: [invert, {type: noise}]", r"degrade\[1\].std: required, but not given"),
        ("degrade: [{type: noise, std: -1}]", r"degrade\[0\].std: expected a value above 0.0, got -1"),
        ("degrade: [{type: jpeg, quality: 101}]", r"degrade\[0\].quality: expected at most 100, got 101"),
        ("degrade: [{type: gain, factor: 2, on: lr}]", r"degrade\[0\].on: expected 'LR' or 'HR', got 'lr'"),
        ("degrade: [{std: 1}]", r"degrade\[0\]: expected a mapping with 'type' \(one of blur, "),
        ("degrade: [3]", r"degrade\[0\]: expected a mapping with 'type' \(one of blur, .*, got 3"),
        ("degrade: {type: invert}", r"degrade: expected a list, got {type: 'invert'}; write \[{type: 'invert'}\]"),
        ("sigma: 1", r"sigma: unknown key here; known as datasets.\*.degrade\[\].sigma"),
        ("degrade: [invert], lr_noise: 0.1", "degrade: expected none beside lr_noise, short forms of it"),
        ("downsampling: cubic", "downsampling: expected 'bicubic', 'bilinear', 'area' or 'lanczos', got 'cubic'"),
    ],
)
def test_mistakes_in_options(tmp_path, text: str, message: str):
    file = tmp_path / "run.yml"
    file.write_text(f"name: run\nmodel: SRFlow\ndatasets:\n  test: {{mode: bundled, {text}}}\n")
    with pytest.raises(UserError, match=rf"run.yml:4: datasets.test.{message}") as caught:
        load(file)
    assert str(caught.value).startswith("1 mistake")


def test_given_lr_images_are_not_made(tmp_path):
    file = tmp_path / "run.yml"
    folders = "mode: folder, dataroot_GT: a, dataroot_LQ: b"
    for text, key in (("downsampling: area", "downsampling"), ("degrade: [enhance]", "dataroot_LQ")):
        file.write_text(f"name: run\nmodel: SRFlow\ndatasets:\n  test: {{{folders}, {text}}}\n")
        with pytest.raises(UserError, match=rf"datasets.test.{key}: expected none beside"):
            load(file)


def test_options_are_written_and_read_again(tmp_path):
    text = "degrade: [{type: noise, std: 0.2}, {type: enhance, on: LR}, invert], downsampling: lanczos"
    file = tmp_path / "run.yml"
    file.write_text(f"name: run\nmodel: SRFlow\ndatasets:\n  test: {{mode: bundled, {text}}}\n")
    options = load(file)
    assert [entry.type for entry in options.datasets["test"].degrade] == ["noise", "enhance", "invert"]
    save(options, file)
    assert load(file) == options
    removed = load(file, "datasets.test.degrade=[{type: jpeg, quality: 5}]|datasets.test.downsampling=null")
    assert removed.datasets["test"].degrade[0].quality == 5
    assert removed.datasets["test"].downsampling == "bicubic"
