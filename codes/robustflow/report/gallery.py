"""One picture that compares models: input, a sample of each, ground truth, row by row."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from robustflow.evaluation.records import heat_key
from robustflow.report.results import Results, extent_key, names_of, read_rows, sample_file
from robustflow.utils.files import write_atomically

TILE, GAP, HEADER, LABEL = 192, 6, 26, 22
INK, PAPER = (20, 20, 20), (255, 255, 255)


class Shown(NamedTuple):
    """One row of the gallery: a data set, an image of it, files of the models' samples, and what is told of each."""

    dataset: str
    image: str
    samples: tuple[Path, ...]
    texts: tuple[str, ...]


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
            texts = tuple(f"max residual {_text(residual)}" for residual, _ in found)
            shown.append(Shown(dataset, image, tuple(file for _, file in found), texts))
    return shown


def schemes(runs: Sequence[Results], chosen: Sequence[Shown]) -> tuple[list[Shown], list[str]]:
    """The same rows with the results of both schemes of each run, where input and output are of one size.

    Returns:
        The rows, and headings of their columns.
    """
    shown, labels = [], [name for run in names_of(runs) for name in (f"{run}, scheme 1", f"{run}, scheme 2")]
    for row in chosen:
        files: list[Path] = []
        texts: list[str] = []
        for run in runs:
            image = next(one for one in run.images[row.dataset] if one.image == row.image)
            heat, mean = max(image.means.items(), key=lambda pair: float(pair[0]), default=("", {}))
            place = run.folder / row.dataset
            files += [sample_file(run.folder, row.dataset, row.image, "0", 0), place / f"{row.image}_t{heat}_mean.png"]
            texts += [_psnr(next(iter(image.at("0")), {})), _psnr(mean)]
        shown.append(row._replace(samples=tuple(files), texts=tuple(texts)))
    return shown, labels


def _psnr(figures: Mapping[str, Any]) -> str:
    if not math.isfinite(figures.get("max_abs", 0)):
        return "not finite"
    return "" if figures.get("psnr") is None else f"PSNR {figures['psnr']:.1f} dB"


def _worst_samples(folder: Path) -> dict[tuple[str, str], tuple[float, Path]]:
    """For each (data set, image), the largest residual and the PNG of its sample."""
    worst: dict[tuple[str, str], tuple[float, Path]] = {}
    for row in read_rows(folder):
        dataset, image = row["dataset"], row["image"]
        residual = row[extent_key(row)]
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
        texts = [row.dataset, *row.texts, row.image]
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
