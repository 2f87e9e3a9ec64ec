"""Folders that one run at a time writes to: locks that the system releases when their process ends, however it ends."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from robustflow.utils.errors import UserError

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# What says that another process holds a lock, not that locking failed.
_HELD = (errno.EACCES, errno.EAGAIN)
_ADVICE = "wait until it is done, end it, or give this one another place"


class Locked(UserError):
    """A folder that another run is writing to."""


def beside(folder: Path) -> Path:
    """Lock of a folder that may be moved while the lock is held."""
    folder = Path(os.path.abspath(folder))  # "." has no name
    return folder.parent / f".{folder.name}.lock"


def within(folder: Path) -> Path:
    """Lock of a folder that stays where it is."""
    return folder / ".lock"


@contextlib.contextmanager
def hold(lock: Path, folder: Path, advice: str = _ADVICE) -> Iterator[None]:
    """Hold a folder's lock, a file that is there meanwhile; of several processes of one run the main one is to hold it.

    Where locks do not work, as on some network file systems and on Windows, go on with one line that says so.

    Args:
        lock: Its file, `beside` or `within`.
        folder: What it keeps for this run; Locked names it if another process holds it.
        advice: What to do then.
    """
    lock = Path(os.path.realpath(lock))
    missing = [parent for parent in lock.parents if not parent.exists()]
    try:
        descriptor = _acquire(lock, folder, advice)
    except OSError as error:
        # If it is the folder's fault, whoever writes there next says so.
        reason = error.strerror or error
        log.info("%s: cannot be locked (%s): another run that writes there would not be noticed", folder, reason)
        descriptor = None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if descriptor is not None:
                # While it is locked: nobody else can have it.
                with os.fdopen(descriptor):
                    if _is_still(lock, descriptor):
                        lock.unlink()
            # Nothing stays of a run that did not begin.
            for parent in missing:
                parent.rmdir()


def require_free_below(folder: Path, advice: str) -> None:
    """Raise Locked if another process holds the lock of a folder anywhere below this one."""
    for lock in folder.rglob(".*lock") if fcntl is not None else ():
        with contextlib.suppress(OSError), os.fdopen(os.open(lock, os.O_RDWR)) as file:
            _lock(file.fileno(), folder, advice)


def _acquire(lock: Path, folder: Path, advice: str) -> int:
    """The locked file, open."""
    if fcntl is None:
        raise OSError("this system has no such locks")
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, folder, advice)
            if _is_still(lock, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return descriptor
        except (OSError, Locked):
            os.close(descriptor)
            raise
        # Whoever held it has removed it in the meantime: the next who comes would make another.
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, advice: str) -> None:
    """Lock a file that is open, at once. Locked if another process has, other OSErrors if that cannot be done."""
    try:
        # Unlike that of flock, this lock is not one of loader processes, too, which may outlive this one.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        os.lseek(descriptor, 0, os.SEEK_SET)
        by = os.read(descriptor, 200).decode(errors="replace").strip()
        raise Locked(f"{folder}: another run is writing there ({by or 'of unknown name'}); {advice}") from error


def _is_still(lock: Path, descriptor: int) -> bool:
    """Whether the file that is open is the one of that name."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(descriptor))
    except FileNotFoundError:
        return False
