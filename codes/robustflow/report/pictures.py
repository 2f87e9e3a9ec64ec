"""Which pictures a report shows, and how they become data: URIs within a budget."""

import base64
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from robustflow.evaluation.records import heat_key
from robustflow.report.columns import cell, column
from robustflow.report.results import ImageResult, Row, extent_key, sample_file
from robustflow.utils.errors import UserError

MAX_IMAGES = 40  # per data set
BUDGET = 25_000_000  # characters of data: URIs in one page
OVERVIEW = 512  # longest side, pixels; larger pictures are shown smaller, and a crop of this many / 2 in full
CROP = OVERVIEW // 2
Box = tuple[int, int, int, int]


class Criterion(NamedTuple):
    """What an image can be worst in; a larger value is worse, None takes no part."""

    label: str
    badness: Callable[[ImageResult], float | None]


def _most(key: str) -> Callable[[ImageResult], float | None]:
    return lambda image: max(image.values(key), default=None)


def _least(key: str) -> Callable[[ImageResult], float | None]:
    return lambda image: max((-value for value in image.values(key)), default=None)


def _pixel_errors(image: ImageResult) -> float | None:
    # An image without any is not the worst of anything.
    return sum(image.values("pixel_errors")) or None


def _residual(image: ImageResult) -> float | None:
    return None if image.same_size else _most("max_residual")(image)


def _value(image: ImageResult) -> float | None:
    return _most("max_abs")(image) if image.same_size else None


CRITERIA = (
    Criterion("largest residual", _residual),
    Criterion("largest |value|", _value),
    Criterion("most pixel errors", _pixel_errors),
    Criterion("lowest LR-PSNR", _least("lr_psnr")),
    Criterion("lowest PSNR", _least("psnr")),
    Criterion("highest LPIPS", _most("lpips")),
    Criterion("highest OOD score", lambda image: image.ood),
)


class Chosen(NamedTuple):
    """An image of the gallery and what it is the worst of."""

    result: ImageResult
    reasons: tuple[str, ...]


def choose(images: Sequence[ImageResult], limit: int = MAX_IMAGES) -> list[Chosen]:
    """The worst image by each criterion, then others, evenly spread; at most ``limit``."""
    reasons: dict[str, list[str]] = {}
    by_name = {image.image: image for image in images}
    for criterion in CRITERIA:
        known = [(value, image.image) for image in images if (value := criterion.badness(image)) is not None]
        if known:
            # The first of equals.
            worst = max(known, key=lambda pair: pair[0])[1]
            reasons.setdefault(worst, []).append(criterion.label)
    others = [name for name in by_name if name not in reasons]
    names = [*reasons, *_spread(others, limit - len(reasons))][:limit]
    return [Chosen(by_name[name], tuple(reasons.get(name, ()))) for name in names]


