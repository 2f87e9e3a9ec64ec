"""Options from a YAML file and the command line, every mistake reported at once with file, line and key.

``base: common/sr4x.yml`` (or a list of files), at the top level and relative to the file's own folder,
inherits: bases first, then the file, then the overrides ``"train.niter=200|network_G.flow.coupling=rq_spline"``.
Mappings merge key by key, every other value replaces the one before it, except that

1. a mapping that names another ``type`` or ``mode`` than the one before it replaces it wholly, so that nothing of
   ``coupling: {type: affine, eps: 0.1}`` is left after ``coupling: {type: rq_spline}``; a mapping without
   ``type`` after the name ``affine`` (also a default one) means ``{type: affine, ...}``; ``folder`` and
   ``LRHR_IMG`` are one mode;
2. ``key: null`` removes what came before: back to the default.

``as_published: true`` sets, over the file and under the command line, what published numbers need (`option_files`).
Option files of the published code are recognised and translated.

Numbers and booleans follow YAML 1.2: ``2e-4`` and ``1e5`` are numbers, ``no`` and ``on`` are text.
Anchors, aliases and the merge key ``<<: *anchor`` work inside a file.
"""

import difflib
import importlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from tabulate import tabulate

from robustflow.interop import option_files
from robustflow.options.keys import keys, named_defaults, options_class_at
from robustflow.options.recipe import RecipeOptions
from robustflow.options.schema import RunOptions
from robustflow.options.toy import ToyOptions
from robustflow.registry import Options
from robustflow.utils import files, packaged
from robustflow.utils.errors import reason_of
from robustflow.utils.files import write_atomically
from robustflow.utils.yaml_tree import (
    LONGEST,
    Dumper,
    KeyPath,
    Mistake,
    Node,
    OptionsError,
    Reader,
    has_comment,
    node_of,
    plain,
    show,
)

log = logging.getLogger(__name__)

S = TypeVar("S", bound=Options)

_WORDING = {
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "literal_error": "{expected}",
    "greater_than": "a value above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a value below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} value(s)",
    "string_pattern_mismatch": "text that matches {pattern}",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}


# A value set outside the files: dotted key, value, and the flag it came from.
Assignment = tuple[str, Any, str]


def load(path: str | Path, overrides: str | Sequence[str] | None = None, *assignments: Assignment) -> RunOptions:
    """``load_any`` of an image model; OptionsError also if the file describes another."""
    options = load_any(path, overrides, *assignments)
    if not isinstance(options, RunOptions):
        message = (
            f"expected an image model, got '{options.model}', which train.py trains, samples and measures in one go"
        )
        raise OptionsError(str(path), Mistake(str(path), ("model",), message))
    return options


def load_any(
    path: str | Path, overrides: str | Sequence[str] | None = None, *assignments: Assignment
) -> RunOptions | ToyOptions:
    """Read, merge and check the options of a run; ``model`` says by which schema.

    Args:
        path: YAML file, or one of those that are shipped, by its name: ``demo``, ``confs/demo.yml``.
        overrides: ``key.path=value`` entries separated by ``|``, values in YAML; quote a value that holds ``|`` or
            `` #``. Of several such texts all count, the later ones over the earlier.
        assignments: Values that win over all others, taken as they are.

    Raises:
        OptionsError: with all mistakes.
    """
    mistakes: list[Mistake] = []
    tree = _translate(_read_file(_place(str(path), "-opt"), mistakes, ()))
    texts = [overrides] if isinstance(overrides, str) else overrides or ()
    own = [*(entry for text in texts for entry in _parse_overrides(text, mistakes)), *assignments]
    for key, value, source in [*_list_published(tree, own, mistakes), *own]:
        if key != "as_published":
            branch = node_of(value, source)
            for name in reversed(key.split(".")):
                branch = Node({name: branch}, source)
            tree = _merge(tree, branch)
    # A model that is no image model has keys of its own.
    is_toy = _find(tree, ("model",))[1].value == "toy2d"
    schema: type[RunOptions] | type[ToyOptions] = ToyOptions if is_toy else RunOptions
    tree = _merge(node_of(named_defaults(schema), "default"), tree)
    mistakes += _import_plugins(tree)
    options, found = _validate(tree, schema)
    mistakes += found
    if options is not None:
        for key, message in options.contradictions(options):
            mistakes.append(Mistake(_find(tree, tuple(key.split(".")))[1].source, (key,), message))
    if options is None or mistakes:
        raise OptionsError(str(path), *mistakes)
    return options


