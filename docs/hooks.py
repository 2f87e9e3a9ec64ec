"""What the site is made of besides the pages here: options, drawing of the packages, executed notebooks."""

import importlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import griffe
import grimp
import nbformat
from importlinter import api as importlinter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from traitlets.config import Config

from robustflow.commands.options import reference

log = logging.getLogger("mkdocs.hooks.robustflow")  # mkdocs --strict counts warnings of loggers named so
ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "robustflow."
PLACE = "<!-- packages -->"

Edges = dict[str, set[str]]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are generated: options.md, and a page and pictures for each notebook."""
    files.append(File.generated(config, "options.md", content=reference()))
    notebooks = sorted(Path(config.docs_dir).glob("notebooks/*.ipynb"))
    with ThreadPoolExecutor(2) as pool:
        rendered = pool.map(partial(render, execute=config.extra["execute_notebooks"]), notebooks)
        for name, content in (item for pages in rendered for item in pages.items()):
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the drawing; links to notebooks, which repositories show, lead to their pages here."""
    uri = page.file.src_uri
    if uri == "architecture.md":
        if PLACE not in markdown:
            log.warning("architecture.md: expected a line '%s', where the drawing of the packages goes", PLACE)
        markdown = markdown.replace(PLACE, packages())
    if uri == "api.md":
        package = griffe.load("robustflow", search_paths=[ROOT / "codes"])
        for path in undocumented(package, re.findall(r"^::: (\S+)", markdown, re.MULTILINE)):
            log.warning("api.md: expected a docstring of %s", path)
    return re.sub(r"(\]\([^)\s]+)\.ipynb(?=[)#])", r"\1.md", markdown)


def render(path: Path, *, execute: bool = True) -> dict[str, str | bytes]:
    """A notebook, executed in its folder, as a Markdown page and its pictures, by name. An error in a cell ends it."""
    notebook = nbformat.read(path, as_version=4)
    if execute:
        here = {"metadata": {"path": str(path.parent)}}
        safe = Config({"KernelManager": {"transport_encryption": "auto"}})
        NotebookClient(notebook, kernel_name="python3", timeout=None, resources=here, config=safe).execute()
        for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
            # What libraries log of this machine.
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    where = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    page, resources = MarkdownExporter().from_notebook_node(notebook, where)
    page = re.sub(r"!\[(?:png|jpeg|svg)\]", "![What the cell above draws]", page)
    return {f"{path.stem}.md": page, **resources["outputs"]}


def undocumented(package: Any, paths: Iterable[str]) -> Iterator[str]:
    """Of these objects of a package, as griffe reads it, and their public members, those without a docstring."""
    for path in paths:
        shown = package[path.partition(".")[2]]
        for each in (shown, *shown.members.values()):
            needs_one = each.is_function or each.is_class or each.is_module or "property" in each.labels
            if needs_one and not each.name.startswith("_") and not each.has_docstring:
                yield each.path


def packages() -> str:
    """The drawing of the packages, and a table of what each is and what it imports."""
    layers = read_layers()
    imports = read_imports(layers)
    rows = [
        f"| `{name}` | {_first_line(name)} | {' '.join(f'`{other}`' for other in sorted(imports[name]))} |"
        for name in (name for layer in layers for name in layer)
    ]
    table = "\n".join(("| Package | What it is | Imports |", "|---|---|---|", *rows))
    return f'<figure class="packages">{draw(layers, essential(imports))}</figure>\n\n{table}\n'


def read_layers() -> list[list[str]]:
    """The layers that the linter of imports holds the package to, the highest first, without the package's name."""
    contracts = importlinter.read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip().removeprefix(PACKAGE) for name in layer.split("|")] for layer in layers]


def read_imports(layers: list[list[str]]) -> Edges:
    """Which others of these packages and modules each imports, anywhere in it."""
    names = [name for layer in layers for name in layer]
    graph = grimp.build_graph("robustflow")

    def home(module: str) -> str | None:
        within = (name for name in names if f"{module}.".startswith(f"{PACKAGE}{name}."))
        return max(within, key=len, default=None)

    imports: Edges = {name: set() for name in names}
    for module in graph.modules:
        importer = home(module)
        targets = {home(imported) for imported in graph.find_modules_directly_imported_by(module)}
        if importer is not None:
            imports[importer] |= {target for target in targets if target is not None} - {importer}
    return imports


