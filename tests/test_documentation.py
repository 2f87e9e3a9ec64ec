"""Pages that people and two renderers can read: links lead somewhere, lists are lists, figures stand in one place."""

import re
import unicodedata
from collections import defaultdict
from itertools import pairwise

import pytest
import readme

DOCS = readme.ROOT / "docs"
BESIDE = [
    readme.ROOT / name
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "datasets/README.md", "pretrained_weights/README.md")
]
# What begins a block that Python-Markdown sees only after an empty line.
_BEGINS = r"[-*] |\d+\. |\||```"


def _name(page):
    return str(page.relative_to(readme.ROOT))


def _prose(page):
    """Text without blocks, code and what is measured nowhere: addresses."""
    return re.sub(r"`[^`]*`", "", readme.prose(page))


def _links(page):
    return re.findall(r"\]\(([^)\s]+)\)", _prose(page))


def _slug_of_github(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _slug_of_mkdocs(heading):
    text = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip())


def _anchors(page):
    """Anchors that are the same in both places."""
    headings = [line.replace("`", "") for line in re.findall(r"^#+ (.*)$", readme.prose(page), re.MULTILINE)]
    return {_slug_of_github(heading) for heading in headings} & {_slug_of_mkdocs(heading) for heading in headings}


def test_readme_is_short():
    assert len((readme.ROOT / "README.md").read_text().splitlines()) <= 170


@pytest.mark.parametrize("page", readme.PAGES[1:], ids=_name)
def test_a_page_begins_with_what_it_is_for(page):
    assert re.match(r"# .+\n\nAfter reading this page you (can|know) ", page.read_text())


@pytest.mark.parametrize("page", [*readme.PAGES, *BESIDE], ids=_name)
def test_links_lead_somewhere(page):
    for link in _links(page):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert page.parent != DOCS or DOCS in target.parents, f"{link}: not on the site"
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("page", readme.PAGES, ids=_name)
def test_blocks_are_seen_by_both_renderers(page):
    lines = re.sub(r"(?m)(^```\w*\n)(.*?)(^```$)", "```", page.read_text(), flags=re.DOTALL).splitlines()
    for before, line in pairwise(lines):
        begins = re.match(_BEGINS, line)
        goes_on = re.match(_BEGINS, before) if begins and begins[0] != "```" else None
        assert not begins or not before or goes_on or before.startswith("  "), f"{before}\n{line}"


def _figures(line):
    """Measured numbers: with a decimal point or an exponent; (digits that count, text)."""
    found = re.findall(r"(?<![\w.^])\d+(?:\.\d+)?(?:e[-+−]?\d+)?(?![\w.]*\d)", line)
    return [(len(re.sub(r"e.*|\.", "", text).lstrip("0")), text) for text in found if re.search(r"[.e]", text)]


def test_no_figure_stands_on_two_pages():
    """Figures of four digits, and rows of three or more shorter ones, are no coincidence."""
    pages = defaultdict(set)
    for page in readme.PAGES:
        text = re.sub(r"\]\([^)]*\)", "", _prose(page))
        for line in text.splitlines():
            figures = _figures(line)
            row = tuple(text for _, text in figures)
            keys = {text for digits, text in figures if digits >= 4} | (
                {row} if line[:1] == "|" and len(row) > 2 else set()
            )
            for key in keys:
                pages[key].add(page.name)
    assert len(pages) > 50
    assert {key: names for key, names in pages.items() if len(names) > 1} == {}


def test_paths_in_the_text_are_there():
    """Files and folders of the repository that the text names."""
    named = {
        match
        for page in readme.PAGES
        for match in re.findall(
            r"`((?:confs|tests|datasets|pretrained_weights|benchmarks)/[\w/.+-]*\w)`", readme.prose(page)
        )
    }
    made = ("datasets/downloads", "datasets/DF2K")
    assert len(named) >= 5
    assert [name for name in sorted(named) if not (readme.ROOT / name).exists() and not name.startswith(made)] == []


def test_every_option_file_is_explained():
    table = (DOCS / "training.md").read_text().partition("\n## Option files\n")[2].partition("\n## ")[0]
    cells = " ".join(line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `"))
    patterns = [
        re.sub(r"\{(.*?)\}", lambda braces: f"({braces[1].replace(',', '|')})", name).replace("…", r"\w+")
        for name in re.findall(r"`(.+?)`", cells)
    ]
    confs = readme.ROOT / "confs"
    names = {file.relative_to(confs).with_suffix("").as_posix() for file in confs.rglob("*.yml")}
    assert [name for name in sorted(names) if not re.fullmatch("|".join(patterns), name)] == []
    assert [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in names)] == []


def test_quoted_messages_are_those_of_the_code():
    sources = (path.read_text() for path in sorted((readme.ROOT / "codes").rglob("*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))
    rows = re.findall(r"^\| (.*?) \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [part.strip() for row in rows for text in re.findall(r'"(.+?)"', row) for part in text.split("…")]
    pieces = [piece for piece in quoted if len(piece) > 3]
    assert len(pieces) > 15
    assert [piece for piece in pieces if piece not in code] == []
