"""Paths as users give them: home folder and variables filled in, and results kept apart from the images read."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from robustflow.utils.errors import UserError

_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[^}]*\})")


def expand(text: str) -> str:
    """A path with ``~``, ``~user``, ``$NAME`` and ``${NAME}`` filled in, as a shell does.

    Raises:
        ValueError: for an empty path, or one that names a variable or user that does not exist; unless there is a file
            of just that name.
    """
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
