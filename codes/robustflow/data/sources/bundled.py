"""Photographs that are installed with scikit-image: training and tests without any download."""

import importlib.metadata
import importlib.resources
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from robustflow.data.images import read_image
from robustflow.data.sources.base import Source, register_source
from robustflow.options.schema import DatasetOptions
from robustflow.utils.errors import UserError

# No scene is in two splits; motorcycle_right is in none, being the stereo partner of motorcycle_left.
SPLITS: dict[str, tuple[str, ...]] = {
    "train": (
        *("astronaut.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg"),
        *("brick.png", "grass.png", "gravel.png", "moon.png", "camera.png"),  # grey
    ),
    "test": ("chelsea.png", "coffee.png", "rocket.jpg", "coins.png"),  # the last one is grey
    "text": ("text.png", "page.png", "chessboard_GRAY.png"),  # grey
}


class BundledOptions(DatasetOptions):
    """Photographs from the scikit-image package."""

    mode: Literal["bundled"]
    split: Literal["train", "test", "text"] = Field(
        "train", description="train: 10 images; test: 4 photographs; text: print and a checkerboard (unlike training)."
    )


@register_source("bundled", BundledOptions)
class BundledSource(Source):
    """HR images of one split (see `SPLITS`), kept in memory once decoded; LR images of any scale are made from them."""

    def __init__(self, split: str, scale: int) -> None:
        self._files = [_locate(file) for file in SPLITS[split]]
        self.names = [file.stem for file in self._files]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width, from the decoded image."""
        height, width = _photograph(self._files[index]).shape[-2:]
        return height, width

    def pair(self, index: int) -> tuple[Tensor, None]:
        """HR (3, h, w) uint8, and None for the LR image."""
        return _photograph(self._files[index]), None


@cache
def _photograph(file: Path) -> Tensor:
    # Of two, colours are Adobe RGB or of printed paper; figures have always been of the values as they are stored.
    return read_image(file, profiles=False)


def _locate(file: str) -> Path:
    path = Path(str(importlib.resources.files("skimage") / "data" / file))
    if not path.is_file():
        version = importlib.metadata.version("scikit-image")
        raise UserError(f"expected the photograph {file} in scikit-image, but version {version} does not contain it")
    return path
