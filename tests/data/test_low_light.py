import pytest
import torch

from robustflow.data import checks
from robustflow.data.images import write_png
from robustflow.data.sources.low_light import BundledLowLightSource, LoLv2Options, darken, open_lol, open_lol_v2
from robustflow.utils.errors import UserError


def images(folder, *names, size=(6, 9)):
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(number)
        write_png(folder / name, torch.rand(3, *size, generator=generator))


def lol(root, low=("1.png", "22.png"), normal=("1.png", "22.png")):
    for part in ("our485", "eval15"):
        images(root / part / "low", *low)
        images(root / part / "high", *normal)
    return str(root)


def test_lol_pairs_by_name(tmp_path):
    source = open_lol(lol(tmp_path), "train", 1)
    assert source.names == ["1", "22"]
    normal, low = source.pair(1)
    assert normal.shape == low.shape == (3, 6, 9)
    assert len(open_lol(str(tmp_path), "test", 1)) == 2


def test_a_misnamed_pair_is_named(tmp_path):
    with pytest.raises(UserError, match=r"our485/high: expected partners .* found none for 1: 22.png"):
        open_lol(lol(tmp_path, low=("1.png", "23.png")), "train", 1)


def test_a_pair_of_two_sizes_is_named(tmp_path):
    lol(tmp_path)
    images(tmp_path / "our485" / "low", "1.png", size=(6, 8))
    with pytest.raises(UserError, match=r"our485/low/1.png: expected 9 x 6 pixels"):
        open_lol(str(tmp_path), "train", 1)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="eval15/low: expected this folder below root"):
        open_lol(str(tmp_path), "test", 1)


def test_lol_v2_real_names_differ_by_their_prefix(tmp_path):
    folder = tmp_path / "Real_captured" / "Test"
    images(folder / "Low", "low00690.png", "low00691.png")
    images(folder / "Normal", "normal00690.png", "normal00691.png")
    source = open_lol_v2(str(tmp_path), "Real_captured", "test", 1)
    assert source.names == ["00690", "00691"]
    images(tmp_path / "Synthetic" / "Train" / "Low", "r000da54ft.png")
    images(tmp_path / "Synthetic" / "Train" / "Normal", "r000da54ft.png")
    assert open_lol_v2(str(tmp_path), "Synthetic", "train", 1).names == ["r000da54ft"]


def test_lol_v2_without_subset_is_both(tmp_path):
    for subset in ("Real_captured", "Synthetic"):
        for part, kind in ((part, kind) for part in ("Train", "Test") for kind in ("Low", "Normal")):
            images(tmp_path / subset / part / kind, "1.png", "2.png", size=(6, 9 if part == "Train" else 7))
    options = LoLv2Options(mode="LoL_v2", root=str(tmp_path))
    source = open_lol_v2(str(tmp_path), options.subset, "train", 1)
    assert source.names == ["Real_captured_1", "Real_captured_2", "Synthetic_1", "Synthetic_2"]
    assert source.size(3) == (6, 9)
    expected = open_lol_v2(str(tmp_path), "Synthetic", "train", 1).pair(1)
    assert all(map(torch.equal, source.pair(3), expected))
    assert options.dataroot_GT == [f"{tmp_path}/{subset}/Train/Normal" for subset in ("Real_captured", "Synthetic")]


def test_lol_v2_with_one_of_both_says_how_to_choose_it(tmp_path):
    for kind in ("Low", "Normal"):
        images(tmp_path / "Real_captured" / "Train" / kind, "1.png")
    with pytest.raises(UserError, match=r"Synthetic/Train/Low: expected this folder .* set subset to the one"):
        open_lol_v2(str(tmp_path), None, "train", 1)


def test_training_files_of_both_subsets_are_known(tmp_path, caplog):
    for subset, part in (("Real_captured", "Train"), ("Synthetic", "Train"), ("Synthetic", "Test")):
        for kind in ("Low", "Normal"):
            images(tmp_path / subset / part / kind, "1.png", size=(6, 8 if subset == "Synthetic" else 9))
    both = LoLv2Options(mode="LoL_v2", root=str(tmp_path))
    test = LoLv2Options(mode="LoL_v2", root=str(tmp_path), subset="Synthetic", split="test")
    checks.warn({"train": both, "test": test}, 1, used="test")
    assert "datasets.test: 1 of 1 files are training files, too" in caplog.text


def synthetic(**changes):
    values = {"split": "test", "exposure": (0.02, 0.1), "photons": 2000.0, "read_noise": 2.0, "variants": 1, "scale": 1}
    return BundledLowLightSource(**{**values, **changes})


def test_synthetic_pairs_are_the_same_in_every_run():
    first, second = synthetic(), synthetic()
    for index in range(len(first)):
        normal, low = first.pair(index)
        assert normal.dtype == low.dtype == torch.uint8
        assert normal.shape == low.shape == (3, *first.size(index))
        assert torch.equal(low, second.pair(index)[1])
        assert 0.02 < low.float().mean() / 255 < 0.2 < normal.float().mean() / 255


def test_variants_differ():
    source = synthetic(variants=2)
    assert source.names[:2] == ["chelsea_0", "chelsea_1"]
    (normal, low), (same, other) = source.pair(0), source.pair(1)
    assert torch.equal(normal, same)
    assert not torch.equal(low, other)


def test_darkened_follows_its_model():
    """Mean and variance of the electrons: Poisson plus Gaussian."""
    image = torch.full((3, 400, 400), 200, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    low = darken(image, 0.5, 1000.0, 5.0, generator).double() / 255
    electrons = 1000 * low**2.2
    expected = 0.5 * 1000 * (200 / 255) ** 2.2
    assert float(electrons.mean()) == pytest.approx(expected, rel=0.005)
    assert float(electrons.var()) == pytest.approx(expected + 25, rel=0.03)


def test_without_noise_and_in_full_light_nothing_changes():
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    same = darken(image, 1.0, 1e9, 0.0, torch.Generator().manual_seed(0))
    assert (same.int() - image.int()).abs().max() <= 1
