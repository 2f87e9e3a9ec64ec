"""Which pictures a report shows, and how they become data: URIs within a budget."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image, UnidentifiedImageError

from robustflow.report.columns import cell, column
from robustflow.report.results import Results, sample_file, worst_row
from robustflow.utils.errors import UserError

MAX_IMAGES = 40  # per data set
BUDGET = 25_000_000  # characters of data: URIs in one page
OVERVIEW = 512  # longest side, pixels; larger pictures are shown smaller, and a crop of this many / 2 in full
CROP = OVERVIEW // 2
# What is said of a sample that goes furthest, by the protocol's extent.
FURTHEST = {"max_residual": "the furthest from the input", "max_abs": "with the largest value"}
_LARGEST = {"max_residual": "largest residual", "max_abs": "largest |value|"}


def rank(rows: pd.DataFrame, results: Results) -> Iterator[tuple[str, pd.Series]]:
    """What an image can be worst in, and how bad each image is; larger is worse, NaN takes no part.

    Args:
        rows: Of the samples of a data set.
        results: Knows columns and protocol.
    """
    images, extent = rows.groupby("image", sort=False), results.protocol.extent
    yield _LARGEST[extent], images[extent].max()
    errors = images.pixel_errors.sum()
    # An image without any is not the worst of anything.
    yield "most pixel errors", errors.where(errors > 0)
    for one in results.columns.values():
        if "worst" in one.places and one.key in rows:
            least = one.better == "high"
            badness = -images[one.key].min() if least else images[one.key].max()
            yield f"{'lowest' if least else 'highest'} {one.label}", badness
    yield "highest OOD score", images.ood.first()


def choose(rows: pd.DataFrame, results: Results, limit: int = MAX_IMAGES) -> dict[str, tuple[str, ...]]:
    """The worst image by each criterion, and what it is the worst of; then others, evenly spread; at most ``limit``."""
    reasons: dict[str, list[str]] = {}
    for label, badness in rank(rows, results) if len(rows) else ():
        if badness.notna().any():
            # The first of equals.
            reasons.setdefault(badness.idxmax(), []).append(label)
    others = [name for name in rows.image.unique() if name not in reasons]
    names = [*reasons, *spread_evenly(others, limit - len(reasons))][:limit]
    return {name: tuple(reasons.get(name, ())) for name in names}


def spread_evenly(names: Sequence[str], n: int) -> list[str]:
    """At most n of the names, evenly spread."""
    n = min(n, len(names))
    return [names[k * len(names) // n] for k in range(n)]


# A picture's file, what it shows, and what is known of it: its label, caption and whether it has pixel errors.
Part = tuple[Path, str, str, bool]


class Panel(NamedTuple):
    """A picture to embed, and what is known of it."""

    image: Image.Image
    label: str
    caption: str
    failed: bool = False


class Shot(NamedTuple):
    """An embedded picture; size in pixels as embedded."""

    src: str
    label: str
    caption: str
    failed: bool
    width: int
    height: int


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery.

    Attributes:
        shots: Whole pictures, looked at together.
        crops: Crops of them in full resolution, where the pictures themselves are embedded smaller.
        note: How the pictures were changed, which crop.
        facts: Figures of the image.
    """

    image: str
    reasons: tuple[str, ...]
    shots: tuple[Shot, ...]
    crops: tuple[Shot, ...] = ()
    note: str = ""
    facts: str = ""


@dataclass
class Budget:
    """Characters that may still be embedded."""

    left: int = BUDGET

    def take(self, shots: Iterable[Shot]) -> bool:
        """Take what the shots need; whether there was enough."""
        needed = sum(len(shot.src) for shot in shots)
        if needed > self.left:
            return False
        self.left -= needed
        return True


