"""Named building blocks: one registry per kind, each entry a class and the options that configure it.

A third party adds an entry in a module of its own, named under ``plugins:`` in the YAML file::

    class TanhOptions(Options):
        type: Literal["tanh"] = "tanh"
        eps: float = Field(1e-3, gt=0, description="Smallest slope.")

    @ELEMENTWISE.register("tanh", TanhOptions)
    class Tanh(Elementwise): ...

Built-in entries are registered the same way, by the package the registry names; it is imported at first use.
"""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from robustflow.utils.errors import reasons_of

T = TypeVar("T")


class Options(BaseModel):
    """Base of every options class: frozen, strictly typed, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for each value of ``root`` (all options) that cannot go with this entry."""
        yield from ()


def require_valid(kind: type[Options], **values: Any) -> None:
    """Raise ValueError, naming all, for values that options of this kind cannot have."""
    try:
        kind(**values)
    except ValidationError as error:
        raise ValueError(reasons_of(error.errors())) from error


class Registry:
    """The entries of one kind, by name.

    Args:
        kind: What an entry is called in messages, e.g. "coupling".
        builtins: Module whose import registers the built-in entries.
        key: The option that holds an entry's name, ``type`` or ``mode``.
    """

    def __init__(self, kind: str, builtins: str, key: str = "type") -> None:
        self.kind = kind
        self.key = key
        self._builtins = builtins
        self._entries: dict[str, tuple[Callable[..., Any], type[Options]]] = {}

    def register(self, name: str, options: type[Options] = Options) -> Callable[[T], T]:
        """Return a decorator that files a class (or factory) under ``name``. ValueError if another has it.

        The same class defined again, in a notebook or a module that is reloaded, takes the place of the former.
        """

        def decorate(entry: T) -> T:
            if name in self._entries and _origin(self._entries[name][0]) != _origin(entry):
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = (entry, options)  # type: ignore[assignment]
            return entry

        return decorate

    def names(self) -> list[str]:
        """Names of all entries, sorted."""
        importlib.import_module(self._builtins)
        return sorted(self._entries)

    def entries(self) -> dict[str, Any]:
        """All entries by name, in the order of their registration, built-in ones first."""
        importlib.import_module(self._builtins)
        return {name: entry for name, (entry, _) in self._entries.items()}

    def options_class(self, name: Any) -> type[Options]:
        """Options class of an entry. ValueError with the known names and the nearest one if there is none."""
        names = self.names()
        if isinstance(name, str) and name in self._entries:
            return self._entries[name][1]
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"unknown {self.kind} {name!r}, known: {', '.join(names)}{hint}")

    def options_class_of(self, entry: Any) -> type[Options] | None:
        """Options class of a registered class; None for one that is not."""
        self.names()
        return next((options for known, options in self._entries.values() if known is entry), None)

    def options_of(self, instance: Any) -> Options:
        """Options that build an instance of an entry, whose attributes have their names. ValueError for others.

        So it is for values that options cannot have.
        """
        options = self.options_class_of(type(instance))
        if options is None:
            name = type(instance).__name__
            raise ValueError(f"expected a registered {self.kind}, got {name}: decorate it as the registry's help shows")
        fields = (field for field in options.model_fields if field != self.key)
        try:
            return options(**{field: getattr(instance, field) for field in fields})
        except ValidationError as error:
            raise ValueError(f"{type(instance).__name__}: {reasons_of(error.errors())}") from error

    def parse(self, value: Any) -> Options:
        """Options of the entry that ``value`` names: by name, a mapping with the name under ``key``, or an instance."""
        if isinstance(value, Options):
            return value
        if self.options_class_of(type(value)) is not None:
            return self.options_of(value)
        if isinstance(value, str) and self.key == "type":
            value = {self.key: value}
        if not isinstance(value, Mapping) or self.key not in value:
            made = "" if self.options_class_of(value) is None else ", a class: make an instance of it"
            known = ", ".join(self.names())
            raise ValueError(f"expected a mapping with '{self.key}' (one of {known}), got {value!r}{made}")
        return self.options_class(value[self.key]).model_validate(dict(value))

    def entry_of(self, options: Options) -> Any:
        """The class, or factory, of the entry that ``options`` name."""
        name = getattr(options, self.key)
        self.options_class(name)
        return self._entries[name][0]

    def build(self, options: Options, *, without: Collection[str] = (), **context: Any) -> Any:
        """Call the entry that ``options`` names with its options (less the name, and ``without``) and ``context``."""
        fields = (field for field in type(options).model_fields if field != self.key and field not in without)
        values = {field: getattr(options, field) for field in fields}
        return self.entry_of(options)(**values, **context)


def _origin(entry: Any) -> tuple[str, str]:
    """Where the class, or the function, that an entry is or wraps was defined."""
    entry = inspect.unwrap(entry)
    while isinstance(entry, functools.partial):
        entry = entry.func
    return entry.__module__, entry.__qualname__


ELEMENTWISE = Registry("coupling", "robustflow.bijections.elementwise")
ENCODERS = Registry("encoder", "robustflow.encoders")
MODELS = Registry("model", "robustflow.models")
DEGRADATIONS = Registry("degradation", "robustflow.data.degradations")
DATASETS = Registry("dataset mode", "robustflow.data", key="mode")
METRICS = Registry("metric", "robustflow.evaluation.metrics")


def plugins_of(*options: Options) -> tuple[str, ...]:
    """Modules outside this package that registered these entries, to be named under ``plugins:``."""
    own = __name__.partition(".")[0]
    modules = (type(each).__module__ for each in options)
    return tuple(dict.fromkeys(m for m in modules if m.partition(".")[0] not in (own, "__main__")))
