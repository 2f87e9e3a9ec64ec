"""What else was done with a model: for the screen, as JSON, and as a page of the model's report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from robustflow.evaluation.description import versions
from robustflow.evaluation.metrics.failures import PIXEL_RANGE, outside, pixel_errors
from robustflow.evaluation.records import to_json
from robustflow.models import Model
from robustflow.report import pictures, sheet
from robustflow.report.columns import count
from robustflow.report.pages import render
from robustflow.report.sections import Section
from robustflow.report.tables import align
from robustflow.utils.files import write_atomically

_NOTE = "Grey: N(0, 1). The outermost bins hold all that lies beyond them."


class Outcome(NamedTuple):
    """What was done with a model, and found.

    Attributes:
        about: What was done, a sentence or two.
        tables: Of what was measured, by title: all texts, headings first; the first column names the row.
        figures: The same, and what has no place in a table, for JSON.
    """

    about: str
    tables: Mapping[str, Sequence[Sequence[str]]]
    figures: Mapping[str, Any]

    def text(self) -> str:
        """The tables for the screen, in Markdown."""
        made = {title: align(rows[1:], rows[0], len(rows[0]), "markdown") for title, rows in self.tables.items()}
        return "\n\n".join(f"{title}\n{table}".strip() for title, table in made.items())


class Album:
    """Pictures and plots of a page, embedded as they come while there is room; more are counted, not shown."""

    def __init__(self) -> None:
        self.entries: list[pictures.Exhibit] = []
        self.plots: list[tuple[str, str]] = []
        self.images: set[str] = set()
        self.shown: set[str] = set()
        self._budget = pictures.Budget()
        self._full = False

    def add(self, image: str, shown: Mapping[str, Tensor], part: str = "") -> None:
        """Embed an image's pictures (3, h, w) by their labels; those with pixel errors are marked.

        ``part``: what these are of, if an image has several sets.
        """
        self.images.add(image)
        self._full = self._full or len({*self.shown, image}) > pictures.MAX_IMAGES
        if self._full:
            return
        title = f"{image}, {part}" if part else image
        marked = (outside(one) for one in shown.values() if one.is_floating_point())
        failed = next((pixels for pixels in marked if pixels.any()), None)
        # Crops are taken where the first picture with pixel errors has them.
        guide = None if failed is None else sheet.to_picture(failed.float().expand(3, -1, -1))
        embedded = pictures.embed(title, [_panel(*each) for each in shown.items()], self._budget, guide)
        if embedded is None:
            self._full = True
        else:
            self.entries.append(embedded)
            self.shown.add(image)

    def plot(self, draw: Callable[[], Sequence[tuple[str, str]]]) -> None:
        """Add an image's plots, which are drawn only if the page has its pictures."""
        if not self._full:
            self.plots += draw()


def write(stem: Path, title: str, model: Model, settings: Mapping[str, Any], outcome: Outcome, album: Album) -> None:
    """Write ``stem``.json, what was done and found, and ``stem``.html, the same to look at.

    Args:
        stem: Path without its suffix.
        title: Of the page.
        model: What it was done with.
        settings: How it was done, plain values.
        outcome: What was found.
        album: Pictures and plots.
    """
    found = {
        "application": title,
        "name": model.options.name,
        "weights": str(model.file),
        "settings": dict(settings),
        "versions": versions(model),
        **outcome.figures,
    }
    write_atomically(stem.with_name(f"{stem.name}.json"), to_json(found))
    page = render(
        "application.html.j2",
        title=title,
        facts=[model.options.name, model.file.name, count(len(album.images), "image")],
        about=outcome.about,
        tables=list(outcome.tables.items()),
        entries=album.entries,
        n_shown=len(album.shown),
        n_images=len(album.images),
        plots=[Section("latents", "Latents", _NOTE, [], album.plots)] if album.plots else [],
        settings={key: " ".join(value) if isinstance(value, list) else str(value) for key, value in settings.items()},
        versions={"weights": str(model.file), **versions(model)},
    )
    write_atomically(stem.with_name(f"{stem.name}.html"), page)


def _panel(label: str, image: Tensor) -> pictures.Panel:
    failed = pixel_errors(image) if image.is_floating_point() else 0.0
    caption = f"{label}: {failed:.3g} % of its pixels outside [{PIXEL_RANGE[0]:g}, {PIXEL_RANGE[1]:g}]"
    return pictures.Panel(sheet.to_picture(image), label, caption if failed > 0 else label, failed > 0)
