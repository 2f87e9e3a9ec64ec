from pathlib import Path

import pytest
import tiny
import torch

from robustflow.data import checks
from robustflow.data.images import write_png
from robustflow.data.sources import low_light
from robustflow.data.sources.low_light import (
    BundledLowLightSource,
    LoLv2Options,
    VELOLOptions,
    darken,
    open_photographs,
)
from robustflow.models import data_sets
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
    source = open_photographs("LoL", lol(tmp_path), "train", 1)
    assert source.names == ["1", "22"]
    normal, low = source.pair(1)
    assert normal.shape == low.shape == (3, 6, 9)
    assert len(open_photographs("LoL", str(tmp_path), "test", 1)) == 2


def test_a_misnamed_pair_is_named(tmp_path):
    with pytest.raises(UserError, match=r"our485/high: expected partners .* found none for 1: 22.png"):
        open_photographs("LoL", lol(tmp_path, low=("1.png", "23.png")), "train", 1)


def test_a_pair_of_two_sizes_is_named(tmp_path):
    lol(tmp_path)
    images(tmp_path / "our485" / "low", "1.png", size=(6, 8))
    with pytest.raises(UserError, match=r"our485/low/1.png: expected 9 x 6 pixels"):
        open_photographs("LoL", str(tmp_path), "train", 1)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="eval15/low: expected this folder below root"):
        open_photographs("LoL", str(tmp_path), "test", 1)


def test_lol_v2_real_names_differ_by_their_prefix(tmp_path):
    folder = tmp_path / "Real_captured" / "Test"
    images(folder / "Low", "low00690.png", "low00691.png")
    images(folder / "Normal", "normal00690.png", "normal00691.png")
    source = open_photographs("LoL_v2", str(tmp_path), "test", 1, "Real_captured")
    assert source.names == ["00690", "00691"]
    images(tmp_path / "Synthetic" / "Train" / "Low", "r000da54ft.png")
    images(tmp_path / "Synthetic" / "Train" / "Normal", "r000da54ft.png")
    assert open_photographs("LoL_v2", str(tmp_path), "train", 1, "Synthetic").names == ["r000da54ft"]


def test_lol_v2_without_subset_is_both(tmp_path):
    for subset in ("Real_captured", "Synthetic"):
        for part, kind in ((part, kind) for part in ("Train", "Test") for kind in ("Low", "Normal")):
            images(tmp_path / subset / part / kind, "1.png", "2.png", size=(6, 9 if part == "Train" else 7))
    options = LoLv2Options(mode="LoL_v2", root=str(tmp_path))
    source = open_photographs("LoL_v2", str(tmp_path), "train", 1, options.subset)
    assert source.names == ["Real_captured_1", "Real_captured_2", "Synthetic_1", "Synthetic_2"]
    assert source.size(3) == (6, 9)
    expected = open_photographs("LoL_v2", str(tmp_path), "train", 1, "Synthetic").pair(1)
    assert all(map(torch.equal, source.pair(3), expected))
    assert options.dataroot_GT == [f"{tmp_path}/{subset}/Train/Normal" for subset in ("Real_captured", "Synthetic")]


def test_lol_v2_with_one_of_both_says_how_to_choose_it(tmp_path):
    for kind in ("Low", "Normal"):
        images(tmp_path / "Real_captured" / "Train" / kind, "1.png")
    with pytest.raises(UserError, match=r"Synthetic/Train/Low: expected this folder .* set subset to the one"):
        open_photographs("LoL_v2", str(tmp_path), "train", 1)


def ve_lol(root, normal="normal", **folders):
    """The published layout, with other names for some of its parts."""
    names = {"Cap-Full": "VE-LOL-L-Cap-Full", "Syn": "VE-LOL-L-Syn", "Low": "Low", **folders}
    for outer, part, width in (("Cap-Full", "Cap", 9), ("Syn", "Syn", 8)):
        for split in ("train", "test"):
            inner = root / names[outer] / f"VE-LOL-L-{part}"
            numbers = ("00690", "00691") if split == "test" else ("1",)
            images(Path(f"{inner}-{names['Low']}_{split}"), *(f"low{n}.png" for n in numbers), size=(6, width))
            images(Path(f"{inner}-Normal_{split}"), *(f"{normal}{n}.png" for n in numbers), size=(6, width))
    return str(root)


