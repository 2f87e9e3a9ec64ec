"""Reference of all keys of an options file: robustflow options; with a YAML file: its resolved options."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from robustflow.commands.arguments import Parser, add_override, read_options_of_any
from robustflow.options.keys import Key, field_hint, keys, registry_of
from robustflow.options.load import dump
from robustflow.options.schema import DatasetOptions, RunOptions
from robustflow.options.toy import ToyOptions
from robustflow.registry import DATASETS, DEGRADATIONS, ELEMENTWISE, ENCODERS, MODELS, Options
from robustflow.utils.answer import answer
from robustflow.utils.yaml_tree import show

_TYPES = {int: "integer", float: "number", bool: "true/false", str: "text", NoneType: "null"}
REGISTRIES = (DATASETS, DEGRADATIONS, ELEMENTWISE, ENCODERS, MODELS)
INTRODUCTION = """\
# Options

After reading this page you can write any key of an options file, or set it on the command line:
`--override "network_G.flow.K=8|val.n_sample=4"`. `robustflow options` prints this page, `robustflow options FILE` all
options of a file, resolved.

Two keys are in no table, as they are used up when a file is read:

- `base`: the option file, or list of files, that this one builds on, from its own folder, or shipped ones by name. The
  file wins over them, the command line over all. Mappings merge key by key, all else is replaced, and so is a mapping
  of another `type` or `mode`; `null` leads back to the default.
- `as_published: true` sets what published numbers need: the published code's betas, no frozen encoder, samples rounded
  down, SRFlow without training noise.
"""
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def reference() -> str:
    """Markdown: a table for each mapping of the YAML, each registered entry, and one of all metrics."""
    shared = [key for key in keys(DatasetOptions, "datasets.*.") if key[2] == ""]
    names = {path for path, _, _ in shared if path != "datasets.*.mode"}
    groups: dict[str, list[Key]] = {"": [], "datasets": [key for key in shared if key[0] in names]}
    entries: dict[str, dict[str, list[Key]]] = {}
    # Of the degradations, which all data sets have, once.
    for (entry, path), field in {(entry, path): field for path, field, entry in keys()}.items():
        if entry == "":
            groups.setdefault(path.removesuffix(".*").rpartition(".")[0], []).append((path, field, entry))
        elif path not in names:
            kind, _, name = entry.rpartition(" ")
            entries.setdefault(kind, {}).setdefault(name, []).append((path, field, entry))
    return "\n".join(
        [
            INTRODUCTION,
            *(line for group, found in groups.items() for line in _group(group, found)),
            *(line for kind, found in entries.items() for line in _entries(kind, found)),
            *_metrics(),
            "\n## Model toy2d\n\nThese in place of all others:\n",
            *_table(key for key in keys(ToyOptions) if key[2] == ""),
        ]
    )


def _group(path: str, found: Iterable[Key]) -> list[str]:
    """The keys of one mapping of the YAML: the top level, every data set, ``network_G.flow`` and the like."""
    if path == "datasets":
        cls: type[Options] = DatasetOptions
    else:
        cls = RunOptions
        for name in filter(None, path.split(".")):
            cls = field_hint(cls.model_fields[name])
    heading = {"": "Top level", "datasets": "datasets.*"}.get(path, path)
    return [f"\n## {heading}\n", f"{_summary(cls)}\n", *_table(found)]


def _entries(kind: str, found: Mapping[str, Iterable[Key]]) -> list[str]:
    registry = next(each for each in REGISTRIES if each.kind == kind)
    lines = [f"\n## {kind.capitalize()}s"]
    for name, own in found.items():
        documented = (registry.entries()[name], registry.options_class(name))
        # What opens a data set is described for Python; its options, for those who write them.
        first, second = reversed(documented) if registry is DATASETS else documented
        summary = _summary(first) or _summary(second)
        lines += [f"\n### {kind} {name}\n", f"{summary}\n", *_table(own)]
    return lines


def _summary(documented: Any) -> str:
    """First sentence or line of a docstring; brackets are escaped, as [0, 1] is no link."""
    return (documented.__doc__ or "").partition("\n")[0].replace("[", "\\[")


def _metrics() -> list[str]:
    # What only reads a file need not load these.
    from robustflow.evaluation.metrics import choose
    from robustflow.evaluation.metrics.fidelity import LR_REFERENCES
    from robustflow.report.columns import protocol_of

    chosen = choose()
    described = {"lr_psnr": LR_REFERENCES["ground_truth"]}
    described |= {key: text for metric in chosen for key, text in metric.describe().items()}
    lines = ["\n## Metrics\n", "All that a test can measure; they take no options.\n"]
    lines += ["| Key | Heading | Unit | Better | Needs | How |", "|---|---|---|---|---|---|"]
    for metric in chosen:
        for column in metric.columns:
            how = protocol_of(column.key, described)
            cells = (f"`{column.key}`", column.label, column.unit, column.better or "", ", ".join(metric.needs), how)
            lines.append(_line(cells))
    return lines


def plain_type(hint: Any) -> str:
    """A type in plain words: "integer ≥ 1", "list of number", "text or null"."""
    registry, origin, parts = registry_of(hint), get_origin(hint), get_args(hint)
    if registry is not None:
        return f"{registry.kind}: {', '.join(registry.names())}"
    if origin is Annotated:
        return plain_type(parts[0]) + ",".join(_narrowest(_bounds(parts[1:])))
    if origin in (Union, UnionType):
        return " or ".join(plain_type(part) for part in parts)
    if origin is Literal:
        return " or ".join(str(part) for part in parts)
    if origin is tuple:
        return f"list of {plain_type(parts[0])}"
    if origin is dict:
        return f"mapping, name to {plain_type(parts[1])}"
    return _TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def _narrowest(bounds: Iterable[tuple[str, float]]) -> list[str]:
    """Of lower bounds the largest, of upper ones the smallest, as texts."""
    by_side: dict[str, tuple[float, bool, str]] = {}
    for sign, bound in bounds:
        side, strict = ("lower", sign == ">") if sign in "≥>" else ("upper", sign == "<")
        narrow = (bound if side == "lower" else -bound, strict, f" {sign} {bound:g}")
        by_side[side] = max(narrow, by_side.get(side, narrow))
    return [text for *_, text in by_side.values()]


def _bounds(metadata: Iterable[Any]) -> Iterator[tuple[str, float]]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(item.metadata)
        for name, sign in _BOUNDS.items():
            bound = getattr(item, name, None)
            if bound is not None:
                yield sign, bound


def _table(found: Iterable[Key]) -> list[str]:
    return ["| Key | Type | Default | Meaning |", "|---|---|---|---|", *map(_row, found)]


def _row(key: Key) -> str:
    path, field, entry = key
    default = "required" if field.is_required() else show(field.get_default())
    cells = (f"`{path}`", plain_type(field_hint(field)), default, field.description or f"Selects {entry}.")
    return _line(cells)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the reference or, with a file, its resolved options; return the exit status."""
    parser = Parser(prog="robustflow options", description=__doc__)
    parser.add_argument("opt", nargs="?", metavar="FILE", help="YAML file; without it all keys are listed")
    add_override(parser)
    chosen = parser.parse_args(arguments)
    return answer(lambda: print(reference() if chosen.opt is None else dump(read_options_of_any(chosen))))  # noqa: T201
