"""YAML text as a tree that remembers where each value was written, and the report of what is wrong with it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import yaml

from robustflow.errors import UserError

KeyPath: TypeAlias = tuple[str | int, ...]

# Deeper nesting than this means an alias inside its own anchor.
_DEEPEST = 40


class Mistake(NamedTuple):
    """One thing to mend: "confs/demo.yml:12" or a command-line flag, the key, and what is wrong."""

    source: str
    path: KeyPath
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, key_text(self.path), self.message) if part)


class OptionsError(UserError):
    """The options of ``name`` cannot be used; the text lists every mistake with its place."""

    def __init__(self, name: str, *mistakes: Mistake) -> None:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__("\n  ".join([f"{count} in the options of {name}:", *map(str, mistakes)]))
        self.mistakes = mistakes


@dataclass(frozen=True)
class Node:
    """A value and where it was written; mappings and lists hold nodes again."""

    value: Any
    source: str


def key_text(path: KeyPath) -> str:
    """``("val", "heats", 1)`` as ``val.heats[1]``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def show(value: Any) -> str:
    """A value as it would stand in YAML, on one line, shortened."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, tuple):
        text = "[" + ", ".join(map(show, value)) + "]"
    else:
        text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


class Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does."""


class Dumper(yaml.SafeDumper):
    """Writes what ``Loader`` reads back."""


_TAG = "tag:yaml.org,2002:"
_PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?\d+|0o[0-7]+|0x[\da-fA-F]+",
    "float": r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_READERS: dict[str, Callable[[str], Any]] = {
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": lambda text: int(text, 0 if text.startswith(("0o", "0x")) else 10),
    _TAG + "float": lambda text: float(re.sub(r"\.(?=[a-zA-Z])", "", text)),
    _TAG + "str": str,
}
for _class in (Loader, Dumper):
    _class.yaml_implicit_resolvers = {}
    for _name, _pattern in _PATTERNS.items():
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z", re.ASCII), None)
Dumper.add_representer(tuple, lambda self, value: self.represent_sequence(_TAG + "seq", value, flow_style=True))


@dataclass(frozen=True)
class Reader:
    """Turns YAML into nodes and notes what cannot be used; ``name`` is the file, or the flag."""

    name: str
    mistakes: list[Mistake]

    def read(self, text: str, path: KeyPath = ()) -> Node:
        """Tree of a text; OptionsError if it is no YAML."""
        try:
            root = yaml.compose(text, Loader=Loader)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
            source = self.source(getattr(error, "problem_mark", None))
            raise OptionsError(self.name, Mistake(source, path, f"not valid YAML: {problem}")) from error
        return Node(None if root is None else self.grow(root, path), self.name)

    def source(self, mark: Any) -> str:
        """Place of a mark, "confs/demo.yml:12"."""
        return self.name if mark is None or self.name.startswith("--") else f"{self.name}:{mark.line + 1}"

    def grow(self, node: yaml.Node, path: KeyPath) -> Any:
        """Value of a YAML node: a scalar, a tuple of nodes, or a dictionary of nodes."""
        source = self.source(node.start_mark)
        if len(path) > _DEEPEST:
            message = "nested too deeply; does an alias stand inside its own anchor?"
            raise OptionsError(self.name, Mistake(source, path[:3], message))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return tuple(Node(self.grow(item, (*path, i)), self.source(item.start_mark)) for i, item in items)
        try:
            return _READERS[node.tag](node.value)
        except (KeyError, ValueError):
            self.mistakes.append(Mistake(source, path, f"cannot read {node.value!r} as {node.tag}"))
            return None

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Node]:
        """Entries of a mapping, those of merge keys first; doubled keys are noted as mistakes."""
        entries: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            source, name = self.source(key.start_mark), key.value
            if not isinstance(name, str):
                self.mistakes.append(Mistake(source, path, "expected a name as key, got a list or mapping"))
                continue
            if name == "<<" and isinstance(value, yaml.MappingNode):
                merged |= self.mapping(value, path)
                continue
            if name in entries:
                message = f"given twice in one mapping, first at {entries[name].source}; keep one"
                self.mistakes.append(Mistake(source, (*path, name), message))
            entries[name] = Node(self.grow(value, (*path, name)), source)
        return merged | entries
