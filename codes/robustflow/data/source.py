"""What every dataset mode provides.

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
from typing import Any, Protocol, TypeVar

from torch import Tensor

from robustflow.options.schema import DatasetOptions
from robustflow.options.values import LONGEST_NAME
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError

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
