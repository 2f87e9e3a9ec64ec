import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from robustflow.data import build_evaluation, build_training, images
from robustflow.data.images import read_image, write_png
from robustflow.options.load import load
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)


def folder_of(folder: Path, pictures: list[torch.Tensor], mark: str = "") -> str:
    for number, image in enumerate(pictures):
        write_png(folder / f"{number:04d}{mark}.png", image)
    return str(folder)


def pickle_of(file: Path, pictures: list[torch.Tensor], protocol: int = 4) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps([image.permute(1, 2, 0).numpy() for image in pictures], protocol))
    return str(file)


HR = [picture(16, 24, 1), picture(21, 17, 2), picture(16, 16, 3)]
LR = [picture(4, 6, 4), picture(5, 4, 5), picture(4, 4, 6)]
TRAINING = {"GT_size": 16, "use_flip": True, "use_rot": True}


def training(**values: object):
    return build_training(DATASETS.parse({**TRAINING, **values}), scale=4, seed=3)


def evaluation(**values: object):
    return build_evaluation(DATASETS.parse(values), scale=4)


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        a["gt"].equal(b["gt"]) and a["lr"].equal(b["lr"])
        for a, b in ((first[i], second[i]) for i in range(2 * len(first)))
    )


def contradictions(key: str, **values: object) -> list[tuple[str, str]]:
    options = DATASETS.parse(values)
    root = SimpleNamespace(datasets={"other": DATASETS.parse(values), key: options})
    return list(options.contradictions(root))


@pytest.mark.parametrize("lq", [None, LR])
def test_folder_by_its_published_name(tmp_path: Path, lq: list[torch.Tensor] | None):
    roots = {"dataroot_GT": folder_of(tmp_path / "hr", HR)}
    if lq is not None:
        roots["dataroot_LQ"] = folder_of(tmp_path / "lr", lq, "x4")
    assert same(training(mode="LRHR_IMG", **roots), training(mode="folder", **roots))
    items = evaluation(mode="LRHR_IMG", **roots)
    assert [item.name for item in items] == ["0000", "0001", "0002"]
    for item, expected in zip(items, evaluation(mode="folder", **roots), strict=True):
        assert item.gt.equal(expected.gt)
        assert item.lr.equal(expected.lr)


def test_folder_by_its_published_name_is_checked_as_folder(tmp_path: Path):
    roots = {
        "dataroot_GT": folder_of(tmp_path / "hr", HR[:1]),
        "dataroot_LQ": folder_of(tmp_path / "lr", [picture(4, 7)]),
    }
    with pytest.raises(UserError, match=r"0000\.png: expected 6 x 4 pixels"):
        training(mode="LRHR_IMG", **roots)
    with pytest.raises(ValueError, match="dataroot_HR"):
        training(mode="LRHR_IMG", dataroot_HR="x")
    ((path, message),) = contradictions("train", mode="LRHR_IMG", dataroot_LQ="x")
    assert path == "datasets.train.dataroot_GT"
    assert "training needs" in message


@pytest.mark.parametrize("paired", [False, True])
def test_patches_are_used_whole(tmp_path: Path, paired: bool):
    hr, lr = [picture(16, 16, n) for n in range(3)], [picture(4, 4, n) for n in range(7, 10)]
    roots = {"dataroot_GT": folder_of(tmp_path / "hr", hr)}
    if paired:
        roots["dataroot_LQ"] = folder_of(tmp_path / "lr", lr, "x4")
    crops = build_training(DATASETS.parse({"mode": "LRHR_IMG_nocrop", "GT_size": 16, **roots}), scale=4, seed=0)
    samples = [crops[i] for i in range(3)]
    assert all(any(sample["gt"].mul(255).round().equal(image.float()) for sample in samples) for image in hr)
    if paired:
        assert all(any(sample["lr"].mul(255).round().equal(image.float()) for sample in samples) for image in lr)
    assert same(training(mode="LRHR_IMG_nocrop", **roots), training(mode="folder", **roots))
    for size in (None, 16):
        items = evaluation(mode="LRHR_IMG_nocrop", GT_size=size, **roots)
        assert [item.gt.mul(255).round().equal(image.float()) for item, image in zip(items, hr, strict=True)] == 3 * [
            True
        ]


