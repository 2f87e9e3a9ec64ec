"""Types of options: their bounds, and what is checked beyond them."""

import difflib
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field


def _integral(value: Any) -> Any:
    """Let `1e5` count as an integer, as YAML files write iteration counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value,)


def _name(value: str) -> str:
    if re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", value) is None or ".." in value.split("/"):
        raise ValueError("expected letters, digits, '_', '-', '+', '.', with '/' between folders")
    return value


def _dataset_name(key: str) -> str:
    if key not in ("train", "val") and not key.startswith("test"):
        near = difflib.get_close_matches(key.lower(), ["train", "val", "test"], n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"expected train, val or a name that begins with test, got {key!r}{hint}")
    return key


def _relative_steps(value: tuple[float, ...]) -> tuple[float, ...]:
    if any(not 0 < step < 1 for step in value) or list(value) != sorted(set(value)):
        raise ValueError("expected increasing fractions of niter, each between 0 and 1")
    return value


def _folder_name(value: str) -> str:
    if value.strip(". ") == "" or re.search(r"[/\\\x00-\x1f]", value) is not None:
        raise ValueError("expected a name fit for a folder, without '/'")
    return value


def _distinct(value: tuple[float, ...]) -> tuple[float, ...]:
    if len({f"{heat:g}" for heat in value}) < len(value):
        raise ValueError("expected temperatures that differ in their first six digits")
    return value


RunName = Annotated[str, AfterValidator(_name)]
Int = Annotated[int, BeforeValidator(_integral)]
Positive = Annotated[Int, Field(ge=1)]
NonNegative = Annotated[Int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Temperature = Annotated[Finite, Field(ge=0)]
DatasetName = Annotated[str, AfterValidator(_dataset_name)]
FolderName = Annotated[str, AfterValidator(_folder_name)]
RelativeSteps = Annotated[tuple[float, ...], AfterValidator(_relative_steps)]
Temperatures = Annotated[tuple[Temperature, ...], Field(min_length=1), AfterValidator(_distinct)]
PerLevel = Annotated[tuple[NonNegative, ...], Field(min_length=1), BeforeValidator(_one_or_many)]
