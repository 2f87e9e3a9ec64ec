"""Errors that are answered with a message instead of a traceback."""

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

SHOWN = 5  # faults or names in a message


class UserError(ValueError):
    """A mistake the user can mend: the message says what was expected, what came, and how to fix it."""


class RunFailed(RuntimeError):
    """A run that cannot go on, though all that was given is right: the message says why and what to do."""


def for_all(items: Iterable[T], check: Callable[[T], R]) -> list[R]:
    """What ``check`` returns of each item. UserError once all are checked, if it raised some: see `raise_all`."""
    results: list[R] = []
    faults: list[UserError] = []
    for item in items:
        try:
            results.append(check(item))
        except UserError as error:
            faults.append(error)
    raise_all(faults, len(results) + len(faults))
    return results


def raise_all(faults: list[UserError], n_items: int) -> None:
    """Raise one UserError for the faults of ``n_items`` images, if there are any: the first five, and how many."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = [f"{len(faults)} of {n_items} images cannot be used:", *shorten(map(str, faults))]
        raise UserError("\n  ".join(lines)) from faults[0]


def shorten(lines: Iterable[str], most: int = SHOWN) -> list[str]:
    """The first of some lines, and how many more there are."""
    first = list(lines)
    return first if len(first) <= most else [*first[:most], f"... and {len(first) - most} more"]


def describe_error(error: BaseException) -> str:
    """What a failure was, without the path or the memory address that some messages carry."""
    if isinstance(error, OSError) and error.strerror is not None:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def reason_of(detail: Mapping[str, Any]) -> str:
    """What is wrong, of one of the errors of pydantic's ``ValidationError``: in our own words, where they are ours."""
    return str(detail.get("ctx", {}).get("error", detail["msg"]))


def reasons_of(details: Iterable[Mapping[str, Any]], names: Mapping[str, str] | None = None) -> str:
    """The same of all its errors, and what came, each behind its dotted key, or behind what ``names`` calls that."""
    places = ((".".join(map(str, detail["loc"])), _reason_and_value(detail)) for detail in details)
    return "; ".join(f"{(names or {}).get(place, place)}: {reason}" for place, reason in places)


def _reason_and_value(detail: Mapping[str, Any]) -> str:
    # Our own words name what came.
    own = "error" in detail.get("ctx", {})
    return reason_of(detail) if own else f"{reason_of(detail)}, got {reprlib.repr(detail['input'])}"


def enumerate_some(names: Iterable[object]) -> str:
    """The first five of some names, with ... for others."""
    found = [str(name) for name in names]
    return ", ".join(found[:SHOWN]) + (" ..." if len(found) > SHOWN else "")
