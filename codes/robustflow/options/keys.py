"""Which keys there are: for the reference, and for messages of those that are not."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo

from robustflow.options.schema import RunOptions
from robustflow.registry import Options, Registry

# One option: dotted path, field, and the registry entry it belongs to ("coupling affine") or "".
Key = tuple[str, FieldInfo, str]


def keys(cls: type[Options] = RunOptions, prefix: str = "", entry: str = "") -> Iterator[Key]:
    """Every option there is, with those of all registered entries; ``*`` is the name of a dataset, ``[]`` an item."""
    for name, field in cls.model_fields.items():
        path, hint = prefix + name, field_hint(field)
        if get_origin(hint) is dict:
            path, hint = f"{path}.*", get_args(hint)[1]
        if get_origin(hint) is tuple and registry_of(get_args(hint)[0]) is not None:
            yield path, field, entry
            path, hint = f"{path}[]", get_args(hint)[0]
        registry = registry_of(hint)
        if registry is not None:
            if not path.endswith("[]"):
                yield path, field, entry
            for known in registry.names():
                yield from keys(registry.options_class(known), f"{path}.", f"{registry.kind} {known}")
        elif _is_options(hint):
            yield from keys(hint, f"{path}.", entry)
        else:
            yield path, field, entry


def _is_options(hint: Any) -> bool:
    # In Python 3.10 ``tuple[str, ...]`` passes for a class, too.
    return get_origin(hint) is None and isinstance(hint, type) and issubclass(hint, Options)


def field_hint(field: FieldInfo) -> Any:
    """The type of a field as it was written, with its annotations."""
    parts = (field.annotation, *field.metadata)
    return Annotated[parts] if field.metadata else field.annotation


def registry_of(hint: Any) -> Registry | None:
    """The registry whose entries a type such as ``Coupling`` stands for."""
    functions = (getattr(item, "func", None) for item in getattr(hint, "__metadata__", ()))
    owners = (getattr(function, "__self__", None) for function in functions)
    return next((owner for owner in owners if isinstance(owner, Registry)), None)


def named_defaults(cls: type[Options] = RunOptions) -> dict[str, Any]:
    """The entries named by default, nested as the options: what a mapping without ``type`` configures."""
    found: dict[str, Any] = {}
    for name, field in cls.model_fields.items():
        hint = field_hint(field)
        if _is_options(hint):
            found[name] = named_defaults(hint)
        elif isinstance(field.default, str) and registry_of(hint) is not None:
            found[name] = field.default
    return {name: value for name, value in found.items() if value}


def options_class_at(values: Any, path: tuple[Any, ...], hint: Any = RunOptions) -> type[Options] | None:
    """Options class whose keys stand at ``path`` of nested ``values``; None if no class is known there."""
    registry = registry_of(hint)
    if registry is not None:
        hint = registry.options_class(values[registry.key] if isinstance(values, Mapping) else values)
    if not path:
        return hint if _is_options(hint) else None
    if get_origin(hint) is dict:
        return options_class_at(values[path[0]], path[1:], get_args(hint)[1])
    if get_origin(hint) is tuple:
        return options_class_at(values[path[0]], path[1:], get_args(hint)[0])
    field = hint.model_fields.get(path[0]) if _is_options(hint) else None
    return None if field is None else options_class_at(values[path[0]], path[1:], field_hint(field))
