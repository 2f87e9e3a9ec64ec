"""What every dataset mode provides, and how a crop of it is cut.

A third party adds a mode in one file, named under ``plugins:`` in the YAML file::

    class MyOptions(DatasetOptions):
        mode: Literal["mine"]
        archive: str = Field(description="File to read.")

    @register_source("mine", MyOptions)
    class MySource(Source):
        def __init__(self, archive: str, scale: int) -> None: ...
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torch import Tensor

from robustflow.data.bicubic import downsample, mirror_pad
from robustflow.data.degrade import Enhancement, enhance
from robustflow.options.schema import DatasetOptions
from robustflow.options.values import LONGEST_NAME
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError

T = TypeVar("T", bound=Callable[..., Any])
Shift = tuple[int, int]  # (down, right) of an HR crop against its LR crop, HR pixels, at most the scale
REACH = 2  # LR pixels around a crop that count: 1.5 for its bicubic LR, 1 HR pixel (at most 0.5) to enhance


class Source(Protocol):
    """Whole images, by index.

    Attributes:
        names: One per image, unique and fit for file names.
    """

    names: Sequence[str]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an HR image (LR times scale if there is none) if known without decoding it."""
        return None

    @abstractmethod
    def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        """HR (3, H, W) and LR (3, h, w) as read, uint8 or float32 in [0, 1]; at least one of them.

        HR None: there is no ground truth. LR None: it is to be made from HR. If both are given, h is H // scale and w
        is W // scale. Not to be changed in place: a source may keep them.
        """


class Joined(Source):
    """Several sources one after the other; an image's name is that of its source, "_", and its own there."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._places = [(source, index) for source in sources.values() for index in range(len(source))]
        self.names = [f"{key}_{name}" for key, source in sources.items() for name in source.names]

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an HR image if known without decoding it."""
        source, own = self._places[index]
        return source.size(own)

    def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        """HR and LR image as the source gives them."""
        source, own = self._places[index]
        return source.pair(own)


def register_source(mode: str, options: type[DatasetOptions]) -> Callable[[T], T]:
    """Return a decorator that files a source class (or factory) as dataset mode ``mode``.

    It is called with ``scale`` and the options its mode adds to `DatasetOptions`, by keyword; the options that all
    modes share are dealt with by those who use the source.
    """
    own = set(options.model_fields) - set(DatasetOptions.model_fields)

    def decorate(entry: T) -> T:
        def build(*, scale: int, **values: Any) -> Any:
            return entry(scale=scale, **{key: values[key] for key in own})

        DATASETS.register(mode, options)(build)
        return entry

    return decorate


@dataclass(frozen=True)
class Box:
    """A rectangle, in LR pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Tensor, factor: int = 1) -> Tensor:
        """Cut the rectangle out of an image (..., h, w) with ``factor`` pixels per unit."""
        rows = slice(self.top * factor, (self.top + self.height) * factor)
        return image[..., rows, self.left * factor : (self.left + self.width) * factor]

    def grown(self, margin: int, height: int, width: int) -> "Box":
        """Return this box with a margin on all sides, as far as an image of (height, width) reaches."""
        top, left = max(self.top - margin, 0), max(self.left - margin, 0)
        bottom = min(self.top + self.height + margin, height)
        right = min(self.left + self.width + margin, width)
        return Box(top, left, bottom - top, right - left)

    def within(self, outer: "Box") -> "Box":
        """Return this box in the coordinates of ``outer``."""
        return Box(self.top - outer.top, self.left - outer.left, self.height, self.width)


def lr_size(hr: Tensor | None, lr: Tensor | None, scale: int) -> tuple[int, int]:
    """Height and width of the LR image of a pair, given or to be made."""
    if lr is not None:
        return lr.shape[-2], lr.shape[-1]
    assert hr is not None, "a source gives HR, LR or both"
    return hr.shape[-2] // scale, hr.shape[-1] // scale


def shifted(image: Tensor, box: Box, scale: int, shift: Shift) -> Tensor:
    """Cut a box (in LR pixels) out of an HR image (..., H, W), away from its place by a shift in HR pixels.

    Beyond the borders pixels are mirrored as the bicubic does it.

    Returns:
        (..., box.height * scale, box.width * scale).
    """
    top, left = box.top * scale + shift[0], box.left * scale + shift[1]
    height, width = box.height * scale, box.width * scale
    right, bottom = left + width - image.shape[-1], top + height - image.shape[-2]
    missing = [max(n, 0) for n in (-left, right, -top, bottom)]
    if any(missing):
        image, top, left = mirror_pad(image, *missing), max(top, 0), max(left, 0)
    return image[..., top : top + height, left : left + width]


def cut_pair(
    hr: Tensor | None,
    lr: Tensor | None,
    box: Box,
    scale: int,
    enhancement: Enhancement | None,
    shift: Shift = (0, 0),
) -> tuple[Tensor | None, Tensor]:
    """Cut a box out of a pair, making the LR image if it is missing.

    HR sides that are no multiples of ``scale`` lose their far end first. The result equals the box cut from the whole
    enhanced HR image and its whole bicubic LR image, at the cost of the box alone. A shift moves the HR crop alone.

    Args:
        hr: (3, H, W), uint8 or floating, or None.
        lr: (3, H // scale, W // scale), or None.
        box: What to cut.
        scale: Super-resolution factor.
        enhancement: Filter of the HR image; the LR image is then made from the filtered one even if ``lr`` is given.
        shift: See `Shift`; mirrored beyond the borders, see `shifted`.

    Returns:
        HR (3, box.height * scale, box.width * scale) or None, and LR (3, box.height, box.width), dtypes as given.
    """
    if hr is None:
        assert lr is not None and enhancement is None, "a source gives HR, LR or both; only HR can be enhanced"
        return None, box.of(lr)
    # Seen from the box, the edges of the larger window are either the image's own or out of reach.
    window = box.grown(REACH, *lr_size(hr, None, scale))
    region, inner = window.of(hr, scale), box.within(window)
    if enhancement is not None:
        region = enhance(region, enhancement)
    small = inner.of(downsample(region, scale)) if lr is None or enhancement is not None else box.of(lr)
    return shifted(region, inner, scale, shift), small


def require_size(name: str, available: tuple[int, int], size: int, scale: int) -> None:
    """Raise UserError if crops of ``size`` do not fit into an HR image of ``available`` (height, width)."""
    height, width = (n // scale * scale for n in available)
    if min(height, width) < size:
        raise UserError(
            f"image '{name}': expected at least {size} x {size} HR pixels (GT_size; the scale for whole images), got "
            f"{width} x {height} (width x height, multiples of {scale}); lower GT_size or leave the image out"
        )


def require_file_name(name: str) -> None:
    """Raise UserError if files cannot be named after an image, within the folder that they are written to."""
    reason = None
    if re.search(r"[/\\\x00-\x1f\x7f]", name) is not None or name.startswith("."):
        reason = "without '/', '\\', control characters and a dot in front"
    elif any("\ud800" <= character <= "\udfff" for character in name):
        reason = "in UTF-8"
    elif len(name.encode()) > LONGEST_NAME:
        reason = f"of at most {LONGEST_NAME} bytes, those of sub-folders included"
    if reason is not None:
        raise UserError(f"image {name[:LONGEST_NAME]!r}: expected a name {reason}; results are named so: rename it")


def require_multiple(size: int, scale: int) -> None:
    """Raise UserError if HR crops of ``size`` have no whole LR crops."""
    if size < scale or size % scale != 0:
        raise UserError(f"expected GT_size as a multiple of the scale {scale}, got {size}")