@pytest.mark.parametrize("paired", [False, True])
def test_patch_of_another_size_is_named_from_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paired: bool):
    hr = folder_of(tmp_path / "hr", [picture(16, 16)] * 11)
    write_png(tmp_path / "hr" / "sub" / "0002.png", picture(16, 20))
    roots = {"dataroot_GT": hr}
    if paired:
        roots["dataroot_LQ"] = folder_of(tmp_path / "lr", [picture(4, 4)] * 11)
        write_png(tmp_path / "lr" / "sub" / "0002.png", picture(4, 5))
    monkeypatch.setattr(images.decoding, "read_8_bit", None)
    with pytest.raises(UserError, match=r"hr/sub/0002\.png: expected .* 16 x 16 .*GT_size\), got 20 x 16; .*LRHR_IMG"):
        training(mode="LRHR_IMG_nocrop", **roots)
    with pytest.raises(UserError, match=r"hr/sub/0002\.png: .* as the first\), got 20 x 16"):
        evaluation(mode="LRHR_IMG_nocrop", **roots)
    with pytest.raises(UserError, match=r"hr/0000\.png: expected .* 8 x 8 .* got 16 x 16"):
        training(mode="LRHR_IMG_nocrop", **roots, GT_size=8)


def test_options_of_patches():
    with pytest.raises(ValueError, match="dataroot_GT"):
        DATASETS.parse({"mode": "LRHR_IMG_nocrop", "dataroot_LQ": "x"})
    values = {"mode": "LRHR_IMG_nocrop", "dataroot_GT": "x", "GT_size": 16}
    assert contradictions("val", **values) == []
    assert contradictions("val", **values, n_crops=4) == [
        ("datasets.val.n_crops", "expected none: patches are used whole")
    ]
    ((path, message),) = contradictions("train", **values, hr_shift=1)
    assert path == "datasets.train.hr_shift"
    assert "expected 0: patches are used whole" in message
    assert "mode LRHR_IMG" in message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_samples_equal_the_arrays(tmp_path: Path, protocol: int):
    roots = {
        "dataroot_GT": pickle_of(tmp_path / "DIV2K_va.pklv4", HR, protocol),
        "dataroot_LQ": pickle_of(tmp_path / "DIV2K_va_X4.pklv4", LR, protocol),
    }
    items = evaluation(mode="LRHR_PKL", **roots)
    assert [item.name for item in items] == ["DIV2K_va_0000", "DIV2K_va_0001", "DIV2K_va_0002"]
    for item, hr, lr in zip(items, HR, LR, strict=True):
        height, width = (4 * n for n in lr.shape[1:])
        assert item.gt.equal(hr[:, :height, :width].float() / 255)
        assert item.lr.equal(lr.float() / 255)
        assert item.gt.is_contiguous()


@pytest.mark.parametrize("values", [{}, {"enhance": "unit"}, {"lr_noise": 0.1}])
@pytest.mark.parametrize("paired", [False, True])
def test_pickled_images_serve_as_files_do(tmp_path: Path, paired: bool, values: dict[str, object]):
    folders = {"dataroot_GT": folder_of(tmp_path / "hr", HR)}
    files = {"dataroot_GT": pickle_of(tmp_path / "hr.pklv4", HR)}
    if paired:
        folders["dataroot_LQ"] = folder_of(tmp_path / "lr", LR)
        files["dataroot_LQ"] = pickle_of(tmp_path / "lr.pklv4", LR)
    from_folders, from_files = (training(mode=mode, **roots, **values) for mode, roots in _modes(folders, files))
    assert same(from_folders, from_files)
    expected, got = (evaluation(mode=mode, **roots, enhance="unit") for mode, roots in _modes(folders, files))
    assert all(a.lr.equal(b.lr) and a.gt.equal(b.gt) for a, b in zip(expected, got, strict=True))


