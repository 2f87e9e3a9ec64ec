import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from robustflow.data.images import read_header, read_headers, read_image
from robustflow.data.sources.folders import open_folders

RGB = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# Red and green by each other's names.
SWAPPED = SRGB.replace(b"rXYZ", b"?XYZ", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"?XYZ", b"gXYZ", 1)


def grey_profile(gamma: float) -> bytes:
    """sRGB's profile as one of greys, with another exponent in its curve."""
    profile = bytearray(SRGB)
    place = profile.index(b"rTRC")
    (curve,) = struct.unpack_from(">I", profile, place + 4)
    assert profile[curve : curve + 4] == b"para"
    profile[place : place + 4], profile[16:20] = b"kTRC", b"GRAY"
    struct.pack_into(">HHi", profile, curve + 8, 0, 0, int(gamma * 65536))
    return bytes(profile)


def written(file: Path, pixels: np.ndarray, profile: bytes, mode: str = "RGB", **more) -> np.ndarray:
    Image.fromarray(pixels).convert(mode).save(file, icc_profile=profile, **more)
    return read_image(file).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_colours_become_srgb(tmp_path: Path, suffix: str):
    more = {"lossless": True} if suffix == "webp" else {}
    found = written(tmp_path / f"a.{suffix}", RGB, SWAPPED, **more)
    assert np.abs(found.astype(int) - RGB[..., [1, 0, 2]]).max() <= 1
    assert read_header(tmp_path / f"a.{suffix}").note is None


def test_srgb_stays_bit_for_bit(tmp_path: Path):
    assert np.array_equal(written(tmp_path / "a.png", RGB, SRGB), RGB)


def test_greys_become_srgb(tmp_path: Path):
    grey = np.arange(256, dtype=np.uint8)[None]
    linear = written(tmp_path / "a.png", grey, grey_profile(1.0), "L")
    x = grey[0] / 255
    expected = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055) * 255
    assert np.abs(linear[0, :, 1] - expected).max() <= 1
    assert np.array_equal(linear[..., 0], linear[..., 2])


def test_profiles_of_greys_of_16_bits_are_known_as_such(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), RGB[..., 0].astype(np.uint16) * 257)
    add_profile(tmp_path / "a.png", grey_profile(1.0))
    header = read_header(tmp_path / "a.png")
    assert header.deep and not header.converted
    assert header.note == "16 bits and a colour profile other than sRGB, converted in 8 bits only"


def test_palettes_and_transparency_with_a_profile(tmp_path: Path):
    palette = Image.fromarray(RGB).quantize(8)
    palette.save(tmp_path / "p.png", icc_profile=SWAPPED)
    expected = np.asarray(palette.convert("RGB"))[..., [1, 0, 2]].astype(int)
    assert np.abs(read_image(tmp_path / "p.png").permute(1, 2, 0).numpy() - expected).max() <= 1
    rgba = np.array([[[200, 100, 50, 51], [200, 100, 50, 0]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png", icc_profile=SWAPPED)
    found = read_image(tmp_path / "a.png").permute(1, 2, 0).numpy()[0].astype(int)
    assert np.abs(found - [[224, 244, 214], [255, 255, 255]]).max() <= 1


def test_profiles_that_are_not_heeded_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert np.array_equal(written(tmp_path / "damaged.png", RGB, b"x" * 200), RGB)
    grey = RGB[..., 0]
    assert np.array_equal(written(tmp_path / "mixed.png", grey, SWAPPED, "L")[..., 0], grey)
    for name, profile in (("deep", SWAPPED), ("deep2", SWAPPED), ("usual", SRGB)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), RGB.astype(np.uint16) * 257)
        add_profile(tmp_path / f"{name}.png", profile)
    for _ in range(2):
        found = read_headers([tmp_path / f"{name}.png" for name in ("deep", "deep2", "usual", "mixed", "damaged")])
    cannot, deep = sorted(caplog.messages, key=lambda text: "16 bits" in text)[-2:]
    assert "colour profile that cannot be used" in cannot
    assert deep.startswith("2 of 5 images have 16 bits and a colour profile other than sRGB")
    assert "deep.png, " in deep and "deep2.png" in deep
    assert len(caplog.messages) == 3
    assert not any(header.converted for header in found.values())


def test_pairs_of_which_one_image_has_a_profile(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for folder, profile in (("hr", SWAPPED), ("lr", SRGB)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            pixels = np.zeros((8, 8, 3) if folder == "hr" else (2, 2, 3), np.uint8)
            written(tmp_path / folder / f"{name}.png", pixels, profile if name == "a" else SRGB)
    open_folders(str(tmp_path / "hr"), str(tmp_path / "lr"), 4)
    (message,) = caplog.messages
    assert message.startswith("in 1 of 2 pairs one image alone has a colour profile")
    assert "a.png" in message


def add_profile(file: Path, profile: bytes) -> None:
    """Put a profile into a PNG file, behind its first chunk."""
    import zlib

    body = b"iCCP" + b"a\0\0" + zlib.compress(profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = file.read_bytes()
    file.write_bytes(data[:33] + chunk + data[33:])
