"""One picture that compares models: input, a sample of each, ground truth, row by row."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from robustflow.evaluation.records import heat_key
from robustflow.evaluation.results import read_rows, sample_file
from robustflow.files import write_atomically

TILE, GAP, HEADER, LABEL = 192, 6, 26, 22
INK, PAPER = (20, 20, 20), (255, 255, 255)


class Shown(NamedTuple):
    """One row of the gallery: a data set, an image of it, and the file of each model's sample."""

    dataset: str
    image: str
    samples: tuple[Path, ...]
    residuals: tuple[float, ...]


def choose(folders: Sequence[Path], in_distribution: str, n: int) -> list[Shown]:
    """Choose what to show, the same images for all models.

    Of the data set named ``in_distribution`` n images, evenly spread; of every other the image on which any model
    strays furthest from its input. Of each image and model the sample that strays furthest: the worst, not the best.
    """
    worst = [_worst_samples(folder) for folder in folders]
    shown = []
    for dataset in dict.fromkeys(key[0] for key in worst[0]):
        images = [image for name, image in worst[0] if name == dataset and all((name, image) in w for w in worst)]
        if not images:
            continue
        if dataset == in_distribution:
            images = images[:: max(1, len(images) // n)][:n]
        else:
            images = [max(images, key=lambda image: max(w[dataset, image][0] for w in worst))]
        for image in images:
            found = [w[dataset, image] for w in worst]
            shown.append(Shown(dataset, image, tuple(f[1] for f in found), tuple(f[0] for f in found)))
    return shown


def _worst_samples(folder: Path) -> dict[tuple[str, str], tuple[float, Path]]:
    """For each (data set, image), the largest residual and the PNG of its sample."""
    worst: dict[tuple[str, str], tuple[float, Path]] = {}
    for row in read_rows(folder):
        dataset, image, residual = row["dataset"], row["image"], row["max_residual"]
        if (dataset, image) not in worst or residual > worst[dataset, image][0]:
            file = sample_file(folder, dataset, image, heat_key(row["heat"]), row["sample"])
            worst[dataset, image] = (residual, file)
    return worst


def draw(folders: Sequence[Path], names: Sequence[str], shown: Sequence[Shown], path: Path) -> None:
    """Draw the gallery and write it as PNG, atomically."""
    columns = ["input", *names, "ground truth"]
    width = len(columns) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, HEADER + len(shown) * (TILE + LABEL + GAP) + GAP), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, name in enumerate(columns):
        pen.text((GAP + column * (TILE + GAP), 5), name, INK, font)
    for number, row in enumerate(shown):
        top = HEADER + number * (TILE + LABEL + GAP)
        place = folders[0] / row.dataset
        files = [place / f"{row.image}_lr.png", *row.samples, place / f"{row.image}_gt.png"]
        texts = [row.dataset, *(f"max residual {_text(residual)}" for residual in row.residuals), row.image]
        for column, (file, text) in enumerate(zip(files, texts, strict=True)):
            left = GAP + column * (TILE + GAP)
            pen.text((left, top), text, INK, ImageFont.load_default(12))
            if file.is_file():
                with Image.open(file) as image:
                    sheet.paste(image.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST), (left, top + 18))
    encoded = io.BytesIO()
    sheet.save(encoded, format="PNG", optimize=True)
    write_atomically(path, encoded.getvalue())


def _text(residual: float) -> str:
    return f"{residual:.2g}" if math.isfinite(residual) else "infinite"
