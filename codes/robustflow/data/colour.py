"""Colour profiles (ICC) that files carry: to sRGB, which is what networks are trained on and PNGs without one mean."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

# Profiles that change no colour by more are sRGB by another maker: their pixels stay as they are, bit for bit.
_SAME = 2  # of 255
# Tables that lcms makes in advance are 10 levels off in dark greys, and coarse for inks.
_PRECISE = {"L": ImageCms.Flags.NOOPTIMIZE, "RGB": ImageCms.Flags(0), "CMYK": ImageCms.Flags.HIGHRESPRECALC}
# What profiles are made for, by Pillow's modes.
_SPACES = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK", "LAB": "LAB"}


def to_srgb(image: Image.Image) -> Image.Image:
    """RGB image, sRGB, of a decoded image of 8 bits per channel; transparency is left out.

    One without a profile, or with one that cannot be used (see `use_of_profile`), is taken as sRGB.
    """
    space = _SPACES.get(image.mode, "RGB")
    profile = image.info.get("icc_profile")
    # La and RGBa: colours were multiplied by alpha, which only their own conversions know.
    plain = image.convert(image.mode.upper()).convert(space) if image.mode in ("La", "RGBa") else image.convert(space)
    transform = _transform(profile, space) if profile and space != "LAB" else None
    if isinstance(transform, ImageCms.ImageCmsTransform):
        return _greys(plain, transform) if space == "L" else transform.apply(plain)
    return plain.convert("RGB")


def use_of_profile(image: Image.Image, *, deep: bool) -> tuple[bool, str | None]:
    """Whether `to_srgb` changes colours, and why not in spite of a profile; (False, None) where there is none, or sRGB.

    Args:
        image: Not necessarily decoded.
        deep: It has 16 bits per channel, which Pillow's colour management does not convert.
    """
    space = _SPACES.get(image.mode, "L" if image.mode.startswith("I") else "RGB")
    profile = image.info.get("icc_profile")
    transform = _transform(profile, space) if profile and space != "LAB" else None
    if isinstance(transform, str):
        return False, f"a colour profile that cannot be used ({transform})"
    if deep and transform is not None:
        return False, "16 bits and a colour profile other than sRGB, converted in 8 bits only"
    return transform is not None, None


def _greys(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """A grey image transformed, each level once."""
    levels = transform.apply(_colours("L")).split()
    return Image.merge("RGB", [image.point(list(level.tobytes())) for level in levels])


@lru_cache(maxsize=32)
def _transform(profile: bytes, space: str) -> ImageCms.ImageCmsTransform | str | None:
    """From a profile to sRGB: None where it is sRGB itself, and why not where the profile cannot be used."""
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(
            given,
            ImageCms.createProfile("sRGB"),
            space,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | _PRECISE[space],
        )
    except (ImageCms.PyCMSError, OSError) as error:
        return str(error)
    if space == "CMYK":
        return transform
    colours = _colours(space)
    change = np.asarray(transform.apply(colours), np.int16) - np.asarray(colours.convert("RGB"), np.int16)
    return transform if np.abs(change).max() > _SAME else None


def _colours(space: str) -> Image.Image:
    """An image of all greys, or of colours all over the cube."""
    if space == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
    return Image.fromarray(np.ascontiguousarray(cube.reshape(18, -1, 3)))
