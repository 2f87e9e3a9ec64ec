"""The reports in a browser: what a reader sees and does."""

import browser
import pytest
import results_folder

from robustflow.commands import compare
from robustflow.report import pages

pytestmark = pytest.mark.skipif(browser.executable() is None, reason="chromium is not installed")
EXPLODING = [("out <b>side</b>", "sub/b")]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report and a comparison."""
    place = tmp_path_factory.mktemp("results")
    one = results_folder.make(place / "one", heats=(0.0, 0.9), exploding=EXPLODING, size=528, ood=True)
    two = results_folder.make(place / "two", "demo/two", heats=(0.0, 0.9), size=528)
    assert compare.main([str(one), str(two), "--output", str(place / "both")]) == 0
    return {"report": pages.write(one), "comparison": place / "both" / "report.html"}


@pytest.fixture(scope="module", params=["report", "comparison"])
def page(request, written, tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.resize(1280, 900)
        opened.open(written[request.param])
        opened.path = written[request.param]
        yield opened


@pytest.fixture(autouse=True)
def closed(page):
    yield
    page.run("document.getElementById('zoom').open && document.getElementById('zoom').close()")
    page.resize(1280, 900)


def is_open(page):
    page.settle()
    return page.run("document.getElementById('zoom').open")


def label(page):
    return page.run("document.getElementById('zoom-label').textContent")


def focus(page, number):
    page.run(f"document.querySelectorAll('.shot')[{number}].focus()")


def test_pictures_decode(page):
    images = page.run("[...document.images].filter(i => i.src).map(i => i.naturalWidth)")
    assert len(images) > 10
    assert min(images) > 0


def test_zoom_by_click(page):
    page.pointer(".shot")
    assert is_open(page)
    assert label(page).startswith("input of ")
    page.key("Escape")
    assert not is_open(page)


def test_zoom_by_keyboard(page):
    focus(page, 0)
    page.key("Enter")
    assert is_open(page)
    first = label(page)
    page.key("ArrowRight")
    assert label(page).startswith("x of " if "x of" in label(page) else "ground truth of ")
    page.key("ArrowLeft")
    assert label(page) == first
    page.key("ArrowLeft")
    assert label(page) != first
    page.key("Escape")
    assert not is_open(page)
    assert page.run("document.activeElement === document.querySelectorAll('.shot')[0]")


def test_magnification(page):
    focus(page, 0)
    page.key("Enter")
    page.settle()
    factor = "Number.parseInt(document.getElementById('zoom-factor').textContent)"
    before = page.run(factor)
    page.key("+")
    page.settle()
    larger = page.run(factor)
    page.key("-")
    page.key("-")
    page.settle()
    assert page.run(factor) < before < larger


def test_crops_follow_the_pointer_together(page):
    focus(page, 0)
    page.key("Enter")
    page.settle()
    crops = "[...document.querySelectorAll('#zoom-crops canvas')].map(c => c.toDataURL())"
    frame = "document.getElementById('zoom-frame').style.left"
    page.pointer("#zoom-picture", 0.2, 0.2, click=False)
    page.settle()
    left, before = page.run(frame), page.run(crops)
    page.pointer("#zoom-picture", 0.8, 0.8, click=False)
    page.settle()
    assert len(before) == page.run("document.querySelector('[data-group]').children.length")
    # The map of standard deviations is the same everywhere.
    changed = [old != new for old, new in zip(before, page.run(crops), strict=True)]
    assert sum(changed) >= len(changed) - 1
    assert page.run(frame) != left
    moved = page.run(frame)
    page.key("ArrowLeft", browser.SHIFT)
    page.settle()
    assert page.run(frame) != moved


def test_tab_stays_within_the_open_zoom(page):
    focus(page, 0)
    page.key("Enter")
    for _ in range(3):
        page.key("Tab")
    assert page.run("document.getElementById('zoom').contains(document.activeElement)")


@pytest.mark.parametrize("zoomed", [False, True], ids=["page", "zoom"])
def test_phone_does_not_scroll_sideways(page, zoomed):
    page.resize(375, 812, mobile=True)
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    if zoomed:
        focus(page, 0)
        page.key("Enter")
        assert is_open(page)
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= 375
    assert page.run("innerWidth") == 375
    assert page.run("document.getElementById('zoom').scrollWidth <= document.getElementById('zoom').clientWidth")


def test_no_complaints_and_nothing_fetched(page):
    # The last test: of all that the others did.
    page.settle()
    assert page.complaints() == []
    assert page.requested() == {page.path.resolve().as_uri()}
