from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from robustflow.data.images import write_png
from robustflow.data.sources.folders import FolderOptions, PatchFolderOptions, open_folders
from robustflow.data.sources.pairs import pair_files
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def named(pairs, hr: Path, lr: Path) -> dict[str, str]:
    return {gt.relative_to(hr).as_posix(): lq.relative_to(lr).as_posix() for gt, lq in pairs}


PUBLISHED = {
    "RealSR": ("Canon_001_HR.png", "Canon_001_LR4.png"),
    "DRealSR": ("DSC_8_x1.png", "DSC_8_x4.png"),
    "RCAN": ("baby_HR_x4.png", "baby_LRBI_x4.png"),
    "RCAN, blurred": ("baby_HR_x4.png", "baby_LRBD_x4.png"),
    "BasicSR": ("baby_mod.png", "baby_bicLRx4.png"),
    "BasicSR, another": ("baby.png", "baby_bicx4.png"),
    "DIV2K mild": ("0801.png", "0801x4m.png"),
    "DIV2K wild": ("0801.png", "0801x4w1.png"),
    "DIV2K difficult": ("0801.png", "0801x4d.png"),
    "prefixes": ("HR_b.png", "LR_b.png"),
    "light": ("normal00690.png", "low00690.png"),
    "light, with a gap": ("normal_b.png", "low_b.png"),
    "light, behind": ("b_normal.png", "b_low.png"),
    "folder of the scale": ("0801.png", "X4/0801x4.png"),
    "folders": ("HR/0801.png", "LR_bicubic/X4/0801x4.png"),
    "zeros": ("0007.png", "7x4.png"),
    "more zeros": ("a/img_1.png", "a/img_0001.png"),
    "letter case": ("IMG_1.png", "img_1x4.PNG"),
    "Unicode": ("caf\u00e9.png", "cafe\u0301x4.png"),
    "Unicode, the other way": ("cafe\u0301.png", "caf\u00e9_lr.png"),
    "4x": ("b.png", "b_4x.png"),
    "SRF": ("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"),
    "folders of BasicSR": ("GTmod12/baby.png", "LRbicx4/baby.png"),
    "GT and LQ": ("b.GT.png", "b.LQ.png"),
}


@pytest.mark.parametrize("pair", PUBLISHED.values(), ids=PUBLISHED)
def test_names_of_published_sets(tmp_path: Path, pair: tuple[str, str]):
    hr, lr = touch(tmp_path / "hr", pair[0], "other.png"), touch(tmp_path / "lr", pair[1], "other.png")
    assert named(pair_files(hr, lr, 4), hr, lr) == {pair[0]: pair[1], "other.png": "other.png"}


@pytest.mark.parametrize(
    ("gt", "lq"),
    [
        ("b.png", "b_x2.png"),
        ("b.png", "bLR.png"),
        ("yel.png", "yellow.png"),
        ("b.png", "b_LR2.png"),
        ("b1.png", "b2.png"),
    ],
)
def test_what_is_no_mark(tmp_path: Path, gt: str, lq: str):
    hr, lr = touch(tmp_path / "hr", gt), touch(tmp_path / "lr", lq)
    with pytest.raises(UserError, match=rf"none for 1: {gt}; those without one there are {lq}; .*filename_tmpl"):
        pair_files(hr, lr, 4)


def test_names_that_two_files_could_have_are_not_guessed(tmp_path: Path):
    hr, lr = touch(tmp_path / "hr", "1.png"), touch(tmp_path / "lr", *(f"1x4w{k}.png" for k in range(1, 5)))
    with pytest.raises(UserError, match=r"1x4w2\.png: expected one image named '1', got .*1x4w1\.png as well"):
        pair_files(hr, lr, 4)
    hr, lr = touch(tmp_path / "hr2", "1.png", "01.png"), touch(tmp_path / "lr2", "1x4.png", "01x4.png")
    assert named(pair_files(hr, lr, 4), hr, lr) == {"1.png": "1x4.png", "01.png": "01x4.png"}


def test_folders_of_other_scales_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    hr = touch(tmp_path / "hr", "1.png", "2.png")
    lr = touch(tmp_path / "lr", *(f"X{scale}/{k}x{scale}.png" for scale in (2, 3, 4) for k in (1, 2)))
    assert named(pair_files(hr, lr, 4), hr, lr) == {"1.png": "X4/1x4.png", "2.png": "X4/2x4.png"}
    assert "4 images left out, in folders of other scales than x4" in caplog.text


