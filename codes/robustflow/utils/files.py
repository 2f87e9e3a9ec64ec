"""Files: paths as users give them, results apart from what is read, and no half of a file after an interruption."""

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from robustflow.utils.errors import UserError

# What says that a file system has no fsync, as some network and user-space ones, not that it failed.
_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[^}]*\})")


class CannotWrite(UserError):
    """A file that the system does not let be written: no space, read-only, too large; the message says which."""


@contextlib.contextmanager
def explain_faults(path: Path) -> Iterator[None]:
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


def is_utf8(text: str) -> bool:
    """Whether a path or argument is UTF-8, as YAML and names of results must be; its other bytes are surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def expand(place: str | os.PathLike[str]) -> str:
    """A path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` filled in, as a shell does.

    ValueError for an empty path, or a variable or user that does not exist, unless there is a file of just that name.
    """
    text = os.fspath(place)
    path = os.path.expanduser(os.path.expandvars(text))
    if path == "" or "\0" in path:
        raise ValueError(f"expected a file or folder, got {'an empty name' if path == '' else repr(text)}")
    unknown = _VARIABLE.search(path) or re.match(r"~[^/\\]*", path)
    if unknown is not None and not os.path.lexists(path):
        what = "user" if unknown[0].startswith("~") else "variable"
        raise ValueError(f"expected a path, got {text!r}: there is no {what} {unknown[0]}; set it, or write it out")
    return path


def require_apart(places: Iterable[Path], read: Iterable[str | Path | None]) -> None:
    """Raise UserError if a place for results lies in a folder that images are read from: it would be read, too."""
    folders = [Path(folder) for folder in read if folder is not None and Path(folder).is_dir()]
    for place in places:
        for folder in folders:
            if place.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"{place}: expected a folder for the results apart from {folder}, whose images are read: results "
                    "in it would be taken for such images the next time; choose another with --output"
                )


def find_unused(path: Path, suffix: str = "") -> Path:
    """The path with the time, if need be a number, and a suffix appended, such that nothing is there yet."""
    stamped = f"{path.name}_{time.strftime('%Y%m%d_%H%M%S')}"
    candidates = (path.with_name(f"{stamped}{number}{suffix}") for number in ("", *(f"_{n}" for n in range(2, 1000))))
    return next(candidate for candidate in candidates if not candidate.exists())


def find_existing_part(path: str | Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    place = Path(path).resolve()
    return next(folder for folder in (place, *place.parents) if folder.exists())


def require_writable(folder: Path, name: str, advice: str) -> None:
    """Raise UserError, which calls it ``name``, unless files can be written to a folder, be it there or not yet."""
    there = find_existing_part(folder)
    if not there.is_dir():
        raise UserError(f"{name}: expected a folder, got a file, {there}; {advice}")
    if not os.access(there, os.W_OK):
        raise UserError(f"{name}: expected a folder that can be written to, got {there}; {advice}")


def write_atomically(path: str | Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write data to path, creating parent folders: afterwards the file is either the old one or the whole new one.

    Text is written in UTF-8, with ``?`` for what is none in the names of folders. With ``durable`` the file also
    outlives a power cut, at the price of waiting for the disk, where the file system has a way to. CannotWrite naming
    file and reason; the old file, if any, is intact.
    """
    path, content = Path(path), data.encode(errors="replace") if isinstance(data, str) else data
    with explain_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened as any file is, with the permissions of the user's umask: to ask for the umask is to set it, for all
        # threads.
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        file = temporary.open("xb")
        try:
            with file:
                file.write(content)
                if durable:
                    file.flush()
                    _sync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            # What went wrong first is what is told.
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _sync(descriptor: int) -> None:
    """Wait for the disk, where the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def remove_leftovers(folder: Path, names: str) -> list[Path]:
    """Remove what a killed ``write_atomically`` left in a folder of files whose names match a regular expression."""
    pattern = re.compile(rf"\.(?:{names})\.[a-z0-9_]{{8}}")
    left = [file for file in folder.glob(".*") if pattern.fullmatch(file.name) is not None and file.is_file()]
    for file in left:
        file.unlink(missing_ok=True)
    return left
