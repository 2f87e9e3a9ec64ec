"""All images of a folder that cannot be used are named at once, and those of other kinds are told of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustflow.commands.enhance import enhance_folder
from robustflow.data import build_evaluation, build_training, preparation
from robustflow.data.images import list_images, read_image, write_png
from robustflow.data.sources.folders import open_folders
from robustflow.latent.inputs import find_images
from robustflow.registry import DATASETS
from robustflow.utils import errors
from robustflow.utils.errors import UserError


def folder(place: Path, n_good: int, bad: dict[str, bytes | np.ndarray]) -> Path:
    for k in range(n_good):
        write_png(place / f"good{k}.png", torch.rand(3, 16, 16))
    for name, content in bad.items():
        if isinstance(content, bytes):
            (place / name).write_bytes(content)
        else:
            Image.fromarray(content).save(place / name)
    return place


FLOATS = np.zeros((16, 16), np.float32)
EACH_KIND = {"a.png": b"", "b.tif": FLOATS, "c.jpg": b"text", "d.png": b"GIF89a" + bytes(20), "e.tif": FLOATS}


def test_five_and_the_count(tmp_path: Path):
    hr = folder(tmp_path / "hr", 2, {**EACH_KIND, "f.png": b"", "g.png": b""})
    with pytest.raises(UserError) as error:
        open_folders(str(hr), None, 4)
    first, *lines = str(error.value).split("\n  ")
    assert first == "7 of 9 images cannot be used:"
    assert [Path(line.split(": ")[0]).name for line in lines[:5]] == ["a.png", "b.tif", "c.jpg", "d.png", "e.tif"]
    assert lines[5:] == ["... and 2 more"]


def test_one_alone_is_said_as_before(tmp_path: Path):
    hr = folder(tmp_path / "hr", 2, {"b.tif": FLOATS})
    with pytest.raises(UserError, match=r"^.*b\.tif: expected a complete PNG.*, got pixels of mode F"):
        open_folders(str(hr), None, 4)


@pytest.mark.parametrize("command", ["enhance", "prepare", "apply"])
def test_commands_name_all_before_they_begin(tmp_path: Path, command: str):
    hr = folder(tmp_path / "hr", 1, EACH_KIND)
    commands = {
        "enhance": lambda: enhance_folder(hr, tmp_path / "out", "unit"),
        "prepare": lambda: preparation.prepare_images(hr, tmp_path / "out"),
        "apply": lambda: find_images(hr),
    }
    with pytest.raises(UserError, match="5 of 6 images cannot be used"):
        commands[command]()
    assert not (tmp_path / "out").exists()


def test_damage_that_decoding_finds_is_named_at_once_too(tmp_path: Path):
    hr = folder(tmp_path / "hr", 3, {})
    for k in range(2):
        data = (hr / f"good{k}.png").read_bytes()
        (hr / f"good{k}.png").write_bytes(data[:100] + data[-16:])
    with pytest.raises(UserError, match=r"2 of 3 images cannot be used:(.|\n)*good0\.png(.|\n)*good1\.png"):
        preparation.prepare_images(hr, tmp_path / "out")


def test_sizes_are_named_at_once(tmp_path: Path):
    hr, lr = folder(tmp_path / "hr", 3, {}), tmp_path / "lr"
    for k in range(3):
        write_png(lr / f"good{k}.png", torch.rand(3, 4, 4 + (k > 0)))
    with pytest.raises(UserError, match=r"2 of 3 images cannot be used:(.|\n)*good1\.png(.|\n)*good2\.png"):
        open_folders(str(hr), str(lr), 4)
    options = {"mode": "folder", "dataroot_GT": str(hr), "GT_size": 32}
    for build in (lambda o: build_training(o, 4, 0), lambda o: build_evaluation(o, 4)):
        with pytest.raises(UserError, match="3 of 3 images cannot be used"):
            build(DATASETS.parse(options))
    with pytest.raises(UserError, match="3 of 3 images cannot be used"):
        DATASETS.build(DATASETS.parse({**options, "mode": "LRHR_IMG_nocrop"}), scale=4)


def test_other_faults_are_not_gathered():
    with pytest.raises(ZeroDivisionError):
        errors.for_all([1, 0], lambda n: 1 / n)


def test_kinds_that_are_left_out_get_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    place = folder(tmp_path / "hr", 2, dict.fromkeys(("a.HEIC", "b.gif", "c.avif", "d.jp2", "e.ppm", "f.nef"), b""))
    (place / "notes.txt").touch()
    assert [file.name for file in list_images(place)] == [file.name for file in list_images(place)]
    assert caplog.messages == [
        f"{place}: images left out: 6 of kinds that are not read (a.HEIC, b.gif, c.avif, d.jp2, e.ppm ...); convert "
        "them to PNG to use them"
    ]
    for file in place.glob("good*"):
        file.unlink()
    with pytest.raises(UserError, match=r"found only 6 of kinds that are not read \(a\.HEIC"):
        list_images(place)


def test_jfif_is_jpeg(tmp_path: Path):
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "a.jfif", format="JPEG")
    (file,) = list_images(tmp_path)
    assert read_image(file).shape == (3, 8, 8)
