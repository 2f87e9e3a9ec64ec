from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from robustflow.data import build_evaluation, evaluation_of_folder
from robustflow.data.images import read_image, write_png
from robustflow.data.sources.folders import FolderOptions, name_images, open_folders
from robustflow.data.sources.pairs import pair_files
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError


def write(file: Path, height: int, width: int) -> torch.Tensor:
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * width))
    write_png(file, image)
    return read_image(file)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("gt", "lq"),
    [
        ("0801.png", "0801.png"),
        ("0801.png", "0801x4.png"),
        ("0801.png", "0801_x4.jpg"),
        ("a/0801.png", "a/0801x4.png"),
        ("img_001_SRF_4_HR.png", "img_001_SRF_4_LR.png"),
        ("img_001_HR.png", "img_001_LR.bmp"),
        ("boxx4.png", "boxx4.png"),
    ],
)
def test_pairs_by_name(tmp_path: Path, gt: str, lq: str):
    hr, lr = touch(tmp_path / "hr", gt, "other.png"), touch(tmp_path / "lr", "other.png", lq)
    assert (hr / gt, lr / lq) in pair_files(hr, lr, 4)


def test_order_is_no_pairing(tmp_path: Path):
    hr, lr = touch(tmp_path / "hr", "a.png", "b.png"), touch(tmp_path / "lr", "b.png", "c.png")
    with pytest.raises(ValueError, match=r"hr: expected partners .* none for 1: a\.png"):
        pair_files(hr, lr, 4)


def test_files_without_partner_are_counted_and_named(tmp_path: Path):
    hr = touch(tmp_path / "hr", "a.png")
    lr = touch(tmp_path / "lr", "a.png", *(f"x{n}.png" for n in range(7)), "a_other/x.png")
    with pytest.raises(ValueError, match=r"lr: .* none for 8: a_other/x\.png, .*x3\.png \.\.\.; all there have one"):
        pair_files(hr, lr, 4)
    with pytest.raises(ValueError, match=r"none for 1: a\.png"):
        pair_files(hr, touch(tmp_path / "half", "ax2.png"), 4)


def test_equal_stems_are_refused(tmp_path: Path):
    hr, lr = touch(tmp_path / "hr", "a.png", "a.jpg"), touch(tmp_path / "lr", "a.png")
    with pytest.raises(ValueError, match=r"one image named 'a'"):
        pair_files(hr, lr, 4)
    hr, lr = touch(tmp_path / "hr2", "a.png"), touch(tmp_path / "lr2", "a_LR.png", "ax4.png")
    with pytest.raises(ValueError, match=r"one image named 'a'"):
        pair_files(hr, lr, 4)


def test_pair_sizes_are_checked_at_once(tmp_path: Path):
    write(tmp_path / "hr" / "a.png", 17, 26)
    write(tmp_path / "lr" / "a.png", 4, 7)
    with pytest.raises(ValueError, match=r"a\.png: expected 6 x 4 pixels.* with 26 x 17, got 7 x 4"):
        open_folders(str(tmp_path / "hr"), str(tmp_path / "lr"), 4)


@pytest.mark.parametrize(("scale", "asked"), [(1, False), (2, True), (4, False)])
def test_folders_are_taken_for_exchanged_only_if_they_would_fit_then(tmp_path: Path, scale: int, asked: bool):
    write(tmp_path / "hr" / "a.png", 8, 9)
    write(tmp_path / "lr" / "a.png", 16, 18)
    with pytest.raises(UserError, match="got 18 x 16") as caught:
        open_folders(str(tmp_path / "hr"), str(tmp_path / "lr"), scale)
    assert ("exchanged?" in str(caught.value)) is asked


def test_hr_with_spare_pixels_is_cropped_at_the_far_side(tmp_path: Path):
    hr = write(tmp_path / "hr" / "a.png", 17, 26)
    lr = write(tmp_path / "lr" / "ax4.png", 4, 6)
    folders = {"dataroot_GT": str(tmp_path / "hr"), "dataroot_LQ": str(tmp_path / "lr")}
    items = build_evaluation(FolderOptions(mode="folder", **folders), scale=4)
    assert items[0].name == "a"
    assert items[0].gt.mul(255).round().equal(hr[:, :16, :24].float())
    assert items[0].lr.mul(255).round().equal(lr.float())


def test_lr_alone_has_no_ground_truth(tmp_path: Path):
    lr = write(tmp_path / "sub" / "a.png", 5, 7)
    for path, name in ((tmp_path, "sub_a"), (tmp_path / "sub" / "a.png", "a")):
        (item,) = evaluation_of_folder(path, scale=4)
        assert item.name == name
        assert item.gt is None
        assert item.lr.mul(255).round().equal(lr.float())
    with pytest.raises(ValueError, match="nothing there"):
        evaluation_of_folder(tmp_path / "missing", scale=4)


def test_damaged_file_is_found_before_the_first_step(tmp_path: Path):
    write(tmp_path / "a.png", 8, 8)
    (tmp_path / "b.png").touch()
    with pytest.raises(ValueError, match=r"b\.png: expected"):
        open_folders(str(tmp_path), None, 4)


def test_names_are_flat():
    assert name_images([Path("a.png"), Path("b/c.png"), Path("d.jpg")]) == ["a", "b_c", "d"]


@pytest.mark.parametrize("paths", [["a.png", "a.jpg"], ["b/c.png", "b_c.png"]])
def test_a_name_never_depends_on_other_files(paths):
    with pytest.raises(UserError, match=rf"distinct names, got {paths[0]} and {paths[1]}; rename one"):
        name_images([Path(path) for path in paths])


def contradictions(key: str, **values: object) -> list[tuple[str, str]]:
    options = DATASETS.parse({"mode": "folder", **values})
    root = SimpleNamespace(datasets={"other": DATASETS.parse({"mode": "folder", **values}), key: options})
    return list(options.contradictions(root))


def test_contradictions_name_the_key():
    assert contradictions("val") == [("datasets.val.dataroot_GT", "expected dataroot_GT, dataroot_LQ or both")]
    ((path, message),) = contradictions("train", dataroot_LQ="x")
    assert path == "datasets.train.dataroot_GT"
    assert "training needs" in message
    assert contradictions("test", dataroot_LQ="x", enhance="unit")[0][0] == "datasets.test.enhance"
    assert contradictions("train", dataroot_GT="x") == contradictions("test", dataroot_LQ="x") == []
