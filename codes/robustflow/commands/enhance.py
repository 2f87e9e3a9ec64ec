"""Write the enhanced set of a folder of images: robustflow enhance IN OUT."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tqdm import tqdm

from robustflow.commands.arguments import Parser, path
from robustflow.data.degradations import Enhance, Enhancement
from robustflow.data.images import list_images, read_headers, read_image, write_png
from robustflow.utils.answer import answer
from robustflow.utils.errors import UserError
from robustflow.utils.files import require_inside

log = logging.getLogger(__name__)

_EFFECT: dict[Enhancement, str] = {
    "published": "it sums to 2: sharper and twice as bright; --kernel unit keeps the brightness",
    "unit": "it sums to 1: sharper, as bright as before; published figures use --kernel published",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 2 mistake (message on stderr)."""
    parser = Parser(prog="robustflow enhance", description=__doc__)
    parser.add_argument("source", metavar="IN", type=path, help="folder of images, sub-folders included")
    parser.add_argument("target", metavar="OUT", type=path, help="folder for the PNGs, named as the images")
    text = "published: sums to 2, doubles the brightness (default); unit: sums to 1"
    parser.add_argument("--kernel", choices=get_args(Enhancement), default="published", help=text)
    chosen = parser.parse_args(arguments)
    return answer(lambda: enhance_folder(chosen.source, chosen.target, chosen.kernel))


def enhance_folder(source: Path, target: Path, kernel: Enhancement) -> None:
    """Sharpen every image of a folder as in Enhanced Urban100 (see `degradations.Enhance`) and write 8-bit PNGs.

    A data set read from ``target`` has the HR images of one read from ``source`` with ``enhance: <kernel>``. Each PNG
    keeps its image's path below ``source``, suffix aside; files of these names are replaced, each at once.

    UserError if ``source`` has no images, one cannot be read, or a PNG cannot be written where it belongs.
    """
    files = list_images(source)
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: expected a folder for the PNGs, got a file; choose another OUT")
    targets = _targets(files, source, target)
    read_headers(files)
    log.info("kernel %s: %s", kernel, _EFFECT[kernel])
    enhance = Enhance(kernel)
    for file, png in tqdm(list(zip(files, targets, strict=True)), unit="image", leave=False, disable=None):
        write_png(png, enhance(read_image(file)))
    log.info("%d images in %s", len(files), target)


def _targets(files: Sequence[Path], source: Path, target: Path) -> list[Path]:
    """PNG of each image. UserError if two share one, or one would lie among the images that are read."""
    inputs, home = {file.resolve() for file in files}, source.resolve()
    taken: dict[Path, Path] = {}
    for file in files:
        png = target / file.relative_to(source).with_suffix(".png")
        if png.resolve().is_relative_to(home) or png.resolve() in inputs:
            raise UserError(f"{target}: expected a folder apart from {source}, whose images must stay as they are")
        require_inside(target, str(png.parent.relative_to(target)))
        if png in taken:
            raise UserError(f"expected images of distinct names, got {taken[png]} and {file}; rename one")
        taken[png] = file
    return list(taken)