def _modes(folders: dict[str, str], files: dict[str, str]) -> tuple[tuple[str, dict[str, str]], ...]:
    return ("folder", folders), ("LRHR_PKL", files)


@pytest.mark.parametrize("kind", [tuple, list])
def test_several_files_are_one_set(tmp_path: Path, kind: type):
    gt = kind([pickle_of(tmp_path / "a.pklv4", HR[:2]), pickle_of(tmp_path / "b" / "c.pklv4", HR[2:])])
    lq = kind([pickle_of(tmp_path / "x4.pklv4", LR[:2]), pickle_of(tmp_path / "b" / "x4.pklv4", LR[2:])])
    items = evaluation(mode="LRHR_PKL", dataroot_GT=gt, dataroot_LQ=lq)
    assert [item.lr.mul(255).round().equal(lr.float()) for item, lr in zip(items, LR, strict=True)] == 3 * [True]
    assert [item.name for item in items] == ["a_0000", "a_0001", "c_0000"]


def test_missing_lr_list(tmp_path: Path):
    gt = pickle_of(tmp_path / "hr.pklv4", HR)
    with pytest.raises(UserError, match=r"gone\.pklv4: expected a pickle file .* no such file"):
        training(mode="LRHR_PKL", dataroot_GT=gt, dataroot_LQ=str(tmp_path / "gone.pklv4"))
    with pytest.raises(UserError, match=r"dataroot_LQ: expected 2 file\(s\) of LR images.*, got 1"):
        training(mode="LRHR_PKL", dataroot_GT=(gt, gt), dataroot_LQ=gt)
    values = {"mode": "LRHR_PKL", "dataroot_GT": (gt, gt)}
    assert contradictions("train", **values) == []
    ((path, message),) = contradictions("train", **values, dataroot_LQ=gt)
    assert path == "datasets.train.dataroot_LQ"
    assert "expected 2 file(s)" in message


def test_pairs_that_do_not_fit(tmp_path: Path):
    gt = pickle_of(tmp_path / "hr.pklv4", HR)
    lq = pickle_of(tmp_path / "short.pklv4", LR[:2])
    with pytest.raises(UserError, match=r"short\.pklv4: expected 3 LR images, .*hr\.pklv4, got 2"):
        training(mode="LRHR_PKL", dataroot_GT=gt, dataroot_LQ=lq)
    lq = pickle_of(tmp_path / "swapped.pklv4", [LR[0], LR[2], LR[1]])
    with pytest.raises(
        UserError, match=r"swapped\.pklv4/0001: expected 4 x 5 .*hr\.pklv4/0001 with 17 x 21, got 4 x 4"
    ):
        training(mode="LRHR_PKL", dataroot_GT=gt, dataroot_LQ=lq)
    with pytest.raises(UserError, match=r"hr\.pklv4/0000"):
        training(mode="LRHR_PKL", dataroot_GT=gt, dataroot_LQ=gt)


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ([], "got an empty list"),
        ([np.zeros((3, 16, 16), np.uint8)], r"\(height, width, 3\), got an array of shape \(3, 16, 16\) as item 0"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8)], r"shape \(16, 16\) as item 1"),
        ([np.zeros((16, 16, 4), np.uint8)], r"shape \(16, 16, 4\)"),
        ([np.zeros((0, 16, 3), np.uint8)], r"shape \(0, 16, 3\)"),
        ([np.zeros((16, 16, 3), np.float32)], "dtype 'f4'"),
        ({"images": []}, "type dict"),
    ],
)
def test_files_without_images_are_refused(tmp_path: Path, content: object, pattern: str):
    file = tmp_path / "hr.pklv4"
    file.write_bytes(pickle.dumps(content, 4))
    with pytest.raises(UserError, match=rf"hr\.pklv4: .*{pattern}"):
        evaluation(mode="LRHR_PKL", dataroot_GT=str(file))