@pytest.mark.parametrize("low", ["Low", "low"])
def test_ve_lol_is_two_subsets(tmp_path, low):
    root = ve_lol(tmp_path, Low=low)
    assert open_photographs("VE_LOL", root, "train", 1, "captured").names == ["1"]
    assert open_photographs("VE_LOL", root, "test", 1, "synthetic").size(0) == (6, 8)
    both = open_photographs("VE_LOL", root, "test", 1)
    assert both.names == ["captured_00690", "captured_00691", "synthetic_00690", "synthetic_00691"]
    assert [both.size(k) for k in (1, 2)] == [(6, 9), (6, 8)]
    options = VELOLOptions(mode="VE_LOL", root=root)
    assert options.dataroot_GT == [
        f"{root}/VE-LOL-L-Cap-Full/VE-LOL-L-Cap-Normal_train",
        f"{root}/VE-LOL-L-Syn/VE-LOL-L-Syn-Normal_train",
    ]


def test_ve_lol_whose_root_is_one_of_its_folders(tmp_path):
    root = tmp_path / "my_copy"
    ve_lol(tmp_path, **{"Cap-Full": "my_copy"})
    assert open_photographs("VE_LOL", str(root), "test", 1, "captured").names == ["00690", "00691"]
    assert VELOLOptions(mode="VE_LOL", root=str(root), subset="captured").dataroot_GT == [
        f"{root}/VE-LOL-L-Cap-Normal_train"
    ]
    with pytest.raises(UserError, match=r"VE-LOL-L-Syn-Low_test: expected this folder .*, found VE-LOL-L-Cap-Low_te"):
        open_photographs("VE_LOL", str(root), "test", 1, "synthetic")


def test_other_prefixes_pair_by_number_or_by_a_pattern(tmp_path):
    root = ve_lol(tmp_path, normal="bright_")
    with pytest.raises(UserError, match=r"expected partners .* found none for 2: bright_00690.png"):
        open_photographs("VE_LOL", root, "test", 1, "captured")
    source = open_photographs("VE_LOL", root, "test", 1, "captured", pair_by="number")
    assert source.names == ["bright_00690", "bright_00691"]
    (tmp_path / "lol").mkdir()
    for part in ("our485", "eval15"):
        images(tmp_path / "lol" / part / "low", "1_dim.png", "22_dim.png")
        images(tmp_path / "lol" / part / "high", "1.png", "22.png")
    assert open_photographs("LoL", str(tmp_path / "lol"), "test", 1, filename_tmpl="{}_dim").names == ["1", "22"]


@pytest.mark.parametrize(("mode", "taken_for"), [("VE_LOL", "LoL_v2"), ("LoL_v2", "VE_LOL")])
def test_a_set_taken_for_the_other_is_told_by_its_mode(tmp_path, mode, taken_for):
    if mode == "VE_LOL":
        ve_lol(tmp_path)
    else:
        for kind in ("Low", "Normal"):
            images(tmp_path / "Real_captured" / "Test" / kind, "1.png")
    with pytest.raises(UserError, match=f"that is the layout of mode: {mode};"):
        open_photographs(taken_for, str(tmp_path), "test", 1)


def test_a_folder_of_two_names_is_not_guessed(tmp_path):
    root = ve_lol(tmp_path, Low="LOW")
    folder = tmp_path / "VE-LOL-L-Cap-Full"
    (folder / "VE-LOL-L-Cap-LOW_test").rename(folder / "VE-LOL-L-Cap-low_test")
    assert open_photographs("VE_LOL", root, "test", 1, "captured").names == ["00690", "00691"]
    (folder / "VE_LOL_L_Cap_LOW_test").mkdir()
    with pytest.raises(UserError, match="VE-LOL-L-Cap-Low_test: expected this folder below root"):
        open_photographs("VE_LOL", root, "test", 1, "captured")


def test_results_do_not_go_among_what_is_read(tmp_path):
    sets = {"test": {"mode": "VE_LOL", "root": ve_lol(tmp_path), "split": "test"}}
    options = tiny.options("LLFlow", datasets=sets, L=3)
    read = tmp_path / "VE-LOL-L-Syn" / "VE-LOL-L-Syn-Normal_test"
    data_sets.require_apart(options, None, tmp_path / "results")
    with pytest.raises(UserError, match="expected a folder for the results apart from"):
        data_sets.require_apart(options, None, read / "results")


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
        low_light._darken.cache_clear()  # another process has none
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


@pytest.mark.parametrize(
    "changes",
    [{"split": "text"}, {"exposure": (0.5, 0.6)}, {"photons": 50.0}, {"read_noise": 90.0}, {"variants": 2}],
    ids=str,
)
def test_sources_of_other_settings_have_their_own_pairs(changes):
    source, other = synthetic(), synthetic(**changes)
    assert not torch.equal(source.pair(0)[1], other.pair(0)[1])
    assert source.pair(0)[1] is synthetic().pair(0)[1]


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
