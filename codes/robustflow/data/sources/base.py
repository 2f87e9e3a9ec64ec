"""What every dataset mode provides, and pairs of pictures, which most of them are.

A third party adds a mode in one file, named under ``plugins:`` in the YAML file::

    class MyOptions(DatasetOptions):
        mode: Literal["mine"]
        archive: str = Field(description="File to read.")

    @register_source("mine", MyOptions)
    class MySource(Source):
        def __init__(self, archive: str, scale: int) -> None: ...
"""

import functools
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from robustflow.options.schema import DatasetOptions
from robustflow.options.values import LONGEST_NAME
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError, for_all
from robustflow.utils.files import is_utf8

T = TypeVar("T", bound=Callable[..., Any])


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


@dataclass(frozen=True)
class LazyImage:
    """An image that is read when it is asked for.

    Attributes:
        place: Names it in messages.
        size: Height and width, pixels.
        read: Gives (3, height, width), uint8 or float32 in [0, 1].
    """

    place: Path
    size: tuple[int, int]
    read: Callable[[], Tensor]


class Pairs(Source):
    """HR and LR pictures of images, one of the two possibly None, by unique names.

    UserError naming both of each pair whose sizes do not fit the scale, the first five and how many.
    """

    def __init__(
        self, pairs: Sequence[tuple[LazyImage | None, LazyImage | None]], names: Sequence[str], scale: int
    ) -> None:
        self.pairs, self.names, self._scale = list(pairs), list(names), scale
        for_all(self.pairs, lambda pair: self._require_fit(*pair))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the HR image, or of the LR one times scale."""
        hr, lr = self.pairs[index]
        if hr is not None:
            return hr.size
        assert lr is not None, "there is at least one of them"
        return lr.size[0] * self._scale, lr.size[1] * self._scale

    def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        """HR (3, H, W) and LR (3, H // scale, W // scale), or None: uint8 or float32 in [0, 1]."""
        hr, lr = (None if picture is None else picture.read() for picture in self.pairs[index])
        if hr is not None and lr is not None:
            # Sides that were rounded up end with pixels that the HR image covers in part.
            lr = lr[..., : hr.shape[-2] // self._scale, : hr.shape[-1] // self._scale]
        return hr, lr

    def _require_fit(self, hr: LazyImage | None, lr: LazyImage | None) -> None:
        """Raise UserError unless LR sides are HR sides over the scale, rounded down or, by MATLAB, up."""
        scale = self._scale
        if hr is None or lr is None or _fits(hr.size, lr.size, scale):
            return
        (height, width), (found_height, found_width) = hr.size, lr.size
        fitting = [other for other in range(1, 17) if _fits(hr.size, lr.size, other)]
        raise UserError(
            f"{lr.place}: expected {width // scale} x {height // scale} pixels (width x height), 1/{scale} of "
            f"{hr.place} with {width} x {height}, got {found_width} x {found_height}"
            + (f"; scale: {fitting[0]} would fit" if fitting else "")
            + ("; are dataroot_GT and dataroot_LQ exchanged?" if _fits(lr.size, hr.size, scale) else "")
        )


def _fits(hr: tuple[int, int], lr: tuple[int, int], scale: int) -> bool:
    down, up = (tuple(side // (sign * scale) * sign for side in hr) for sign in (1, -1))
    return lr in (down, up)


def register_source(mode: str, options: type[DatasetOptions]) -> Callable[[T], T]:
    """Return a decorator that files a source class (or factory) as dataset mode ``mode``.

    It is called with ``scale`` and the options its mode adds to `DatasetOptions`, by keyword; the options that all
    modes share are dealt with by those who use the source.
    """
    own = set(options.model_fields) - set(DatasetOptions.model_fields)

    def decorate(entry: T) -> T:
        def build(*, scale: int, **values: Any) -> Any:
            return entry(scale=scale, **{key: values[key] for key in own})

        DATASETS.register(mode, options)(functools.update_wrapper(build, entry, updated=()))
        return entry

    return decorate


def require_file_name(name: str) -> None:
    """Raise UserError if files cannot be named after an image, within the folder that they are written to."""
    reason = None
    if re.search(r"[/\\\x00-\x1f\x7f]", name) is not None or name.startswith("."):
        reason = "without '/', '\\', control characters and a dot in front"
    elif not is_utf8(name):
        reason = "in UTF-8"
    elif len(name.encode()) > LONGEST_NAME:
        reason = f"of at most {LONGEST_NAME} bytes, those of sub-folders included"
    if reason is not None:
        raise UserError(f"image {name[:LONGEST_NAME]!r}: expected a name {reason}; results are named so: rename it")