def test_images_smaller_than_a_crop_are_named(tmp_path: Path):
    gt = pickle_of(tmp_path / "hr.pklv4", [*HR, picture(12, 40)])
    with pytest.raises(UserError, match="'hr_0003': expected at least 16 x 16"):
        training(mode="LRHR_PKL", dataroot_GT=gt)


@pytest.mark.parametrize(
    "values", [{}, {"dataroot_GT": ()}, {"dataroot_GT": 3}, {"dataroot_GT": "x", "dataroot_lq": "y"}]
)
def test_options_of_pickles(values: dict[str, object]):
    with pytest.raises(ValueError, match="dataroot"):
        DATASETS.parse({"mode": "LRHR_PKL", **values})


def test_files_are_read_once(tmp_path: Path):
    gt = pickle_of(tmp_path / "hr.pklv4", HR)
    expected = training(mode="LRHR_PKL", dataroot_GT=gt)[0]["gt"]
    Path(gt).unlink()
    crops = training(mode="LRHR_PKL", dataroot_GT=gt)
    assert crops[0]["gt"].equal(expected)
    assert len(pickle.dumps(crops.source)) < 2000
    (batch,) = DataLoader(crops, batch_size=3, num_workers=1, multiprocessing_context="fork")
    assert batch["gt"].shape == (3, 3, 16, 16)


def test_another_process_reads_for_itself(tmp_path: Path):
    crops = training(mode="LRHR_PKL", dataroot_GT=pickle_of(tmp_path / "hr.pklv4", HR))
    (tmp_path / "crops").write_bytes(pickle.dumps(crops))
    code = f"import pickle; print(pickle.load(open({str(tmp_path / 'crops')!r}, 'rb'))[1]['gt'].sum().item())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(crops[1]["gt"].sum().item())


def test_modes_in_an_options_file(tmp_path: Path):
    hr, lr = picture(16, 16), picture(4, 4)
    pickle_of(tmp_path / "hr.pklv4", [hr])
    pickle_of(tmp_path / "lr.pklv4", [lr])
    folder_of(tmp_path / "hr", [hr])
    file = tmp_path / "run.yml"
    file.write_text(
        f"""
name: run
model: SRFlow
datasets:
  train: {{mode: LRHR_PKL, dataroot_GT: [{tmp_path}/hr.pklv4], dataroot_LQ: {tmp_path}/lr.pklv4, GT_size: 16}}
  val: {{mode: LRHR_IMG_nocrop, dataroot_GT: {tmp_path}/hr}}
  test: {{mode: LRHR_IMG, dataroot_GT: {tmp_path}/hr}}
"""
    )
    datasets = load(file).datasets
    assert build_training(datasets["train"], 4, seed=0)[0]["lr"].mul(255).round().equal(lr.float())
    for key in ("val", "test"):
        (item,) = build_evaluation(datasets[key], 4)
        assert item.gt.equal(read_image(tmp_path / "hr" / "0000.png").float() / 255)
    for wrong, message in (
        ("datasets.train.dataroot_LQ=[a, b]", r"datasets\.train\.dataroot_LQ: expected 1 file"),
        ("datasets.train.dataroot_LQ=3", r"datasets\.train\.dataroot_LQ: expected a list"),
        ("datasets.train.dataroot_GT=[]", r"datasets\.train\.dataroot_GT: expected at least 1 value"),
        ("datasets.val.n_crops=2", r"datasets\.val\.n_crops: expected none"),
    ):
        with pytest.raises(UserError, match=message):
            load(file, wrong)
