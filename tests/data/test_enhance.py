import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from robustflow import data
from robustflow.commands.enhance import enhance_folder, main
from robustflow.data.degradations import Enhance
from robustflow.data.images import read_image
from robustflow.data.sources.folders import FolderOptions
from robustflow.utils.errors import UserError


def picture(seed, height=12, width=16):
    return np.random.default_rng(seed).integers(30, 120, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(picture(0)).save(folder / "a.png")
    Image.fromarray(picture(1)).save(folder / "sub" / "b.v2.bmp")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.mark.parametrize("kernel", ["published", "unit"])
def test_writes_what_the_option_would_make(source, tmp_path, kernel):
    target = tmp_path / "made" / "out"
    enhance_folder(source, target, kernel)
    names = sorted(file.relative_to(target).as_posix() for file in target.rglob("*") if file.is_file())
    assert names == ["a.png", "sub/b.v2.png"]
    assert torch.equal(read_image(target / "a.png"), Enhance(kernel)(read_image(source / "a.png")))
    options = FolderOptions(mode="folder", dataroot_GT=str(source), enhance=kernel)
    written = FolderOptions(mode="folder", dataroot_GT=str(target))
    for live, file in zip(data.build_evaluation(options, 4), data.build_evaluation(written, 4), strict=True):
        assert live.name == file.name
        assert torch.equal(live.gt, file.gt)
        assert torch.equal(live.lr, file.lr)


def test_may_run_again(source, tmp_path):
    enhance_folder(source, tmp_path / "out", "published")
    enhance_folder(source, tmp_path / "out", "unit")
    assert torch.equal(read_image(tmp_path / "out/a.png"), Enhance("unit")(read_image(source / "a.png")))


def test_16_bit_images(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((4, 4), 20000, np.uint16)).save(tmp_path / "in/grey.png")
    enhance_folder(tmp_path / "in", tmp_path / "out", "published")
    assert read_image(tmp_path / "out/grey.png").unique().tolist() == [round(40000 / 65535 * 255)]


@pytest.mark.parametrize("target", ["in", "in/deeper", "in/../in", "link"])
def test_refuses_to_write_into_the_source(source, tmp_path, target):
    (tmp_path / "link").symlink_to(source)
    before = (source / "a.png").read_bytes()
    with pytest.raises(UserError, match="apart from"):
        enhance_folder(source, tmp_path / target, "unit")
    assert (source / "a.png").read_bytes() == before
    assert not (source / "deeper").exists()


def test_refuses_to_write_over_what_it_reads(tmp_path):
    # OUT is not in IN, but in/x.png is OUT/in/x.png.
    (tmp_path / "in" / "in").mkdir(parents=True)
    Image.fromarray(picture(0)).save(tmp_path / "in/in/x.png")
    with pytest.raises(UserError, match="apart from"):
        enhance_folder(tmp_path / "in", tmp_path, "unit")
    # IN holds a link to OUT.
    (tmp_path / "out" / "more").mkdir(parents=True)
    Image.fromarray(picture(0)).save(tmp_path / "out/more/y.png")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "more").symlink_to(tmp_path / "out" / "more")
    with pytest.raises(UserError, match="apart from"):
        enhance_folder(tmp_path / "linked", tmp_path / "out", "unit")


def test_refuses_two_images_of_one_name(source, tmp_path):
    Image.fromarray(picture(2)).save(source / "a.bmp")
    with pytest.raises(UserError, match=r"distinct names.*a\.bmp.*a\.png|distinct names.*a\.png.*a\.bmp"):
        enhance_folder(source, tmp_path / "out", "unit")
    assert not (tmp_path / "out").exists()


def test_command(source, tmp_path):
    command = [sys.executable, "-m", "robustflow.data.enhance", str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout == ""
    assert done.stderr.startswith("kernel published: it sums to 2: sharper and twice as bright")
    assert "2 images in" in done.stderr
    assert torch.equal(read_image(tmp_path / "out/a.png"), Enhance("published")(read_image(source / "a.png")))


def test_command_names_the_unit_kernel(source, tmp_path, caplog):
    caplog.set_level("INFO")
    assert main([str(source), str(tmp_path / "out"), "--kernel", "unit"]) == 0
    assert "kernel unit: it sums to 1" in caplog.text


def test_mistakes_are_explained(source, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "a.png").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    cases = {
        (str(tmp_path / "nowhere"), "out"): "expected a folder of images",
        (str(tmp_path / "empty"), "out"): "expected images",
        (str(source), "file"): "expected a folder for the PNGs, got a file",
        (str(source), "file/below"): "a.png: cannot be written (Not a directory)",
        (str(source), "taken"): "a.png: cannot be written (Is a directory)",
        (str(source.parent / "damaged"), "out"): "b.v2.bmp: expected a complete PNG",
    }
    shutil.copytree(source, source.parent / "damaged")
    (source.parent / "damaged" / "sub" / "b.v2.bmp").write_bytes(b"no image")
    for (folder, target), message in cases.items():
        caplog.clear()
        assert main([folder, str(tmp_path / target)]) == 2
        assert caplog.messages[-1].startswith("error: ")
        assert message in caplog.messages[-1]
    with pytest.raises(SystemExit):
        main([str(source), str(tmp_path / "out"), "--kernel", "double"])
