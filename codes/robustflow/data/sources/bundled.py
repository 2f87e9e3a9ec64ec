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
        "astronaut.png",  # 512 x 512
        "hubble_deep_field.jpg",  # 1000 x 872
        "ihc.png",  # 512 x 512
        "motorcycle_left.png",  # 741 x 500
        "retina.jpg",  # 1411 x 1411
        "brick.png",  # 512 x 512, grey
        "grass.png",  # 512 x 512, grey
        "gravel.png",  # 512 x 512, grey
        "moon.png",  # 512 x 512, grey
        "camera.png",  # 512 x 512, grey
    ),
    "test": (
        "chelsea.png",  # 451 x 300
        "coffee.png",  # 600 x 400
        "rocket.jpg",  # 640 x 427
        "coins.png",  # 384 x 303, grey
    ),
    "text": (
        "text.png",  # 448 x 172, grey
        "page.png",  # 384 x 191, grey
        "chessboard_GRAY.png",  # 200 x 200, grey
    ),
}


class BundledOptions(DatasetOptions):
    """Photographs from the scikit-image package."""

    mode: Literal["bundled"]
    split: Literal["train", "test", "text"] = Field(
        "train", description="train: 10 images; test: 4 photographs; text: print and a checkerboard (unlike training)."
    )


@register_source("bundled", BundledOptions)
class BundledSource(Source):
    """HR images of one split (see `SPLITS`), kept in memory once decoded.

    Args:
        split: train, test or text.
        scale: Unused; LR images are made from the HR ones.
    """

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