def essential(imports: Edges) -> Edges:
    """The imports that do not follow from others: a → c goes if a → b → … → c is there."""

    def reached(name: str) -> set[str]:
        return imports[name].union(*(reached(other) for other in imports[name]))

    return {name: found - set().union(*(reached(other) for other in found)) for name, found in imports.items()}


WIDTH, BOX, GAP, LANE, SIDE = 360, 26, 26, 9, 52


def draw(layers: list[list[str]], imports: Edges) -> str:
    """SVG: a row of boxes per layer; arrows to the next row, and along lanes on the right to rows further down."""
    rank = {name: row for row, layer in enumerate(layers) for name in layer}
    centre, half = _places(layers)
    lanes = _lanes(_far(imports, rank), rank)
    top = {name: 4 + rank[name] * (BOX + GAP) for name in rank}
    lines = []
    for a, b in ((importer, name) for importer, found in imports.items() for name in sorted(found)):
        start, end = top[a] + BOX, top[b] - 1
        if rank[b] - rank[a] > 1:
            lane, drop = WIDTH - SIDE + 10 + LANE * lanes[b], 5 + 2.5 * lanes[b]
            from_x, to_x = centre[a] + half[a] - 8, centre[b] + half[b] - 8
            lines.append(f"M{from_x:.0f} {start}v{drop}H{lane}V{end - drop}H{to_x:.0f}V{end}")
        elif rank[b] == rank[a]:
            lines.append(f"M{centre[a]:.0f} {start}q{(centre[b] - centre[a]) / 2:.0f} 22 {centre[b] - centre[a]:.0f} 1")
        else:
            lines.append(f"M{centre[a]:.0f} {start}L{centre[b]:.0f} {end}")
    paths = "".join(f'<path d="{line}" marker-end="url(#arrow)"/>' for line in lines)
    boxes = "".join(
        f'<rect x="{centre[name] - half[name]:.0f}" y="{top[name]}" width="{2 * half[name]:.0f}" height="{BOX}" '
        f'rx="4"/>'
        f'<text x="{centre[name]:.0f}" y="{top[name] + 17}">{name}</text>'
        for name in rank
    )
    arrow = '<marker id="arrow" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
    height = len(layers) * (BOX + GAP) - GAP + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-1 0 {WIDTH + 1} {height}" role="img" '
        f'aria-label="Packages, in layers, and their imports; the table below says the same">'
        f'<defs>{arrow}<path d="M0 0L6 3L0 6z"/></marker></defs>{paths}{boxes}</svg>'
    )


def _places(layers: list[list[str]]) -> tuple[dict[str, float], dict[str, float]]:
    """Centre and half the width of each box, in the row's middle, about as wide as its letters."""
    half = {name: 3.3 * len(name) + 1.8 * sum(map(name.count, "mw")) + 4 for layer in layers for name in layer}
    centre = {}
    for layer in layers:
        gap = min(18.0, (WIDTH - SIDE - sum(2 * half[name] for name in layer)) / max(1, len(layer) - 1))
        x = (WIDTH - SIDE - gap * (len(layer) - 1) - sum(2 * half[name] for name in layer)) / 2
        for name in layer:
            centre[name] = x + half[name]
            x += 2 * half[name] + gap
    return centre, half


def _far(imports: Edges, rank: Mapping[str, int]) -> dict[str, int]:
    """The boxes that are imported from further up than the row above, and the highest of these rows."""
    rows = {name: [rank[importer] for importer, found in imports.items() if name in found] for name in rank}
    far = {name: [row for row in found if rank[name] - row > 1] for name, found in rows.items()}
    return {name: min(found) for name, found in far.items() if found}


def _lanes(start: Mapping[str, int], rank: Mapping[str, int]) -> dict[str, int]:
    """A lane for each box that lines from far above lead to, the shortest innermost; no two share a row of one lane."""
    lanes: dict[str, int] = {}
    for name in sorted(start, key=lambda name: rank[name] - start[name]):
        taken = {lanes[o] for o in lanes if start[o] <= rank[name] and start[name] <= rank[o]}
        lanes[name] = next(lane for lane in range(len(start)) if lane not in taken)
    return lanes


def _first_line(name: str) -> str:
    return (importlib.import_module(PACKAGE + name).__doc__ or "").partition("\n")[0]
