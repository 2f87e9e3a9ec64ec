import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
import tifffile
import torch

from robustflow.data.images import read_header, read_image, to_float
from robustflow.utils.errors import UserError

RGBX = np.random.default_rng(0).integers(0, 256, (70, 90, 4), dtype=np.uint8)
# Premultiplied: no colour above alpha.
PREMULTIPLIED = np.concatenate([RGBX[..., :3] // 4, RGBX[..., 3:] // 2 + 64], axis=-1)
EXTRA = {"without meaning": 0, "premultiplied": 1, "alpha": 2}


def twins(folder: Path, pixels: np.ndarray, **tags) -> tuple[torch.Tensor, torch.Tensor]:
    """The same image of 8 and of 16 bits, in [0, 1]."""
    for name, values in (("8.tif", pixels), ("16.tif", pixels.astype(np.uint16) * 257)):
        tifffile.imwrite(folder / name, values, **tags)
    assert read_image(folder / "16.tif").dtype == torch.float32
    assert read_header(folder / "16.tif").deep and not read_header(folder / "8.tif").deep
    return to_float(read_image(folder / "8.tif")), read_image(folder / "16.tif")


@pytest.mark.parametrize("meaning", EXTRA)
def test_a_fourth_band_means_what_its_tag_says(tmp_path: Path, meaning: str):
    pixels = PREMULTIPLIED if meaning == "premultiplied" else RGBX
    tags = {"photometric": "rgb", "extrasamples": [EXTRA[meaning]]}
    shallow, deep = twins(tmp_path, pixels, planarconfig="contig", **tags)
    # Pillow rounds colours that it divides by alpha.
    torch.testing.assert_close(deep, shallow, rtol=0, atol=0.0041 if meaning != "without meaning" else 1e-7)
    if meaning == "premultiplied":
        over_white = pixels[..., :3] / 255 + 1 - pixels[..., 3:] / 255
        torch.testing.assert_close(deep, torch.from_numpy(over_white).float().permute(2, 0, 1))
    planes = pixels.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "planes.tif", planes.astype(np.uint16) * 257, planarconfig="separate", **tags)
    assert read_image(tmp_path / "planes.tif").equal(deep)
    tifffile.imwrite(tmp_path / "planes8.tif", planes, planarconfig="separate", **tags)
    if meaning == "alpha":
        assert to_float(read_image(tmp_path / "planes8.tif")).equal(shallow)
    else:
        with pytest.raises(UserError, match=r"planes with a fourth one|kind of TIFF that"):
            read_header(tmp_path / "planes8.tif")


def test_planes_that_are_cut_off(tmp_path: Path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((3, 70, 90), np.uint16), photometric="rgb", planarconfig="separate", rowsperstrip=9
    )
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:-40])
    for read in (read_header, read_image):
        with pytest.raises(UserError, match=r"a\.tif: expected a complete"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("meaning", EXTRA)
def test_a_second_band_of_greys(tmp_path: Path, meaning: str):
    pixels = np.full((6, 5, 2), (40, 51), np.uint8)
    tags = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [EXTRA[meaning]]}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **tags)
    expected = {"without meaning": 40, "premultiplied": 244, "alpha": 212}[meaning]
    if meaning != "alpha" and int(PIL.__version__.partition(".")[0]) < 13:
        with pytest.raises(UserError, match="a kind of TIFF that cannot be read"):
            read_image(tmp_path / "a.tif")
        return
    assert (read_image(tmp_path / "a.tif").int() - expected).abs().max() <= 1


def test_white_is_zero(tmp_path: Path):
    shallow, deep = twins(tmp_path, RGBX[..., 0], photometric="miniswhite")
    torch.testing.assert_close(deep, shallow)
    torch.testing.assert_close(deep[0], torch.from_numpy(1 - RGBX[..., 0] / 255.0).float())


LAYOUTS = [
    {},
    {"rowsperstrip": 7},
    {"rowsperstrip": 35},  # two strips
    {"tile": (32, 32)},
    {"compression": "zlib", "predictor": True, "rowsperstrip": 11},
    {"compression": "zlib", "tile": (16, 48)},
    {"byteorder": ">", "rowsperstrip": 13},
    {"byteorder": ">", "compression": "zlib", "predictor": True},
    {"bigtiff": True, "tile": (32, 32)},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_planes_of_their_own(tmp_path: Path, layout: dict):
    pixels = np.random.default_rng(1).integers(0, 65536, (3, 70, 90), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="separate", **layout)
    assert read_image(tmp_path / "a.tif").equal(torch.from_numpy(pixels.astype(np.float32) / np.float32(65535)))


def png(colour: int, bits: int, values: np.ndarray, key: list[int]) -> bytes:
    """A PNG of one row with a transparent value."""
    row = b"\0" + values.astype(">u2" if bits == 16 else ">u1").tobytes()
    head = struct.pack(">IIBBBBB", len(values), 1, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", struct.pack(f">{len(key)}H", *key)), (b"IDAT", zlib.compress(row))]
    encoded = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(encoded)


@pytest.mark.parametrize("bits", [8, 16])
def test_transparent_values(tmp_path: Path, bits: int):
    unit = 257 if bits == 16 else 1
    (tmp_path / "grey.png").write_bytes(png(0, bits, np.array([10, 200]) * unit, [10 * unit]))
    (tmp_path / "rgb.png").write_bytes(
        png(2, bits, np.array([[10, 20, 30], [10, 20, 31]]) * unit, [n * unit for n in (10, 20, 30)])
    )
    grey, rgb = (to_float(read_image(tmp_path / f"{name}.png")) * 255 for name in ("grey", "rgb"))
    assert grey[:, 0].round().tolist() == [[255, 200]] * 3
    assert rgb[:, 0].round().tolist() == [[255, 10], [255, 20], [255, 31]]


UNREADABLE = {
    "16-bit pixels of mode CMYK": (np.uint16, 4, {"photometric": "separated"}),
    "kind of TIFF that cannot be read .*of grey or RGB": (np.uint16, 2, {"extrasamples": [2]}),
    "kind of TIFF that": (np.uint16, 5, {"photometric": "rgb", "extrasamples": [0, 0]}),
    "pixels of mode F": (np.float32, 1, {}),
    "pixels of mode I": (np.int16, 1, {}),
    "kind of TIFF": (np.float16, 3, {"photometric": "rgb"}),
}


@pytest.mark.parametrize("message", UNREADABLE)
def test_pixels_that_cannot_be_read_are_found_in_the_header(tmp_path: Path, message: str):
    dtype, n_bands, tags = UNREADABLE[message]
    pixels = np.zeros((6, 5, n_bands) if n_bands > 1 else (6, 5), dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **{"photometric": "minisblack", "planarconfig": "contig", **tags})
    for read in (read_header, read_image):
        with pytest.raises(UserError, match=rf"a\.tif: expected .*{message}"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("start", "kind"), [(b"GIF89a", "a GIF file"), (b"\0\0\0\x18ftypheic", "HEIC or AVIF"), (b"P6\n1 1", "a PPM file")]
)
def test_other_formats_by_another_name(tmp_path: Path, start: bytes, kind: str):
    (tmp_path / "a.png").write_bytes(start + bytes(40))
    for read in (read_header, read_image):
        with pytest.raises(UserError, match=kind):
            read(tmp_path / "a.png")