def list_parts(results: Results, dataset: str, image: str) -> list[Part]:
    """Files of an image: input, schemes, ground truth, maps, all samples at one temperature, the first at the others.

    Files that do not exist are left out. The temperature is that of the sample that goes furthest; where schemes are
    shown, that of scheme 1 has no other sample.
    """
    protocol, rows, place = results.protocol, results.of_image(dataset, image), results.folder / dataset
    samples = rows[rows.averaged.isna()]
    if protocol.averages and (samples.heat > 0).any():
        samples = samples[samples.heat > 0]
    heat = worst_row(samples, protocol.extent)["tau"]
    of_heat = samples[samples.tau == heat]
    parts = [
        (place / f"{image}_lr.png", "input", protocol.input, False),
        *(list_schemes(results, dataset, image) if protocol.averages else []),
        (place / f"{image}_gt.png", "ground truth", "ground truth", False),
    ]
    if (of_heat.pixel_errors > 0).any():
        text = f"white: a pixel error in at least one of {len(of_heat)} samples, τ = {heat}"
        parts.append((place / f"{image}_t{heat}_mask.png", "pixel errors", text, True))
    text = f"standard deviation over the finite samples, white: a quarter of the range, τ = {heat}"
    parts.append((place / f"{image}_t{heat}_std.png", "std of samples", text, False))
    names = ("output" if protocol.deterministic else f"sample {number}" for number in of_heat["sample"])
    parts += [_sample(results, row, name) for row, name in zip(of_heat.to_dict("records"), names, strict=True)]
    for other in results.heats:
        first = samples[samples.tau == other][:1] if other != heat else samples[:0]
        parts += [_sample(results, row, f"sample {row['sample']}, τ = {other}") for row in first.to_dict("records")]
    return [part for part in parts if part[0].is_file()]


def list_schemes(results: Results, dataset: str, image: str) -> list[Part]:
    """Scheme 1, the sample at temperature 0, and scheme 2, the mean of the samples of each other temperature."""
    rows = results.of_image(dataset, image)
    first = rows[rows.averaged.isna() & (rows.tau == "0")][:1]
    parts = [_sample(results, row, "scheme 1, τ = 0") for row in first.to_dict("records")]
    for row in rows[rows.averaged.notna()].to_dict("records"):
        label = f"scheme 2, mean of {row['sample']}, τ = {row['tau']}"
        parts.append(_sample(results, row, label, label))
    return [part for part in parts if part[0].is_file()]


def _sample(results: Results, row: Mapping[str, Any], label: str, name: str | None = None) -> Part:
    return sample_file(results.folder, row), label, describe_row(row, results, name), row["pixel_errors"] > 0


def read(parts: Sequence[Part]) -> list[Panel]:
    """The pictures themselves. UserError if a file is damaged."""
    return [Panel(_open(part[0]), *part[1:]) for part in parts]


def describe_row(row: Mapping[str, Any], results: Results, name: str | None = None) -> str:
    """The figures of a sample, or of what has another name, in one line."""
    if name is None:
        name = "output" if results.protocol.deterministic else f"sample {row['sample']}, τ = {row['tau']}"
    facts = [name, _extent(row, results)]
    for one in results.columns.values():
        if "captions" in one.places and not math.isnan(row.get(one.key, math.nan)):
            facts.append(f"{one.label} {cell(row[one.key])}{one.unit and ' ' + one.unit}")
    if row["pixel_errors"] > 0:
        facts.append(f"{row['pixel_errors']} of {row['n_pixels']} pixels in error")
    return ", ".join(facts)


def _extent(row: Mapping[str, Any], results: Results) -> str:
    """How far a sample goes."""
    key = results.protocol.extent
    return f"{column(results.columns, key).label} {cell(row[key])}"


def embed(
    name: str,
    panels: Sequence[Panel],
    budget: Budget,
    guide: Image.Image | None = None,
    reasons: tuple[str, ...] = (),
    facts: str = "",
) -> Exhibit | None:
    """Embed an image's pictures: with crops in full resolution, else without them, else None.

    ``guide``: crops are taken where it is brightest; None: where pixel errors are, or samples differ most.
    """
    shots = tuple(_encode(panel) for panel in panels)
    width, height = max((panel.image.size for panel in panels), key=max)
    note = ""
    if max(width, height) > OVERVIEW:
        box = _place_crop(panels, guide)
        note = f"Whole pictures are shown smaller than they are ({width}×{height})"
        crops = tuple(_encode(panel._replace(image=_crop(panel.image, box, (width, height)))) for panel in panels)
        if budget.take([*shots, *crops]):
            size = f"{box[2] - box[0]}×{box[3] - box[1]}"
            note += f"; below them the {size} pixels at ({box[0]}, {box[1]}) in full resolution."
            return Exhibit(name, reasons, shots, crops, note, facts)
        note += "; no space for a crop in full resolution."
    return Exhibit(name, reasons, shots, (), note, facts) if budget.take(shots) else None


