"""The example of docs/latent-space.md: images for the commands, and one picture of what they made.

robustflow example images results/latent/images
robustflow example picture results/latent
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from robustflow.commands.arguments import Parser, path
from robustflow.data import BundledSource
from robustflow.data.bicubic import downsample
from robustflow.data.degradations import Noise
from robustflow.data.images import read_image, write_png
from robustflow.report import sheet
from robustflow.utils.answer import answer

SCALE = 4
# Top and left corner in the photograph, height and width.
_CAT, _CUP, _PRINT, _SIZE = (20, 120), (100, 150), (0, 64), (192, 256)
_ASIDE = 4
# The picture: label, file in the results folder, whether to cut it as the cat is cut out of its photograph.
_SHOWN = (
    ("noise 20 of 255", "affine/chelsea_noise_20_degraded.png", True),
    ("its LR image, super-resolved", "affine/chelsea_noise_20_super-resolved_at_0.7.png", True),
    ("restored", "affine/chelsea_noise_20_restored.png", True),
    ("clean", "images/cat.png", False),
    (f"an eye pasted, {_ASIDE} pixels aside", "affine/cat_pasted.png", False),
    ("content transferred", "affine/cat_content.png", False),
    (f"trained with hr_shift {_ASIDE}", "shift/cat_content.png", False),
    ("interpolated, half way", "affine/cat_lr_frame_004.png", False),
    ("the best of 4 samples, PSNR", "affine/cat_lr_best.png", False),
    ("standard deviation of samples", "affine/cat_lr_std.png", False),
    ("style of a cup, affine model", "affine/cat_style.png", False),
    ("style of a cup, spline model", "rq_spline/cat_style.png", False),
    ("a cup", "images/cup.png", False),
    ("style of the cat's eye there, affine", "affine/cup_style.png", False),
    ("the same, spline model", "rq_spline/cup_style.png", False),
    ("style of noise, for one eye", "affine/aside_style.png", False),
    ("latents of the cat, level 1", "affine/cat_latents_1.png", False),
    ("level 2", "affine/cat_latents_2.png", False),
    ("print, unlike training", "images/cat_and_print/print.png", False),
    ("its latents, level 1", "affine/print_latents_1.png", False),
)


def write_images(folder: Path) -> Path:
    """Write crops of bundled photographs: a cat; the same noisy, small, and a few pixels aside; a cup; print."""
    test, text = BundledSource("test", SCALE), BundledSource("text", SCALE)
    cat = _cut(_named(test, "chelsea"), *_CAT)
    images = {
        "cat": cat,
        "aside": _cut(_named(test, "chelsea"), *(corner + _ASIDE for corner in _CAT)),
        "cup": _cut(_named(test, "coffee"), *_CUP),
        "cat_lr": downsample(cat, SCALE),
        "cat_and_print/cat": cat,
        "cat_and_print/print": _cut(_named(text, "page"), *_PRINT),
        "noisy": Noise(20 / 255)(cat, torch.Generator().manual_seed(0)),
    }
    for name, image in images.items():
        write_png(folder / f"{name}.png", image)
    return folder


def write_picture(results: Path) -> Path:
    """Write applications.jpg from what the commands made; UserError if they did not."""
    images = {label: (read_image(results / file), cut) for label, file, cut in _SHOWN}
    shown = {label: _cut(image, *_CAT) if cut else image for label, (image, cut) in images.items()}
    picture = results / "applications.jpg"
    sheet.write(picture, shown, columns=4)
    return picture


def _cut(image: Tensor, top: int, left: int) -> Tensor:
    return image[:, top : top + _SIZE[0], left : left + _SIZE[1]]


def _named(source: BundledSource, name: str) -> Tensor:
    return source.pair(source.names.index(name))[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 2 mistake (see stderr)."""
    parser = Parser(prog="robustflow example", description=__doc__)
    parser.add_argument("what", choices=("images", "picture"), help="what to write")
    parser.add_argument("folder", type=path, help="for the images; or results of the commands")
    chosen = parser.parse_args(arguments)
    write = write_images if chosen.what == "images" else write_picture
    return answer(lambda: print(write(chosen.folder)))  # noqa: T201
