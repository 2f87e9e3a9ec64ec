"""Warnings about data sets."""

import logging
import shutil

import pytest
import torch
from PIL import Image

from robustflow.data import checks, preparation
from robustflow.data.bicubic import downsample
from robustflow.data.images import write_png
from robustflow.data.sources.folders import FolderOptions
from robustflow.data.sources.lists import PickleOptions
from robustflow.registry import DATASETS


@pytest.fixture
def hr():
    return torch.randint(256, (3, 34, 37), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def folder(gt, lq=None):
    return FolderOptions(mode="folder", dataroot_GT=str(gt), dataroot_LQ=None if lq is None else str(lq))


def prepared_from(source):
    preparation.prepare_images(source, source.with_name(f"{source.name}_prepared"))
    return source.with_name(f"{source.name}_prepared")


def prepared(source):
    return DATASETS.parse({"mode": "prepared", "dataroot_GT": str(prepared_from(source))})


def test_residual_is_zero_for_bicubic_only(hr):
    lr = downsample(hr[..., :32, :36], 4)
    assert checks.residual(hr, lr, 4) == 0
    assert checks.residual(hr.float() / 255, lr, 4) < 0.5
    assert checks.residual(hr, lr.roll(1, 2), 4) > 10
    assert checks.residual(hr, hr[..., :32:4, :36:4], 4) > 10


def test_only_the_sets_in_use_are_compared_with_bicubic(hr, tmp_path, caplog):
    write_png(tmp_path / "hr" / "a.png", hr)
    write_png(tmp_path / "lr" / "a.png", hr[..., :32:4, :36:4])
    pairs = folder(tmp_path / "hr", tmp_path / "lr")
    for used, warned in (("train", ["train", "val"]), ("test", ["test_x"])):
        caplog.clear()
        checks.warn({"train": pairs, "val": pairs, "test_x": pairs}, 4, used=used)
        found = [record.getMessage().split(":")[0] for record in caplog.records if "bicubic" in record.getMessage()]
        assert found == [f"datasets.{key}" for key in warned]


@pytest.mark.parametrize("mode", ["folder", "prepared"])
def test_pairs_of_every_mode_are_compared_with_bicubic(hr, tmp_path, caplog, mode):
    for name, lr in (("same", downsample(hr[..., :32, :36], 4)), ("other", hr[..., :32:4, :36:4])):
        write_png(tmp_path / name / "hr" / "a.png", hr)
        write_png(tmp_path / name / "lr" / "ax4.png", lr)
        roots = [tmp_path / name / part for part in ("hr", "lr")]
        if mode == "prepared":
            roots = [prepared_from(root) for root in roots]
        pairs = DATASETS.parse(
            {"mode": mode, **dict(zip(("dataroot_GT", "dataroot_LQ"), map(str, roots), strict=True))}
        )
        caplog.clear()
        checks.warn({"train": pairs}, 4, used="train")
        found = [message for message in caplog.messages if "not the bicubic LR image" in message]
        assert len(found) == (name == "other")


def test_files_that_are_learnt(hr, tmp_path, caplog):
    for index in range(5):
        write_png(tmp_path / "train" / f"{index}.png", hr.roll(index, 2))
    write_png(tmp_path / "other" / "0.png", hr.flip(0))
    shutil.copytree(tmp_path / "train", tmp_path / "test", dirs_exist_ok=True)
    sets = {"train": folder(tmp_path / "train"), "val": folder(tmp_path / "other"), "test_x": folder(tmp_path / "test")}
    checks.warn(sets, 4, used="train")
    (message,) = caplog.messages
    assert "datasets.test_x: 5 of 5 files are training files, too" in message
    assert message.count(".png (") == 3


@pytest.mark.parametrize("which", ["train", "test_x", "both"])
def test_prepared_images_are_compared_by_the_files_they_were_made_from(hr, tmp_path, caplog, which):
    for index in range(3):
        write_png(tmp_path / "train" / f"{index}.png", hr.roll(index, 2))
    write_png(tmp_path / "test" / "a" / "new.png", hr.flip(0))
    shutil.copy(tmp_path / "train" / "1.png", tmp_path / "test" / "a" / "again.png")
    roots = {"train": tmp_path / "train", "test_x": tmp_path / "test"}
    sets = {key: prepared(root) if which in (key, "both") else folder(root) for key, root in roots.items()}
    caplog.clear()
    checks.warn(sets, 4, used="test")
    (message,) = caplog.messages
    assert "datasets.test_x: 1 of 2 files are training files, too" in message
    assert "again.png (" in message

    caplog.clear()
    write_png(tmp_path / "train" / "0.png", hr.flip(1))
    write_png(tmp_path / "test" / "a" / "new.png", hr.flip(1).flip(0))
    checks.warn(sets, 4, used="train")
    expected = {"train": "1 of 3", "test_x": "1 of 2"}
    for key in expected:
        told = f"datasets.{key}: {expected[key]} images not compared with those of other sets" in caplog.text
        assert told == (which in (key, "both"))
    assert " files are training files, too" in caplog.text


def test_prepared_images_whose_origin_is_gone_are_named(hr, tmp_path, caplog):
    for name in ("train", "test"):
        write_png(tmp_path / name / "0.png", hr)
    training, test = prepared(tmp_path / "train"), folder(tmp_path / "test")
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    caplog.clear()
    checks.warn({"train": training, "test_x": test, "test_y": test}, 4, used="test")
    (message,) = caplog.messages
    assert "datasets.train: 1 of 1 images not compared with those of other sets" in message
    assert str(tmp_path / "train") in message

    caplog.clear()
    checks.warn({"train": training, "val": DATASETS.parse({"mode": "bundled", "split": "test"})}, 4, used="train")
    assert caplog.records == [], "there is nothing to compare them with"


def test_low_light_pairs_that_are_learnt(hr, tmp_path, caplog):
    for place in ("lol/our485/high", "lol/eval15/high", "lol2/Real_captured/Test/Normal"):
        write_png(tmp_path / place / "1.png", hr if "eval" not in place else hr.flip(-1))
    lol = {"mode": "LoL", "root": str(tmp_path / "lol")}
    sets = {
        "train": DATASETS.parse(lol),
        "test_same": DATASETS.parse({**lol, "split": "test"}),
        "test_2": DATASETS.parse(
            {"mode": "LoL_v2", "root": str(tmp_path / "lol2"), "subset": "Real_captured", "split": "test"}
        ),
    }
    checks.warn(sets, 1, used="test")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("datasets.test_2: 1 of 1 files are training files, too")


def lol_v2(place, **changes):
    return DATASETS.parse({"mode": "LoL_v2", "root": str(place), "subset": "Real_captured", "split": "test", **changes})


def test_photographs_of_lol_are_found_in_lol_v2_by_their_pixels(hr, tmp_path, caplog):
    # Other bytes: another compression.
    for place, image in (("our485/high/1", hr), ("our485/high/2", hr.flip(-2)), ("our485/high/3", hr[:, :-4])):
        write_png(tmp_path / "lol" / f"{place}.png", image)
    test = tmp_path / "lol2" / "Real_captured" / "Test" / "Normal"
    test.mkdir(parents=True)
    for name, image in (("normal9", hr), ("normal8", hr.flip(-1))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(test / f"{name}.png", compress_level=0)
    sets = {"train": DATASETS.parse({"mode": "LoL", "root": str(tmp_path / "lol")}), "test": lol_v2(tmp_path / "lol2")}
    checks.warn(sets, 1, used="test")
    (message,) = caplog.messages
    assert message.startswith("datasets.test: 1 of 2 files are training files, too, by their pixels: ")
    assert f"{test}/normal9.png ({tmp_path}/lol/our485/high/1.png)" in message


def test_photographs_of_lol_that_is_elsewhere_are_told_of(hr, tmp_path, caplog):
    write_png(tmp_path / "Real_captured" / "Test" / "Normal" / "1.png", hr)
    write_png(tmp_path / "Synthetic" / "Test" / "Normal" / "1.png", hr)
    training = DATASETS.parse({"mode": "LoL", "root": str(tmp_path / "none")})
    synthetic = lol_v2(tmp_path, subset="Synthetic")
    checks.warn({"train": training, "test": lol_v2(tmp_path), "test_2": synthetic}, 1, used="test")
    (message,) = caplog.messages
    assert message.startswith("datasets.test: LOL-v2's captured test set has images that LOL trains on; which ones")


def test_sets_that_are_elsewhere_are_left_out(hr, tmp_path, caplog):
    write_png(tmp_path / "test" / "0.png", hr)
    files = PickleOptions(mode="LRHR_PKL", dataroot_GT=(str(tmp_path / "none.pkl"),))
    nowhere = DATASETS.parse({"mode": "prepared", "dataroot_GT": str(tmp_path / "none")})
    for training in (folder(tmp_path / "none"), files, nowhere):
        checks.warn({"train": training, "test_x": folder(tmp_path / "test")}, 4, used="test")
    assert caplog.records == []


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)