def load_recipe(path: str | Path) -> RecipeOptions:
    """Read and check a recipe, but not the options files that it names; OptionsError with all mistakes."""
    mistakes: list[Mistake] = []
    recipe, found = _validate(_read_file(_place(str(path), "recipe"), mistakes, ()), RecipeOptions)
    if recipe is None or mistakes or found:
        raise OptionsError(str(path), *mistakes, *found)
    return recipe


def _translate(tree: Node) -> Node:
    """A published option file under our keys, with a table of what became of its own; others unchanged."""
    if not option_files.is_published(tree):
        return tree
    tree, notes = option_files.translate(tree)
    log.info("%s: written for the published code, translated:\n%s", tree.source, tabulate(notes, ["key", "here"]))
    return tree


def _list_published(tree: Node, own: list[Assignment], mistakes: list[Mistake]) -> list[Assignment]:
    """What ``as_published: true`` sets, over the file and under the command line; the key itself is used up."""
    given = tree.value.pop("as_published", Node(False, ""))
    for key, value, source in own:
        given = Node(value, source) if key == "as_published" else given
    if not isinstance(given.value, bool):
        mistakes.append(Mistake(given.source, ("as_published",), f"expected true or false, got {show(given.value)}"))
    if given.value is not True:
        return []
    noiseless = {"model.noise_std": 0.0} if _find(tree, ("model", "type"))[1].value == "SRFlow" else {}
    settings = {**option_files.AS_PUBLISHED, **noiseless}
    return [(key, value, "as_published") for key, value in settings.items()]