def galleries(
    sets: Mapping[str, pd.DataFrame],
    results: Results,
    parts_of: Callable[[str, str], Sequence[Part]],
    budget: Budget,
) -> dict[str, dict[str, Any]]:
    """Galleries of several data sets, for the template; they share a budget, the worst images of all come first.

    Args:
        sets: Rows of the samples of each data set.
        results: Knows columns and protocol.
        parts_of: Pictures of (data set, image).
        budget: Of the page.
    """
    found: dict[str, list[Exhibit]] = {name: [] for name in sets}
    without = set(sets)
    for name, image, reasons in _take_turns({name: choose(rows, results) for name, rows in sets.items()}):
        parts = parts_of(name, image)
        if not parts:
            continue
        without.discard(name)
        facts = _describe_image(sets[name][sets[name].image == image], results)
        exhibit = embed(image, read(parts), budget, None, reasons, facts)
        if exhibit is None:
            break
        found[name].append(exhibit)
    return {
        name: {
            "worst": [one for one in exhibits if one.reasons],
            "others": [one for one in exhibits if not one.reasons],
            "n_shown": len(exhibits),
            "n_images": sets[name].image.nunique(),
            "no_pictures": name in without,
        }
        for name, exhibits in found.items()
    }


def _take_turns(chosen: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for k in range(max((len(images) for images in chosen.values()), default=0)):
        for name, images in chosen.items():
            if k < len(images):
                image = list(images)[k]
                yield name, image, images[image]


def _describe_image(rows: pd.DataFrame, results: Results) -> str:
    facts = [_extent(worst_row(rows, results.protocol.extent), results)]
    for one in results.columns.values():
        if "worst" in one.places and one.better == "high" and one.key in rows and rows[one.key].notna().any():
            facts.append(f"{one.label} min {cell(rows[one.key].min())}{one.unit and ' ' + one.unit}")
    failed = int((rows.pixel_errors > 0).sum())
    if failed > 0:
        facts.append(f"pixel errors in {failed} of {len(rows)} samples")
    if rows.ood.notna().any():
        facts.append(f"OOD score {cell(rows.ood.iloc[0])}")
    return ", ".join(facts)


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: expected a complete PNG, got a damaged file; run test.py again") from error


def _encode(panel: Panel) -> Shot:
    image, small = panel.image, max(panel.image.size) <= OVERVIEW
    if not small:
        image = image.copy()
        image.thumbnail((OVERVIEW, OVERVIEW), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, format="WEBP", lossless=small, quality=60 if small else 85, method=2)
    src = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return Shot(src, panel.label, panel.caption, panel.failed, *image.size)


def _place_crop(panels: Sequence[Panel], guide: Image.Image | None) -> tuple[int, int, int, int]:
    """The crop of the largest picture: around the pixel errors, else where samples differ most, else the middle."""
    width, height = max((panel.image.size for panel in panels), key=max)
    guides = {panel.label: panel.image for panel in panels}
    if guide is None:
        guide = guides.get("pixel errors", guides.get("std of samples"))
    x, y = (0.5, 0.5) if guide is None else _brightest(guide)
    left, right = _span(x * width, width)
    top, bottom = _span(y * height, height)
    return left, top, right, bottom


def _span(centre: float, full: int) -> tuple[int, int]:
    """An interval of a crop's length around the centre, within 0..full."""
    length = min(CROP, full)
    start = round(min(max(0.0, centre - length / 2), full - length))
    return start, start + length


def _brightest(picture: Image.Image) -> tuple[float, float]:
    """Centre of the brightest tile of about half a crop's side, relative to the size."""
    width, height = picture.size
    columns, rows = (max(1, math.ceil(2 * side / CROP)) for side in (width, height))
    tiles = picture.convert("L").resize((columns, rows), Image.Resampling.BOX)
    values = tiles.tobytes()
    best = values.index(max(values))
    return (best % columns + 0.5) / columns, (best // columns + 0.5) / rows


def _crop(picture: Image.Image, box: tuple[int, int, int, int], full: tuple[int, int]) -> Image.Image:
    """The part of a picture that shows what ``box`` shows of one of size ``full``."""
    x, y = picture.width / full[0], picture.height / full[1]
    left, top = math.floor(box[0] * x), math.floor(box[1] * y)
    right, bottom = max(left + 1, math.ceil(box[2] * x)), max(top + 1, math.ceil(box[3] * y))
    return picture.crop((left, top, right, bottom))
