"""The site: built strictly from the repository, and opened in a browser as files."""

import importlib
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import browser
import pytest

NEEDED = ("material", "mkdocstrings", "griffe", "importlinter", "nbclient", "nbconvert", "ipykernel")
if not all(map(importlib.util.find_spec, NEEDED)):
    pytest.skip("pip install -e .[docs]", allow_module_level=True)
griffe, nbclient, nbformat = map(importlib.import_module, ("griffe", "nbclient", "nbformat"))
mkdocs_build, mkdocs_config = (importlib.import_module(f"mkdocs.{name}") for name in ("commands.build", "config"))

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[1]
WIDTHS = (1280, 375)
in_browser = pytest.mark.skipif(browser.executable() is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built; notebooks, which tests of their own execute, without what they print."""
    place = tmp_path_factory.mktemp("site")
    more = {"PYTHONPATH": str(ROOT / "codes"), "EXECUTE_NOTEBOOKS": "false", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return place


@pytest.fixture(scope="module")
def page(site, tmp_path_factory):
    with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def show(page, path, width):
    """Open a page anew, in a window of this width."""
    page.resize(width, 900, mobile=width < 600)
    page.open(path)
    assert page.run("location.pathname") == str(path)
    page.settle()


@in_browser
def test_no_page_scrolls_sideways(site, page):
    paths = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    assert {"index.html", "options.html", "api.html", "exploding_inverse.html"} <= {path.name for path in paths}
    for path in paths:
        show(page, path, WIDTHS[0])
        for width in WIDTHS:
            page.resize(width, 900, mobile=width < 600)
            page.settle()
            assert page.run("document.documentElement.scrollWidth") <= width, path
            assert page.run("innerWidth") == width, path


@in_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_drawing_of_the_packages_can_be_read(site, page, width):
    show(page, site / "architecture.html", width)
    boxes = page.run("[...document.querySelectorAll('.packages rect')].map(r => r.getBoundingClientRect().toJSON())")
    letters = page.run("[...document.querySelectorAll('.packages text')].map(t => t.getBoundingClientRect().toJSON())")
    assert len(boxes) == len(letters) > 20
    for box, text in zip(boxes, letters, strict=True):
        assert box["left"] <= text["left"] and text["right"] <= box["right"]
        assert text["height"] >= 12
    for one, other in ((a, b) for a in boxes for b in boxes if a["top"] == b["top"] and a["left"] < b["left"]):
        assert one["right"] < other["left"]


@in_browser
@pytest.mark.parametrize("width", WIDTHS)
def test_search_finds_pages_without_a_server(site, page, width):
    show(page, site / "index.html", width)
    page.run("document.getElementById('__search').click()")
    page.run("document.querySelector('.md-search__input').focus()")
    for letter in "additionalFlowNoAffine":
        page.key(letter)
    links = "[...document.querySelectorAll('.md-search-result__link')].map(a => new URL(a.href).pathname)"
    deadline = time.monotonic() + 20
    while not (found := page.run(links)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert str(site / "options.html") in found


@in_browser
def test_no_complaints_and_nothing_from_elsewhere(site, page):
    # The last of those in the browser: of all that the others did.
    assert page.complaints() == []
    assert page.requested()
    assert not [url for url in page.requested() if not url.startswith(site.as_uri())]


@pytest.mark.parametrize(
    "text",
    ["[a page](missing.md)", "[a place](#missing)", "[a place](second.md#missing)", "![a picture](missing.png)"],
)
def test_broken_links_end_the_build(tmp_path, text):
    options = {"plugins": [], "hooks": [], "nav": ["index.md", "second.md"], "strict": True}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "second.md").write_text("# Second\n")
    config = mkdocs_config.load_config(
        str(ROOT / "mkdocs.yml"), docs_dir=str(tmp_path / "docs"), site_dir=str(tmp_path / "site"), **options
    )
    (tmp_path / "docs" / "index.md").write_text("# First\n\n[another](second.md#second)\n")
    mkdocs_build.build(config)
    (tmp_path / "docs" / "index.md").write_text(f"# First\n\n{text}\n")
    with pytest.raises(SystemExit):
        mkdocs_build.build(config)


def test_missing_docstrings_are_named(hooks):
    code = 'class A:\n    """Doc."""\n    def told(self):\n        """Doc."""\n'
    code += "    def f(self): ...\n    def _g(self): ...\n"
    package = griffe.visit("package", Path("package.py"), code)
    assert list(hooks.undocumented(package, ["package.A", "package.A.told"])) == ["package.A.f"]


def test_notebooks_are_executed(hooks, tmp_path):
    cells = ["6 * 7", "import matplotlib.pyplot as plt\nplt.plot([1, 4, 9]);"]
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), tmp_path / "one.ipynb"
    )
    pages = hooks.render(tmp_path / "one.ipynb")
    (picture,) = pages.keys() - {"one.md"}
    assert "42" in pages["one.md"] and f"]({picture})" in pages["one.md"]
    assert pages[picture].startswith(b"\x89PNG")
    assert "42" not in hooks.render(tmp_path / "one.ipynb", execute=False)["one.md"]


def test_a_notebook_that_fails_ends_the_build(hooks, tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]), tmp_path / "one.ipynb")
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        hooks.render(tmp_path / "one.ipynb")


def test_links_to_notebooks_lead_to_their_pages(hooks):
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    text = "[a](notebooks/a.ipynb), [b](../notebooks/b.ipynb#c), `jupyter lab d.ipynb`"
    expected = "[a](notebooks/a.md), [b](../notebooks/b.md#c), `jupyter lab d.ipynb`"
    assert hooks.on_page_markdown(text, page=page, config=None, files=None) == expected


def test_drawing_shows_what_is_imported(hooks):
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert hooks.essential(imports) == {"a": {"b"}, "b": {"c"}, "c": set()}
    layers = hooks.read_layers()
    found = hooks.read_imports(layers)
    assert "registry" in found["options"] and "report" not in found["diagnostics"]
    rank = {name: row for row, layer in enumerate(layers) for name in layer}
    assert [a for a in found for b in found[a] if rank[b] < rank[a]] == []
    svg = hooks.draw(layers, hooks.essential(found))
    assert svg.count("marker-end") == sum(map(len, hooks.essential(found).values()))
