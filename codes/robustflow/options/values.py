"""Types of options: what a number, a name or a path may be."""

import difflib
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from robustflow.utils import files


def _integral(value: Any) -> Any:
    """Let `1e5` count as an integer, as YAML files write iteration counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _below(exponent: int) -> AfterValidator:
    def check(value: int) -> int:
        if value >= 2**exponent:
            raise ValueError(f"expected less than 2^{exponent}")
        return value

    return AfterValidator(check)


def _name(value: str) -> str:
    if re.fullmatch(r"[\w.+-]+(/[\w.+-]+)*", value) is None or {".", ".."} & set(value.split("/")):
        raise ValueError("expected letters, digits, '_', '-', '+', '.', with '/' between folders")
    for part in value.split("/"):
        _short(part)
    return value


def _device(value: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", value) is None:
        raise ValueError("expected auto, cpu, cuda or cuda:N, the GPU of number N")
    return value


def _short(name: str) -> str:
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"expected a name of at most {LONGEST_NAME} bytes")
    return name


def _dataset_name(key: str) -> str:
    _folder_name(key)
    if key not in ("train", "val") and not key.startswith("test"):
        near = difflib.get_close_matches(key.lower(), ["train", "val", "test"], n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"expected train, val or a name that begins with test, got {key!r}{hint}")
    return key


def _folder_name(value: str) -> str:
    if value.strip(". ") == "" or re.search(r"[/\\\x00-\x1f]", value) is not None:
        raise ValueError("expected a name fit for a folder, without '/'")
    return _short(value)


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, tuple) else (value,)


def _relative_steps(value: tuple[float, ...]) -> tuple[float, ...]:
    if any(not 0 < step < 1 for step in value) or list(value) != sorted(set(value)):
        raise ValueError("expected increasing fractions of niter, each between 0 and 1")
    return value


def _distinct(value: tuple[float, ...]) -> tuple[float, ...]:
    if len({f"{heat:g}" for heat in value}) < len(value):
        raise ValueError("expected temperatures that differ in their first six digits")
    return value


# Of a folder or image; file systems end at 255, and endings such as "_t0.9_00.png" are added.
LONGEST_NAME = 200

RunName = Annotated[str, AfterValidator(_name)]
Device = Annotated[str, AfterValidator(_device)]
Int = Annotated[int, BeforeValidator(_integral)]
Positive = Annotated[Int, Field(ge=1), _below(31)]
NonNegative = Annotated[Int, Field(ge=0), _below(63)]
PathText = Annotated[str, AfterValidator(files.expand)]
Width = Annotated[Positive, Field(le=4096)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Temperature = Annotated[Finite, Field(ge=0)]
FolderName = Annotated[str, AfterValidator(_folder_name)]
DatasetKey = Annotated[str, AfterValidator(_dataset_name)]
RelativeSteps = Annotated[tuple[float, ...], AfterValidator(_relative_steps)]
Temperatures = Annotated[tuple[Temperature, ...], Field(min_length=1), AfterValidator(_distinct)]
PerLevel = Annotated[tuple[NonNegative, ...], Field(min_length=1), BeforeValidator(_one_or_many)]
