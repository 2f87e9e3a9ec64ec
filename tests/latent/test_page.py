"""Pages of the report that commands write."""

import re

import browser
import pytest
import torch
from html_page import Page

from robustflow.report import pictures
from robustflow.report.application import Album

COMMANDS = {
    "restore": ("--input", "@photo.png"),
    "restore-study": ("--input", "@all", "--degrade", "noise=20", "jpeg=10"),
    "encode": ("--input", "@all"),
    "sample": ("--input", "@lr.png", "--reference", "@hr.png", "--n", "3", "--back-projection", "2"),
    "interpolate": ("--input", "@lr.png", "--frames", "3"),
    "transfer-style": ("--input", "@photo.png", "--reference", "@other.png"),
    "transfer-content": ("--input", "@photo.png", "--reference", "@other.png", "--mask", "@mask.png"),
}
# Entries of the gallery, pictures in all of them, rows of the tables with their headings.
SHOWN = {
    "restore": (1, 2, 2),
    "restore-study": (4, 20, 10),
    "encode": (2, 6, 3),
    "sample": (1, 4, 7),
    "interpolate": (1, 3, 4),
    "transfer-style": (1, 3, 3),
    "transfer-content": (1, 4, 4),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_command_writes_a_page(call, kind):
    status, printed, _, out = call(kind, *COMMANDS[kind])
    assert status == 0
    (file,) = out.glob("*.html")
    assert file.name in printed and file.with_suffix(".json").is_file()
    text = file.read_text()
    page = Page(text)
    assert f"<h1>{kind}</h1>" in text
    counts = (len(page.all("article")), len(page.all("button")) - 5, len(page.all("tr")))
    assert counts == SHOWN[kind]
    assert all(image["src"].startswith("data:image/webp") for image in page.all("img") if "src" in image)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"][1:] for link in page.all("a")} <= set(ids)
    assert re.search(r"(src|href)=.(https?:)?//", text) is None


def test_encodings_are_plotted(call):
    _, _, _, out = call("encode", "--input", "@all")
    text = (out / "all_encode.html").read_text()
    assert len(Page(text).all("svg")) == 4
    assert "two, level 2: mean" in text


def test_pixel_errors_are_marked():
    album = Album()
    image = torch.zeros(3, 8, 8)
    image[0, :2] = 7
    album.add("x", {"fine": torch.zeros(3, 8, 8), "bad": image, "worse": image * torch.nan})
    fine, bad, worse = album.entries[0].shots
    assert (fine.failed, bad.failed, worse.failed) == (False, True, True)
    assert bad.caption == "bad: 25 % of its pixels outside [-0.5, 1.5]"


def test_large_pictures_are_cut_where_they_fail():
    album = Album()
    image = torch.zeros(3, 900, 1200)
    image[:, 840:860, 30:40] = 7
    album.add("x", {"fine": torch.zeros(3, 900, 1200), "bad": image})
    assert "the 256×256 pixels at (0, 644)" in album.entries[0].note
    spread = torch.zeros(3, 900, 1200)
    spread[:, 20:40, 1150:1170] = 0.3
    album.add("y", {"input": spread[:, ::4, ::4], "std of samples": spread})
    assert "the 256×256 pixels at (944, 0)" in album.entries[1].note


def test_settings_are_exact(call):
    _, _, _, out = call("restore", "--input", "@photo.png", "--seed", "20240101", "--temperature", "0.123456")
    text = (out / "photo_restore.html").read_text()
    assert "<dd>20240101</dd>" in text and "<dd>0.123456</dd>" in text


def test_what_chose_the_best_is_told(call):
    _, _, _, out = call("sample", *COMMANDS["sample"])
    assert "The best is that by PSNR to the reference." in (out / "lr_sample.html").read_text()


def test_a_page_holds_so_many_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_IMAGES", 2)
    album = Album()
    for name in "abc":
        for part in ("1", "2"):
            album.add(name, {"x": torch.zeros(3, 8, 8)}, part)
    assert [entry.image for entry in album.entries] == ["a, 1", "a, 2", "b, 1", "b, 2"]
    assert (len(album.shown), len(album.images)) == (2, 3)
    monkeypatch.setattr(pictures.Budget.__init__, "__defaults__", (10,))
    small = Album()
    small.add("a", {"x": torch.rand(3, 64, 64)})
    # Of thousands of images nothing is drawn that is not shown.
    small.plot(lambda: pytest.fail("drawn in vain"))
    assert small.entries == [] and small.plots == []


def test_settings_are_no_markup(call, folder, tmp_path):
    file = tmp_path / "<b>x & y.png"
    file.write_bytes((folder / "photo.png").read_bytes())
    _, _, _, out = call("restore", "--input", str(file))
    text = (out / "<b>x & y_restore.html").read_text()
    assert "<b>x" not in text and "&lt;b&gt;x &amp; y" in text


@pytest.mark.skipif(browser.executable() is None, reason="chromium is not installed")
@pytest.mark.parametrize("kind", ["encode", "sample"])
def test_in_a_browser(call, kind, tmp_path):
    _, _, _, out = call(kind, *COMMANDS[kind])
    (file,) = out.glob("*.html")
    with browser.Browser(tmp_path / "profile") as opened:
        opened.resize(1280, 900)
        opened.open(file)
        assert min(opened.run("[...document.images].filter(i => i.src).map(i => i.naturalWidth)")) > 0
        opened.pointer(".shot")
        opened.settle()
        assert opened.run("document.getElementById('zoom').open")
        opened.key("Escape")
        opened.resize(375, 812, mobile=True)
        opened.settle()
        assert opened.run("document.documentElement.scrollWidth") <= 375
        assert opened.complaints() == []
        assert opened.requested() == {file.resolve().as_uri()}
