"""Reference of all keys of an options file: robustflow options; with a YAML file: its resolved options."""

from collections.abc import Iterable, Iterator, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from robustflow.commands.arguments import Parser, add_override, read_options_of_any
from robustflow.options.keys import Key, field_hint, keys, registry_of
from robustflow.options.load import dump
from robustflow.options.schema import DatasetOptions
from robustflow.options.toy import ToyOptions
from robustflow.utils.answer import answer
from robustflow.utils.yaml_tree import show

_TYPES = {int: "integer", float: "number", bool: "true/false", str: "text", NoneType: "null"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def reference() -> str:
    """Markdown: one table of the keys of every run, and one for each registered entry's own."""
    sections: dict[str, list[Key]] = {"": []}
    shared = [key for key in keys(DatasetOptions, "datasets.*.") if key[2] == ""]
    names = {path for path, _, _ in shared if path != "datasets.*.mode"}
    # Of the degradations, which all data sets have, once.
    for (entry, path), field in {(entry, path): field for path, field, entry in keys()}.items():
        if entry == "" or path not in names:
            sections.setdefault(entry, []).append((path, field, entry))
    return "\n".join(
        [
            "# Options\n",
            *_table(sections.pop("")),
            "\n## Every dataset\n",
            *_table(key for key in shared if key[0] in names),
            *(line for name, found in sections.items() for line in (f"\n## {name}\n", *_table(found))),
            "\n## model toy2d: these in place of all others\n",
            *_table(key for key in keys(ToyOptions) if key[2] == ""),
        ]
    )


def plain_type(hint: Any) -> str:
    """A type in plain words: "integer ≥ 1", "list of number", "text or null"."""
    registry, origin, parts = registry_of(hint), get_origin(hint), get_args(hint)
    if registry is not None:
        return f"{registry.kind}: {', '.join(registry.names())}"
    if origin is Annotated:
        return plain_type(parts[0]) + ",".join(_bounds(parts[1:]))
    if origin in (Union, UnionType):
        return " or ".join(plain_type(part) for part in parts)
    if origin is Literal:
        return " or ".join(str(part) for part in parts)
    if origin is tuple:
        return f"list of {plain_type(parts[0])}"
    if origin is dict:
        return f"mapping, name to {plain_type(parts[1])}"
    return _TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(item.metadata)
        for name, sign in _BOUNDS.items():
            bound = getattr(item, name, None)
            if bound is not None:
                yield f" {sign} {bound:g}"


def _table(found: Iterable[Key]) -> list[str]:
    return ["| Key | Type | Default | Meaning |", "|---|---|---|---|", *map(_row, found)]


def _row(key: Key) -> str:
    path, field, entry = key
    default = "required" if field.is_required() else show(field.get_default())
    cells = (f"`{path}`", plain_type(field_hint(field)), default, field.description or f"Selects {entry}.")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the reference or, with a file, its resolved options; return the exit status."""
    parser = Parser(prog="robustflow options", description=__doc__)
    parser.add_argument("opt", nargs="?", metavar="FILE", help="YAML file; without it all keys are listed")
    add_override(parser)
    chosen = parser.parse_args(arguments)
    return answer(lambda: print(reference() if chosen.opt is None else dump(read_options_of_any(chosen))))  # noqa: T201
