"""One picture that compares models: input, a sample of each, ground truth, row by row."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from robustflow.report.pictures import spread_evenly
from robustflow.report.results import Results, names_of, sample_file, worst_row
from robustflow.utils.files import write_atomically

TILE, GAP, HEADER, LABEL = 192, 6, 26, 22
INK, PAPER = (20, 20, 20), (255, 255, 255)


# A data set, an image of it, and what is shown of each model: a sample's file, and a text.
Row = tuple[str, str, list[tuple[Path, str]]]


def choose(runs: Sequence[Results], n: int) -> list[Row]:
    """Choose the rows of the gallery, the same images for all models.

    Of the first data set n images, evenly spread; of every other the image on which any model strays furthest. Of each
    image and model the sample that strays furthest: the worst, not the best; or both schemes, where the protocol has
    them.
    """
    extent = runs[0].protocol.extent
    chosen: list[Row] = []
    for number, dataset in enumerate(runs[0].metrics["datasets"]):
        worst = [run.of_set(dataset).groupby("image", sort=False)[extent].max() for run in runs]
        images = [image for image in worst[0].index if all(image in one for one in worst)]
        if not images:
            continue
        if number == 0:
            images = spread_evenly(images, n)
        else:
            images = [max(images, key=lambda image: max(one[image] for one in worst))]
        chosen += [(dataset, image, _choose_samples(runs, dataset, image)) for image in images]
    return chosen


def _choose_samples(runs: Sequence[Results], dataset: str, image: str) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for run in runs:
        rows, extent = run.of_image(dataset, image), run.protocol.extent
        samples, means = rows[rows.averaged.isna()], rows[rows.averaged.notna()]
        if run.protocol.averages:
            schemes = samples[samples.heat == 0][:1], means.sort_values("heat")[-1:]
            found += [_read_scheme(run.folder, scheme) for scheme in schemes]
        else:
            row = worst_row(samples, extent)
            furthest = f"{row[extent]:.2g}" if math.isfinite(row[extent]) else "infinite"
            found.append((sample_file(run.folder, row), f"max residual {furthest}"))
    return found


def _read_scheme(folder: Path, scheme: pd.DataFrame) -> tuple[Path, str]:
    """File and text of a scheme's row; no file without one."""
    if scheme.empty:
        return Path(), ""
    row = scheme.iloc[0].to_dict()
    psnr = row.get("psnr", math.nan)
    text = "" if math.isnan(psnr) else f"PSNR {psnr:.1f} dB"
    return sample_file(folder, row), text if math.isfinite(row["max_abs"]) else "not finite"


def draw(runs: Sequence[Results], rows: Sequence[Row], path: Path) -> None:
    """Draw the gallery and write it as PNG, atomically."""
    names = names_of(runs)
    if runs[0].protocol.averages:
        names = [f"{name}, scheme {k}" for name in names for k in (1, 2)]
    columns = ["input", *names, "ground truth"]
    width = len(columns) * (TILE + GAP) + GAP
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (TILE + LABEL + GAP) + GAP), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, name in enumerate(columns):
        pen.text((GAP + column * (TILE + GAP), 5), name, INK, font)
    for number, (dataset, image, samples) in enumerate(rows):
        top = HEADER + number * (TILE + LABEL + GAP)
        stem = runs[0].folder / dataset / image
        shown = [(Path(f"{stem}_lr.png"), dataset), *samples, (Path(f"{stem}_gt.png"), image)]
        for column, (file, text) in enumerate(shown):
            left = GAP + column * (TILE + GAP)
            pen.text((left, top), text, INK, ImageFont.load_default(12))
            if file.is_file():
                with Image.open(file) as picture:
                    sheet.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST), (left, top + 18))
    encoded = io.BytesIO()
    sheet.save(encoded, format="PNG", optimize=True)
    write_atomically(path, encoded.getvalue())