def _spread(names: Sequence[str], n: int) -> list[str]:
    if n <= 0 or not names:
        return []
    n = min(n, len(names))
    return [names[k * len(names) // n] for k in range(n)]


class Part(NamedTuple):
    """A picture to embed: its file, what it shows, and what is known of it."""

    file: Path
    label: str
    caption: str
    failed: bool = False

    def opened(self) -> "Picture":
        """The picture itself. UserError if the file is damaged."""
        return Picture(_open(self.file), self.label, self.caption, self.failed)


class Picture(NamedTuple):
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
class Entry:
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


@dataclass
class Gallery:
    """The shown images of a data set, how many it has, and whether any of them has pictures."""

    n_images: int
    entries: list[Entry] = field(default_factory=list)
    no_pictures: bool = True

    @property
    def worst(self) -> list[Entry]:
        """Those that are the worst of something."""
        return [entry for entry in self.entries if entry.reasons]

    @property
    def others(self) -> list[Entry]:
        """Those that are not."""
        return [entry for entry in self.entries if not entry.reasons]


def parts_of(folder: Path, result: ImageResult, heats: Sequence[str]) -> list[Part]:
    """Files of an image: input, ground truth, maps, all samples at one temperature, the first at the others.

    Files that do not exist are left out. The temperature is the one of the largest residual.
    """
    place, image = folder / result.dataset, result.image
    main = worst_row(result)
    heat = heat_key(main["heat"])
    rows = result.at(heat)
    parts = [
        Part(place / f"{image}_lr.png", "input", "low-resolution input"),
        Part(place / f"{image}_gt.png", "ground truth", "ground truth"),
    ]
    if any(row["pixel_errors"] > 0 for row in rows):
        text = f"white: a pixel error in at least one of {len(rows)} samples, τ = {heat}"
        parts.append(Part(place / f"{image}_t{heat}_mask.png", "pixel errors", text, failed=True))
    text = f"standard deviation over the finite samples, white: a quarter of the range, τ = {heat}"
    parts.append(Part(place / f"{image}_t{heat}_std.png", "std of samples", text))
    parts += [_sample(folder, result, row, f"sample {row['sample']}") for row in rows]
    for other in heats:
        first = result.at(other)[:1] if other != heat else []
        parts += [_sample(folder, result, row, f"sample {row['sample']}, τ = {other}") for row in first]
    return [part for part in parts if part.file.is_file()]


def parts_of_enhanced(folder: Path, result: ImageResult, heats: Sequence[str]) -> list[Part]:
    """As `parts_of`, where input and output are of one size: scheme 1 (temperature 0) and 2 (mean) after the input."""
    warm = replace(result, rows=tuple(row for row in result.rows if row["heat"] > 0) or result.rows)
    parts = parts_of(folder, warm, [heat for heat in heats if float(heat) > 0])
    schemes = []
    if "0" in heats:
        schemes += [_sample(folder, result, row, "scheme 1, τ = 0") for row in result.at("0")[:1]]
    for heat, row in result.means.items():
        file = folder / result.dataset / f"{result.image}_t{heat}_mean.png"
        label = f"scheme 2, mean of {row['sample']}, τ = {heat}"
        schemes.append(Part(file, label, facts_of(row, label), failed=row["pixel_errors"] > 0))
    schemes = [part for part in schemes if part.file.is_file()]
    drawn = [part for part in parts if part.file not in {scheme.file for scheme in schemes}]
    first = sum(part.label == "input" for part in drawn)
    return [*(part._replace(caption=part.label) for part in drawn[:first]), *schemes, *drawn[first:]]


def worst_row(result: ImageResult) -> Row:
    """The sample furthest from its input; of equals, such as infinite ones, the first at the highest temperature.

    Where samples are meant to be far from the input, the one with the largest value.
    """
    return max(result.rows, key=lambda row: (row[extent_key(row)], row["heat"]))


def _sample(folder: Path, result: ImageResult, row: Row, label: str) -> Part:
    file = sample_file(folder, result.dataset, result.image, heat_key(row["heat"]), row["sample"])
    return Part(file, label, facts_of(row), failed=row["pixel_errors"] > 0)


def facts_of(row: Row, name: str | None = None) -> str:
    """The figures of a sample, or of what has another name, in one line."""
    units: tuple[tuple[str, str, str], ...] = (("psnr", "PSNR", " dB"), ("psnr_gtmean", "PSNR GT-mean", " dB"))
    units += (("ssim", "SSIM", ""), ("lpips", "LPIPS", ""), ("lr_psnr", "LR-PSNR", " dB"))
    facts = [f"{label} {cell(row[key])}{unit}" for key, label, unit in units if row.get(key) is not None]
    if row["pixel_errors"] > 0:
        facts.append(f"{row['pixel_errors']} of {row['n_pixels']} pixels in error")
    sample = f"sample {row['sample']}, τ = {heat_key(row['heat'])}" if name is None else name
    return ", ".join([sample, _extent([row]), *facts])


def _extent(rows: Sequence[Row]) -> str:
    """How far samples go at most."""
    key = extent_key(rows[0])
    return f"{column(key).label} {cell(max(row[key] for row in rows))}"


def entry(
    name: str,
    pictures: Sequence[Picture],
    budget: Budget,
    guide: Image.Image | None = None,
    reasons: tuple[str, ...] = (),
    facts: str = "",
) -> Entry | None:
    """Embed an image's pictures: with crops in full resolution, else without them, else None.

    ``guide``: crops are taken where it is brightest; None: where pixel errors are, or samples differ most.
    """
    shots = tuple(_shot(picture) for picture in pictures)
    width, height = max((picture.image.size for picture in pictures), key=max)
    note = ""
    if max(width, height) > OVERVIEW:
        box = _box(pictures, guide)
        note = f"Whole pictures are shown smaller than they are ({width}×{height})"
        crops = tuple(_shot(picture._replace(image=_crop(picture.image, box, (width, height)))) for picture in pictures)
        if budget.take([*shots, *crops]):
            size = f"{box[2] - box[0]}×{box[3] - box[1]}"
            note += f"; below them the {size} pixels at ({box[0]}, {box[1]}) in full resolution."
            return Entry(name, reasons, shots, crops, note, facts)
        note += "; no space for a crop in full resolution."
    return Entry(name, reasons, shots, (), note, facts) if budget.take(shots) else None


def galleries(
    sets: Mapping[str, Sequence[ImageResult]], parts_of_image: Callable[[ImageResult], Sequence[Part]], budget: Budget
) -> dict[str, Gallery]:
    """Galleries of several data sets that share a budget; the worst images of all of them come first."""
    found = {name: Gallery(len(images)) for name, images in sets.items()}
    for name, chosen in _in_turn({name: choose(images) for name, images in sets.items()}):
        parts = parts_of_image(chosen.result)
        if not parts:
            continue
        found[name].no_pictures = False
        shown, facts = [part.opened() for part in parts], _facts_of_image(chosen.result)
        made = entry(chosen.result.image, shown, budget, None, chosen.reasons, facts)
        if made is None:
            break
        found[name].entries.append(made)
    return found


def _in_turn(chosen: Mapping[str, Sequence[Chosen]]) -> Iterator[tuple[str, Chosen]]:
    for k in range(max((len(images) for images in chosen.values()), default=0)):
        for name, images in chosen.items():
            if k < len(images):
                yield name, images[k]


def _facts_of_image(result: ImageResult) -> str:
    facts = [_extent(result.rows)]
    for key, label in (("lr_psnr", "LR-PSNR min"), ("psnr", "PSNR min")):
        if values := result.values(key):
            facts.append(f"{label} {cell(min(values))} dB")
    failed = sum(row["pixel_errors"] > 0 for row in result.rows)
    if failed > 0:
        facts.append(f"pixel errors in {failed} of {len(result.rows)} samples")
    if result.ood is not None:
        facts.append(f"OOD score {cell(result.ood)}")
    return ", ".join(facts)


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: expected a complete PNG, got a damaged file; run test.py again") from error


def _shot(picture: Picture) -> Shot:
    image, small = picture.image, max(picture.image.size) <= OVERVIEW
    if not small:
        image = image.copy()
        image.thumbnail((OVERVIEW, OVERVIEW), Image.Resampling.LANCZOS)
    return Shot(data_uri(image, lossless=small), picture.label, picture.caption, picture.failed, *image.size)


def _box(pictures: Sequence[Picture], guide: Image.Image | None) -> Box:
    """The crop of the largest picture: around the pixel errors, else where samples differ most, else the middle."""
    width, height = max((picture.image.size for picture in pictures), key=max)
    guides = {picture.label: picture.image for picture in pictures}
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


def _crop(picture: Image.Image, box: Box, full: tuple[int, int]) -> Image.Image:
    """The part of a picture that shows what ``box`` shows of one of size ``full``."""
    x, y = picture.width / full[0], picture.height / full[1]
    left, top = math.floor(box[0] * x), math.floor(box[1] * y)
    right, bottom = max(left + 1, math.ceil(box[2] * x)), max(top + 1, math.ceil(box[3] * y))
    return picture.crop((left, top, right, bottom))


def data_uri(picture: Image.Image, *, lossless: bool) -> str:
    """A picture as a data: URI, WebP."""
    encoded = io.BytesIO()
    picture.save(encoded, format="WEBP", lossless=lossless, quality=60 if lossless else 85, method=2)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
