"""One picture that compares models: input, a sample of each, ground truth, row by row."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from robustflow.report.results import Results, names_of, sample_file, worst_row
from robustflow.utils.files import write_atomically

TILE, GAP, HEADER, LABEL = 192, 6, 26, 22
INK, PAPER = (20, 20, 20), (255, 255, 255)


class Shown(NamedTuple):
    """One row of the gallery: a data set, an image of it, files of the models' samples, and what is said of each."""

    dataset: str
    image: str
    samples: tuple[Path, ...]
    texts: tuple[str, ...]


def choose(runs: Sequence[Results], n: int) -> list[Shown]:
    """Choose what to show, the same images for all models.

    Of the first data set n images, evenly spread; of every other the image on which any model strays furthest. Of each
    image and model the sample that strays furthest: the worst, not the best; or both schemes, where the protocol has
    them.
    """
    extent, shown = runs[0].protocol.extent, []
    for number, dataset in enumerate(runs[0].metrics["datasets"]):
        worst = [run.of_set(dataset).groupby("image", sort=False)[extent].max() for run in runs]
        images = [image for image in worst[0].index if all(image in one for one in worst)]
        if not images:
            continue
        if number == 0:
            images = images[:: max(1, len(images) // n)][:n]
        else:
            images = [max(images, key=lambda image: max(one[image] for one in worst))]
        shown += [_show(runs, dataset, image) for image in images]
    return shown


def _show(runs: Sequence[Results], dataset: str, image: str) -> Shown:
    found: list[tuple[Path, str]] = []
    for run in runs:
        rows, extent = run.of_image(dataset, image), run.protocol.extent
        samples, means = rows[rows.averaged.isna()], rows[rows.averaged.notna()]
        if run.protocol.averages:
            schemes = samples[samples.heat == 0][:1], means.sort_values("heat")[-1:]
            found += [_show_scheme(run.folder, scheme) for scheme in schemes]
        else:
            row = worst_row(samples, extent)
            found.append((sample_file(run.folder, row), f"max residual {_text(row[extent])}"))
    files, texts = zip(*found, strict=True)
    return Shown(dataset, image, files, texts)


def _show_scheme(folder: Path, scheme: pd.DataFrame) -> tuple[Path, str]:
    """File and text of a scheme's row; no file without one."""
    rows = scheme.to_dict("records")
    return (sample_file(folder, rows[0]), _psnr(rows[0])) if rows else (Path(), "")


def _psnr(row: Mapping[str, Any]) -> str:
    if not math.isfinite(row["max_abs"]):
        return "not finite"
    value = row.get("psnr", math.nan)
    return "" if math.isnan(value) else f"PSNR {value:.1f} dB"


def draw(runs: Sequence[Results], shown: Sequence[Shown], path: Path) -> None:
    """Draw the gallery and write it as PNG, atomically."""
    names = names_of(runs)
    if runs[0].protocol.averages:
        names = [f"{name}, scheme {k}" for name in names for k in (1, 2)]
    columns = ["input", *names, "ground truth"]
    width = len(columns) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, HEADER + len(shown) * (TILE + LABEL + GAP) + GAP), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, name in enumerate(columns):
        pen.text((GAP + column * (TILE + GAP), 5), name, INK, font)
    for number, row in enumerate(shown):
        top = HEADER + number * (TILE + LABEL + GAP)
        place = runs[0].folder / row.dataset
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
