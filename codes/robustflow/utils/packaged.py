"""What is shipped beside the code: option files, recipes and small weights; in a checkout, its own folders."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def folder(name: str) -> Path:
    """Where a folder such as confs is: in the package as it is installed, else in the checkout that it is run from."""
    installed = _PACKAGE / "packaged" / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / name


def find(name: str, path: Path) -> Path | None:
    """The file of a folder that a path names, with the folder's name before it or without; None: there is none.

    ``find("confs", path)`` takes demo.yml and confs/demo.yml; nothing absolute, and nothing that leads out of there.
    """
    if path.is_absolute() or ".." in path.parts:
        return None
    file = folder(name).joinpath(*path.parts[path.parts[:1] == (name,) :])
    return file if os.path.isfile(file) else None