def dump(options: Options) -> str:
    """YAML text of all options, defaults included, in the schema's order; ``load`` gives them back."""
    return yaml.dump(options.model_dump(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def save(options: Options, path: str | Path) -> None:
    """Write ``dump(options)`` to a file that is at any moment either the old one or complete."""
    write_atomically(path, dump(options))


def _read_file(path: Path, mistakes: list[Mistake], chain: tuple[Path, ...], asked: str = "") -> Node:
    """Tree of a file with its bases merged in; ``asked`` is the place that names the file."""
    if path.resolve() in [seen.resolve() for seen in chain]:
        message = f"files inherit from each other: {' -> '.join(map(str, (*chain, path)))}"
        raise OptionsError(str(chain[0]), Mistake(asked, ("base",), message))
    tree = Reader(str(path), mistakes).read(_text(path, asked))
    if not isinstance(tree.value, dict):
        came = "an empty file" if tree.value is None else show(plain(tree))
        message = f"expected keys such as 'name: my_run' (`robustflow options` lists them), got {came}"
        raise OptionsError(str(path), Mistake(str(path), (), message))
    merged, base = Node({}, str(path)), tree.value.pop("base", Node((), str(path)))
    for node in base.value if isinstance(base.value, tuple) else (base,):
        if isinstance(node.value, str) and "\0" not in node.value:
            file = _place(node.value, node.source, ("base",), path.parent)
            below = _read_file(file, mistakes, (*chain, path), node.source)
            merged = _merge(merged, below)
        elif node.value is not None:
            message = f"expected a file name or a list of them, got {show(plain(node))}"
            mistakes.append(Mistake(node.source, ("base",), message))
    return _merge(merged, tree)


def _place(text: str, asked: str, key: KeyPath = (), folder: Path = Path()) -> Path:
    """The file that is meant: as named, relative to a folder; else one that is shipped. ``.yml`` may be left out."""
    try:
        named = Path(files.expand(text))
    except ValueError as error:
        raise OptionsError(text, Mistake(asked, key, str(error))) from error
    names = [named] if named.suffix else [named, Path(f"{named}.yml")]
    nearby, shipped = [folder / name for name in names], [packaged.find("confs", name) for name in names]
    return next((file for file in (*nearby, *shipped) if file is not None and os.path.isfile(file)), nearby[0])


def _text(path: Path, asked: str) -> str:
    try:
        with path.open("rb") as file:
            # What has no end, such as a device, is not read to its end.
            return file.read(4 * LONGEST + 4).decode("utf-8-sig")
    except FileNotFoundError as error:
        known = {file.stem: Path("confs", file.name) for file in packaged.folder("confs").glob("*.yml")}
        known |= {file.stem: file for file in path.parent.glob("*.y*ml")}
        near = difflib.get_close_matches(path.stem, known, n=1)
        where = "the folder of the file that names it" if asked else f"the working directory, {Path.cwd()}"
        hint = f"did you mean {known[near[0]]}?" if near else f"give a path relative to {where}"
        raise OptionsError(str(path), Mistake(asked, (), f"no such file: {path}; {hint}")) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text, {error.reason}"
        raise OptionsError(str(path), Mistake(asked, (), f"cannot read {path}: {reason}")) from error


def _merge(below: Node, above: Node) -> Node:
    """``above`` over ``below``, by the rules of this module."""
    if isinstance(above.value, dict) and isinstance(below.value, str) and "type" not in above.value:
        return Node({"type": below, **above.value}, above.source)
    if not isinstance(above.value, dict) or not isinstance(below.value, dict) or _other_type(below, above):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        if key not in merged:
            merged[key] = node
        elif node.value is None:
            del merged[key]
        else:
            merged[key] = _merge(merged[key], node)
    return Node(merged, above.source)


def _other_type(below: Node, above: Node) -> bool:
    """Whether two mappings name different entries of a registry, under ``type`` or, for data sets, ``mode``."""
    return any(
        key in below.value and key in above.value and _named(below.value[key]) != _named(above.value[key])
        for key in ("type", "mode")
    )


def _named(entry: Node) -> Any:
    """What an entry of a registry is called, the one that has two names by the shorter."""
    return "folder" if entry.value == "LRHR_IMG" else entry.value


def _parse_overrides(text: str, mistakes: list[Mistake]) -> Iterator[Assignment]:
    # A quote opens where YAML would open one, so the apostrophe of `name=it's` is text.
    quoted = r"""(?<=[=\[{,:\s])(?:"(?:\\.|[^"\\])*"|'(?:''|[^'])*')"""
    for entry in filter(str.strip, re.findall(rf"(?:{quoted}|[^|])+", text)):
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not value or not all(key.split(".")):
            message = f"expected key.path=value (null: back to the default), got {entry.strip()!r}"
            mistakes.append(Mistake("--override", (), message))
            continue
        if not files.is_utf8(entry):
            mistakes.append(Mistake("--override", (), f"expected text in UTF-8, got {entry.strip()!r}; rename it"))
            continue
        if has_comment(value):
            quoted_value = "'" + value.replace("'", "''") + "'"
            message = f"expected no comment, which '#' begins, got {value}; quote what holds it: {key}={quoted_value}"
            mistakes.append(Mistake("--override", tuple(key.split(".")), message))
            continue
        try:
            node = Reader("--override", mistakes).read(value, tuple(key.split(".")))
            yield key, node.value, "--override"
        except OptionsError as error:
            mistakes += error.mistakes


def _find(tree: Node, path: KeyPath) -> tuple[KeyPath, Node]:
    """The part of ``path`` that was written, and the node there."""
    for depth, key in enumerate(path):
        children = dict(enumerate(tree.value)) if isinstance(tree.value, tuple) else tree.value
        if not isinstance(children, dict) or key not in children:
            return path[:depth], tree
        tree = children[key]
    return path, tree


def _import_plugins(tree: Node) -> Iterator[Mistake]:
    path, plugins = _find(tree, ("plugins",))
    nodes = plugins.value if path and isinstance(plugins.value, tuple) else ()
    # Modules in the working folder are found however the command was started; those that are installed come first.
    if nodes and "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for node in (node for node in nodes if isinstance(node.value, str)):
        try:
            if not all(part.isidentifier() for part in node.value.split(".")):
                raise ImportError("expected a module name such as my_package.my_module")
            importlib.import_module(node.value)
        except (ImportError, SyntaxError) as error:
            yield Mistake(node.source, ("plugins",), f"cannot import {node.value!r}: {error}")


def _validate(tree: Node, schema: type[S]) -> tuple[S | None, list[Mistake]]:
    options, found = _attempt(tree, plain(tree, nulls=False), schema)
    # A null removes its key before the check, but under an unknown name it is a mistake all the same.
    for path, details in _attempt(tree, plain(tree), schema)[1].items():
        if details[0]["type"] == "extra_forbidden":
            found.setdefault(path, details)
    for path in [path for path, details in found.items() if details[0]["type"] == "too_short"]:
        # Pydantic does not count the wrong items of a list, which are reported by themselves.
        if any(other[:-1] == path for other in found):
            del found[path]
    return options, [
        Mistake(_find(tree, path)[1].source, path, _message(tree, path, found[path], schema)) for path in found
    ]


def _attempt(tree: Node, values: Any, schema: type[S]) -> tuple[S | None, dict[KeyPath, list[Any]]]:
    found: dict[KeyPath, list[Any]] = {}
    try:
        return schema.model_validate(values), found
    except ValidationError as error:
        for path, detail in _details(error):
            # Below what was written stand pydantic's names for the members of a union: not keys.
            written = _find(tree, path)[0]
            found.setdefault(path if detail["type"] == "missing" else written, []).append(detail)
    return None, found


def _details(error: ValidationError, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """All errors with full key paths, also those of registry entries, which validate their own options."""
    for detail in error.errors(include_url=False):
        path, cause = (*prefix, *detail["loc"]), detail.get("ctx", {}).get("error")
        if isinstance(cause, ValidationError):
            yield from _details(cause, path)
        else:
            yield path, detail


def _message(tree: Node, path: KeyPath, details: list[Any], schema: type[Options]) -> str:
    kind, came = details[0]["type"], f", got {show(details[0]['input'])}"
    if kind == "extra_forbidden":
        return _unknown(tree, path, schema)
    if kind == "missing":
        return "required, but not given"
    if kind == "string_type" and isinstance(details[0]["input"], bool | int | float):
        came += "; quote it to make it text: '...'"
    several = isinstance(details[0]["input"], str) and re.search(r"[\s,]", details[0]["input"])
    if kind == "tuple_type" and not several:
        came += f"; write [{show(details[0]['input'])}]"
    if all(detail["type"] in _WORDING for detail in details):
        return "expected " + " or ".join(_WORDING[d["type"]].format(**d.get("ctx", {})) for d in details) + came
    text = reason_of(details[0]).replace("Input should be", "expected")
    return text if not text.startswith("expected") or ", got" in text else text + came


def _unknown(tree: Node, path: KeyPath, schema: type[Options]) -> str:
    key, cls = str(path[-1]), options_class_at(plain(tree), path[:-1], schema)
    known = {name.lower(): name for name in cls.model_fields} if cls is not None else {}
    known_keys = list(keys(schema))
    parts = [path.split(".") for path, _, _ in known_keys]
    others = list(dict.fromkeys(entry for known, _, entry in known_keys if _stands_for(known, path)))
    elsewhere = list(dict.fromkeys(".".join(part[: part.index(key) + 1]) for part in parts if key in part))
    near = difflib.get_close_matches(key.lower(), known, n=1)
    if path == ("base",):
        return "belongs in a file, at its top level"
    if others:
        kind = others[0].rpartition(" ")[0]
        return f"unknown key here; known with {kind} {' or '.join(entry.rpartition(' ')[2] for entry in others)}"
    if elsewhere:
        return f"unknown key here; known as {' and '.join(elsewhere[:3])}"
    if near:
        return f"unknown key; did you mean '{known[near[0]]}'?"
    return f"unknown key; known here: {', '.join(known.values())}" if known else "unknown key"


def _stands_for(known: str, path: KeyPath) -> bool:
    """Whether a key of the reference, such as ``datasets.*.degrade[].sigma``, is the one at a path."""
    parts = [part for part in path if not isinstance(part, int)]
    names = known.replace("[]", "").split(".")
    return len(names) == len(parts) and all(name in ("*", part) for name, part in zip(names, parts, strict=True))
