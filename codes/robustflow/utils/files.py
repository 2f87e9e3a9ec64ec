"""Writing files so that an interruption never leaves half of one."""

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from robustflow.utils.errors import UserError


class CannotWrite(UserError):
    """A file that the system does not let be written: no space, read-only, too large; the message says which."""


@contextlib.contextmanager
def answering(path: Path) -> Iterator[None]:
    """Turn what the system says against writing to ``path`` into a CannotWrite."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(
            f"{path}: cannot be written ({error.strerror or error}); free some space, or choose another folder that is "
            "writable. What was there before is intact."
        ) from error


def require_inside(folder: str | Path, *parts: str) -> None:
    """Raise UserError if folder/parts leads out of the folder: by its text, or by symbolic links below the folder."""
    home, place = Path(folder).resolve(), Path(folder, *parts)
    if not place.resolve().is_relative_to(home):
        raise UserError(
            f"{place}: expected a place in {folder}, got one that leads to {place.resolve()}; remove the link"
        )


def unused(path: Path, suffix: str = "") -> Path:
    """The path with the time, if need be a number, and a suffix appended, such that nothing is there yet."""
    stamped = f"{path.name}_{time.strftime('%Y%m%d_%H%M%S')}"
    candidates = (path.with_name(f"{stamped}{number}{suffix}") for number in ("", *(f"_{n}" for n in range(2, 1000))))
    return next(candidate for candidate in candidates if not candidate.exists())


def existing_part(path: str | Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    place = Path(path).resolve()
    return next(folder for folder in (place, *place.parents) if folder.exists())


def write_atomically(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    """Write data to path, creating parent folders: afterwards the file is either the old one or the whole new one.

    Args:
        path: Where to.
        data: Its new contents.
        durable: Also outlive a power cut, at the price of waiting for the disk.

    Raises:
        CannotWrite: naming file and reason; the old file, if any, is intact.
    """
    path = Path(path)
    with answering(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def remove_leftovers(folder: Path, names: str) -> list[Path]:
    """Remove what a killed ``write_atomically`` left in a folder of files whose names match a regular expression."""
    pattern = re.compile(rf"\.(?:{names})\.[a-z0-9_]{{8}}")
    left = [file for file in folder.glob(".*") if pattern.fullmatch(file.name) is not None and file.is_file()]
    for file in left:
        file.unlink(missing_ok=True)
    return left