@pytest.mark.parametrize("names", [("Canon_1_HR", "Canon_1_LR4"), ("img_1_SRF_4_HR", "img_1_SRF_4_LR"), ("1", "1x4")])
def test_one_folder_of_both(tmp_path: Path, names: tuple[str, str]):
    folder = touch(tmp_path / "both", *(f"{name}.png" for name in names))
    assert named(pair_files(folder, folder, 4), folder, folder) == {f"{names[0]}.png": f"{names[1]}.png"}


def test_pairs_by_number(tmp_path: Path):
    hr, lr = touch(tmp_path / "hr", "sharp_01.png", "sharp_2.png"), touch(tmp_path / "lr", "f002_x4.png", "f001_x4.png")
    expected = {"sharp_01.png": "f001_x4.png", "sharp_2.png": "f002_x4.png"}
    assert named(pair_files(hr, lr, 4, "number"), hr, lr) == expected
    touch(hr, "sharp.png")
    with pytest.raises(UserError, match=r"sharp: expected a number in the name"):
        pair_files(hr, lr, 4, "number")


def test_pairs_by_order(tmp_path: Path):
    hr, lr = touch(tmp_path / "hr", "b2.png", "b10.png"), touch(tmp_path / "lr", "x9.png", "x30.png")
    assert named(pair_files(hr, lr, 4, "order"), hr, lr) == {"b2.png": "x9.png", "b10.png": "x30.png"}
    with pytest.raises(UserError, match=r"lr: expected 2 LR images, as many as HR images in .*hr .*, got 3"):
        pair_files(hr, touch(lr, "x1.png"), 4, "order")


def test_a_template_as_basicsr_has_it(tmp_path: Path):
    hr, lr = touch(tmp_path / "hr", "a/0801.png"), touch(tmp_path / "lr", "a/small-0801-now.png")
    assert named(pair_files(hr, lr, 4, filename_tmpl="small-{}-now"), hr, lr) == {"a/0801.png": "a/small-0801-now.png"}
    with pytest.raises(UserError, match=r"none for 1: a/0801\.png"):
        pair_files(hr, touch(tmp_path / "other", "a/0801x4.png"), 4, filename_tmpl="{}x2")


@pytest.mark.parametrize("mode", ["folder", "prepared", "LRHR_IMG_nocrop"])
def test_what_is_said_of_pairs_contradicts(mode: str):
    def found(**values: object) -> list[str]:
        options = DATASETS.parse({"mode": mode, "dataroot_GT": "hr", **values})
        return [path for path, _ in options.contradictions(SimpleNamespace(datasets={"val": options}))]

    assert found(dataroot_LQ="lr", pair_by="order") == found(dataroot_LQ="lr", filename_tmpl="{}x4") == []
    assert found(dataroot_LQ="lr", pair_by="order", filename_tmpl="{}x4") == ["datasets.val.filename_tmpl"]
    assert found(filename_tmpl="{}x4") == ["datasets.val.filename_tmpl"]
    assert found(pair_by="number") == ["datasets.val.pair_by"]


def test_options_of_pairing(tmp_path: Path):
    with pytest.raises(ValueError, match=r"one \{\} in it"):
        FolderOptions(mode="folder", dataroot_GT="a", filename_tmpl="x4")
    for number, name in enumerate(("first", "second")):
        write_png(tmp_path / "hr" / f"{name}.png", torch.rand(3, 8, 8))
        write_png(tmp_path / "lr" / f"{number}.png", torch.rand(3, 2, 2))
    roots = {"dataroot_GT": str(tmp_path / "hr"), "dataroot_LQ": str(tmp_path / "lr"), "pair_by": "order"}
    for mode in ("folder", "LRHR_IMG", "LRHR_IMG_nocrop"):
        source = DATASETS.build(DATASETS.parse({"mode": mode, **roots}), scale=4)
        assert source.names == ["first", "second"]
    assert isinstance(DATASETS.parse({"mode": "LRHR_IMG_nocrop", **roots}), PatchFolderOptions)


def test_sizes_that_were_rounded_up(tmp_path: Path):
    for name, hr, lr in (("up", (44, 41), (6, 6)), ("down", (44, 41), (5, 5))):
        write_png(tmp_path / "hr" / f"{name}.png", torch.rand(3, *hr))
        write_png(tmp_path / "lr" / f"{name}x8.png", torch.rand(3, *lr))
    source = open_folders(str(tmp_path / "hr"), str(tmp_path / "lr"), 8)
    assert [tuple(source.pair(k)[1].shape) for k in range(2)] == [(3, 5, 5)] * 2
    write_png(tmp_path / "lr" / "upx8.png", torch.rand(3, 6, 5))
    with pytest.raises(UserError, match=r"upx8\.png: expected 5 x 5 pixels"):
        open_folders(str(tmp_path / "hr"), str(tmp_path / "lr"), 8)
