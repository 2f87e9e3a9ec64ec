"""Writing files so that an interruption never leaves half of one."""

import os
import tempfile
from pathlib import Path

from robustflow.errors import UserError


def require_inside(folder: str | Path, *parts: str) -> None:
    """Raise UserError if folder/parts leads out of the folder: by its text, or by symbolic links below the folder."""
    home, place = Path(folder).resolve(), Path(folder, *parts)
    if not place.resolve().is_relative_to(home):
        raise UserError(
            f"{place}: expected a place in {folder}, got one that leads to {place.resolve()}; remove the link"
        )


def write_atomically(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    """Write data to path, creating parent folders: afterwards the file is either the old one or the whole new one.

    Args:
        path: Where to.
        data: Its new contents.
        durable: Also outlive a power cut, at the price of waiting for the disk.
    """
    path = Path(path)
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
