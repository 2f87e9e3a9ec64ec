"""YAML text as a tree that remembers where each value was written, and the report of what is wrong with it."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeAlias

import yaml

from robustflow.utils.errors import UserError

KeyPath: TypeAlias = tuple[str | int, ...]

# Far above any file of options: what is larger was made to exhaust memory, by an alias inside its own anchor
# ("[*a]" in &a) or aliases of aliases of aliases.
_DEEPEST = 40
_MOST_VALUES = 10_000
LONGEST = 2**18  # characters


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


def node_of(value: Any, source: str) -> Node:
    """The node of a plain value: nested dictionaries and lists of values, or of nodes that are there already."""
    if isinstance(value, Node):
        return value
    if isinstance(value, dict):
        return Node({key: node_of(child, source) for key, child in value.items()}, source)
    return Node(tuple(node_of(item, source) for item in value) if isinstance(value, list | tuple) else value, source)


def plain(node: Node, *, nulls: bool = True) -> Any:
    """The values alone, lists as tuples; with ``nulls=False`` less the keys that are null."""
    if isinstance(node.value, dict):
        kept = {key: child for key, child in node.value.items() if nulls or child.value is not None}
        return {key: plain(child, nulls=nulls) for key, child in kept.items()}
    return tuple(plain(item, nulls=nulls) for item in node.value) if isinstance(node.value, tuple) else node.value


def key_text(path: KeyPath) -> str:
    """``("val", "heats", 1)`` as ``val.heats[1]``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def show(value: Any) -> str:
    """A value as it would stand in YAML, on one line, shortened."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, tuple | list):
        text = "[" + ", ".join(map(show, value)) + "]"
    elif isinstance(value, int) and not -(2**64) < value < 2**64:
        text = hex(value)  # without the limit on decimal digits
    else:
        text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= 80 else text[:77] + "..."


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads scalars as YAML 1.2 does; by libyaml where it is there, eight times as fast."""


class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes what ``Loader`` reads back; by libyaml where it is there, as it is done with each checkpoint."""


_TAG = "tag:yaml.org,2002:"
_PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?\d+|0o[0-7]+|0x[\da-fA-F]+",
    "float": r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def _integer(text: str) -> int:
    value = int(text, 0 if text.startswith(("0o", "0x")) else 10)
    if not -(2**64) < value < 2**64:
        raise ValueError("too large")
    return value


_READERS: dict[str, Callable[[str], Any]] = {
    _TAG + "null": lambda text: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": _integer,
    _TAG + "float": lambda text: float(re.sub(r"\.(?=[a-zA-Z])", "", text)),
    _TAG + "str": str,
}
for _class in (Loader, Dumper):
    _class.yaml_implicit_resolvers = {}
    for _name, _pattern in _PATTERNS.items():
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z", re.ASCII), None)
Dumper.add_representer(tuple, lambda self, value: self.represent_sequence(_TAG + "seq", value, flow_style=True))


def has_comment(text: str) -> bool:
    """Whether YAML takes a part of a text as a comment; False for what is no YAML."""
    end = 0
    try:
        for token in yaml.scan(text, Loader=Loader):
            if "#" in text[end : token.start_mark.index]:
                return True
            end = token.end_mark.index
    except yaml.YAMLError:
        return False
    return "#" in text[end:]


class Reader:
    """Turns YAML into nodes and notes what cannot be used; ``name`` is the file, or the flag."""

    def __init__(self, name: str, mistakes: list[Mistake]) -> None:
        self.name, self.mistakes, self._grown = name, mistakes, itertools.count()

    def read(self, text: str, path: KeyPath = ()) -> Node:
        """Tree of a text; OptionsError if it is no YAML, or too large for options."""
        if len(text) > LONGEST:
            self._refuse(path, None, f"expected options, of at most {LONGEST} characters, got more")
        try:
            self._bound(text, path)
            root = yaml.compose(text, Loader=Loader)
        except OptionsError:
            raise
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # The last two: without libyaml, escapes such as "\U00110000" and "\UFFFFFFFF" that are no characters.
            found = self._find_error(text, path) or error
            problem = getattr(found, "problem", None) or str(found).partition("\n")[0]
            source = self.source(getattr(found, "problem_mark", None))
            raise OptionsError(self.name, Mistake(source, path, f"not valid YAML: {problem}")) from error
        return Node(None if root is None else self._grow(root, path), self.name)

    def _find_error(self, text: str, path: KeyPath) -> Exception | None:
        """The error of a text that is no YAML as PyYAML itself has it, which says better than libyaml where it is."""
        try:
            self._bound(text, path, yaml.SafeLoader)
            yaml.compose(text, Loader=yaml.SafeLoader)
        except OptionsError:
            raise
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            return error if isinstance(error, yaml.MarkedYAMLError) else None
        return None

    def _bound(self, text: str, path: KeyPath, loader: Any = None) -> None:
        """Refuse a text that is nested too deeply to be composed, by its events, which come one at a time."""
        depth = 0
        for count, event in enumerate(yaml.parse(text, Loader=loader or Loader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                self._refuse(path, event.start_mark, f"nested too deeply, in more than {_DEEPEST} lists and mappings")
            if count > 2 * _MOST_VALUES:
                self._refuse(path, event.start_mark, f"expected at most {_MOST_VALUES} values")

    def _refuse(self, path: KeyPath, mark: Any, message: str) -> NoReturn:
        raise OptionsError(self.name, Mistake(self.source(mark), path[:3], message))

    def source(self, mark: Any) -> str:
        """Place of a mark, "confs/demo.yml:12"."""
        return self.name if mark is None or self.name.startswith("--") else f"{self.name}:{mark.line + 1}"

    def _grow(self, node: yaml.Node, path: KeyPath) -> Any:
        """Value of a YAML node: a scalar, a tuple of nodes, or a dictionary of nodes."""
        source = self.source(node.start_mark)
        if len(path) > _DEEPEST:
            self._refuse(path, node.start_mark, "nested too deeply; does an alias stand inside its own anchor?")
        if next(self._grown) > _MOST_VALUES:
            message = f"expected at most {_MOST_VALUES} values, got more; do aliases stand inside others' anchors?"
            self._refuse(path, node.start_mark, message)
        if isinstance(node, yaml.CollectionNode) and node.tag not in (_TAG + "map", _TAG + "seq"):
            self.mistakes.append(Mistake(source, path, f"expected a plain list or mapping, got {node.tag}"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._grow_mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return tuple(Node(self._grow(item, (*path, i)), self.source(item.start_mark)) for i, item in items)
        try:
            return _READERS[node.tag](node.value)
        except (KeyError, ValueError):
            self.mistakes.append(Mistake(source, path, f"cannot read {show(node.value)} as {node.tag}"))
            return None

    def _grow_mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Node]:
        """Entries of a mapping, those of merge keys first; doubled keys are noted as mistakes."""
        entries: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            source, name = self.source(key.start_mark), key.value
            if not isinstance(name, str):
                self.mistakes.append(Mistake(source, path, "expected a name as key, got a list or mapping"))
                continue
            if name == "<<" and isinstance(value, yaml.MappingNode):
                merged |= self._grow(value, (*path, name)) or {}
                continue
            if name in entries:
                message = f"given twice in one mapping, first at {entries[name].source}; keep one"
                self.mistakes.append(Mistake(source, (*path, name), message))
            entries[name] = Node(self._grow(value, (*path, name)), source)
        return merged | entries
