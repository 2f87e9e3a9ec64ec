import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from robustflow.data.images import list_images, read_header, read_image, to_float, to_uint8, write_png

RGB = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (9, 7, 3), dtype=np.uint16)


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats(tmp_path: Path, suffix: str):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(file, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(file)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert image.equal(chw(RGB))
    assert read_header(file).size == (9, 7)


def test_jpeg_and_name_without_meaning(tmp_path: Path):
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.png", format="JPEG", quality=95)
    assert (read_image(tmp_path / "a.png").int() - chw(smooth).int()).abs().max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_modes_become_rgb(tmp_path: Path, mode: str):
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "a.tif")
    read = read_image(tmp_path / "a.tif")
    assert read.equal(chw(np.asarray(image.convert("RGB"))))
    if mode in ("1", "L"):
        assert read[0].equal(read[1])
        assert read[0].equal(read[2])


def test_transparency_over_white(tmp_path: Path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = (0, 51, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, 0].tolist() == [255, 204, 0]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png")[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str):
    cv2.imwrite(str(tmp_path / f"rgb.{suffix}"), DEEP[..., ::-1])
    cv2.imwrite(str(tmp_path / f"grey.{suffix}"), DEEP[..., 0])
    rgb, grey = read_image(tmp_path / f"rgb.{suffix}"), read_image(tmp_path / f"grey.{suffix}")
    assert rgb.dtype == torch.float32
    assert rgb.equal(chw(DEEP.astype(np.float32) / np.float32(65535)))
    assert grey.equal(rgb[:1].expand(3, -1, -1))


def test_sixteen_bits_over_white(tmp_path: Path):
    rgba = np.array([[[0, 0, 65535, 0], [65535, 0, 0, 13107]]], np.uint16)  # BGRA
    cv2.imwrite(str(tmp_path / "a.png"), rgba)
    expected = torch.tensor([[[1, 0.8]], [[1, 0.8]], [[1, 1.0]]])
    torch.testing.assert_close(read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int):
    file, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[274] = orientation
    Image.fromarray(RGB).save(file, exif=exif)
    with Image.open(file) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    assert read_image(file).equal(chw(expected))
    assert read_header(file).size == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_sixteen_bits(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[274] = orientation
    shallow = Image.fromarray((DEEP[..., 0] // 257).astype(np.uint8))
    for name, image in (("deep", Image.fromarray(DEEP[..., 0])), ("shallow", shallow)):
        image.save(tmp_path / f"{name}.png", exif=exif)
    deep, shallow_read = read_image(tmp_path / "deep.png"), to_float(read_image(tmp_path / "shallow.png"))
    torch.testing.assert_close(deep, shallow_read, rtol=0, atol=1 / 255)


def broken(folder: Path) -> dict[str, Path]:
    """One file of each kind that cannot be used."""
    Image.fromarray(np.tile(RGB, (20, 20, 1))).save(folder / "whole.png")
    Image.fromarray(np.tile(RGB, (20, 20, 1))).save(folder / "whole.jpg")
    cv2.imwrite(str(folder / "whole16.png"), np.tile(DEEP, (20, 20, 1)))
    for name in ("whole.png", "whole.jpg", "whole16.png"):
        data = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not an image")
    (folder / "folder.png").mkdir()
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for name in ("moving.png", "moving.webp", "pages.tif"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    Image.fromarray(RGB.astype(np.float32)[..., 0]).save(folder / "float.tif")
    names = "cut_whole.png cut_whole.jpg cut_whole16.png empty.png text.png folder.png moving.png moving.webp pages.tif"
    return {name: folder / name for name in (*names.split(), "float.tif", "missing.png")}


def test_unusable_files_are_named(tmp_path: Path):
    for name, file in broken(tmp_path).items():
        with pytest.raises(ValueError, match=rf"{name}: expected .*, got .+") as error:
            read_image(file)
        assert "BytesIO" not in str(error.value)


def test_header_of_unusable_files(tmp_path: Path):
    files = broken(tmp_path)
    for name in ("empty.png", "text.png", "folder.png", "moving.webp", "missing.png"):
        with pytest.raises(ValueError, match=rf"{name}: expected"):
            read_header(files[name])


def test_rounding_and_magenta():
    image = torch.tensor([0.0, 0.498, 0.4999, 1.7, -3.0]).expand(3, 1, 5).clone()
    assert to_uint8(image)[1, 0].tolist() == [0, 127, 127, 255, 0]
    image[1, 0, 0], image[2, 0, 1] = float("nan"), float("-inf")
    assert to_uint8(image)[:, 0, :2].T.tolist() == [[255, 0, 255]] * 2
    assert to_uint8(image)[:, 0, 3].tolist() == [255] * 3


def test_every_level_survives_writing_and_reading(tmp_path: Path):
    image = torch.arange(256, dtype=torch.uint8).expand(3, 2, 256).contiguous()
    file = tmp_path / "new" / "folder" / "a.png"
    write_png(file, to_float(image))
    assert read_image(file).equal(image)
    assert os.listdir(file.parent) == ["a.png"]
    with pytest.raises(ValueError, match="3, h, w"):
        write_png(file, torch.zeros(1, 4, 4))
    assert read_image(file).equal(image)


def test_to_float():
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    out_of_range = torch.tensor([-1.0, 2.0])
    assert to_float(out_of_range) is out_of_range


def test_list_images_in_natural_order(tmp_path: Path):
    names = ["img10.PNG", "img2.png", "b/img1.jpeg", ".hidden.png", ".cache/x.png", "notes.txt", "img02.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    found = [file.relative_to(tmp_path).as_posix() for file in list_images(tmp_path)]
    assert found == ["b/img1.jpeg", "img02.png", "img2.png", "img10.PNG"]


def test_list_images_follows_links(tmp_path: Path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.png").touch()
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    assert list_images(tmp_path / "near") == [tmp_path / "near" / "link" / "a.png"]


def test_list_images_refuses(tmp_path: Path):
    (tmp_path / "file").touch()
    for path, message in ((tmp_path, "found none"), (tmp_path / "file", "a file"), (tmp_path / "no", "nothing")):
        with pytest.raises(ValueError, match=message):
            list_images(path)


@pytest.mark.parametrize(("file", "advice"), [("index.json", "mode: prepared"), ("data.mdb", "LMDB is not read")])
def test_list_images_knows_folders_of_other_kinds(tmp_path: Path, file: str, advice: str):
    (tmp_path / file).touch()
    with pytest.raises(ValueError, match=f"found none; .*{advice}"):
        list_images(tmp_path)
