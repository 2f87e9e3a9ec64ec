"""What is taken of an archive: regular members of certain names, all of them or none, never over another file."""

import contextlib
import hashlib
import lzma
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from robustflow.downloads.transfer import require_space
from robustflow.utils.checksums import digest
from robustflow.utils.errors import RunFailed, UserError, enumerate_some
from robustflow.utils.files import explain_faults

# Where members lie until all of them are there: image folders leave hidden ones out.
_UNFINISHED = ".unpacking."
_PIECE = 2**20
# What zipfile and tarfile raise for damaged or forged files.
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError, ValueError),
)

Member = tuple[str, int, Callable[[], IO[bytes]]]


def unpack(archive: Path, folder: Path, wanted: str) -> dict[str, str]:
    """Put the members of a zip or tar archive whose names match into a folder, without their own folders.

    They are unpacked beside their places first: interrupted, it leaves nothing but whole files.

    Args:
        archive: The archive.
        folder: Where to; files that are there already with the same content stay as they are.
        wanted: Regular expression of the whole name of a member.

    Returns:
        SHA-256 of each by its name.

    Raises:
        RunFailed: a damaged archive, one that wants to write elsewhere, or without such members.
        UserError: files of the same names and other content are there; nothing is changed then.
        CannotWrite: no space, or no permission.
    """
    # Another archive may be unpacked to the same folder at the same time.
    unfinished = folder / f"{_UNFINISHED}{archive.name}"
    with explain_faults(folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            digests = _extract(archive, unfinished, wanted)
            _require_unlike_none(folder, digests)
            for name in digests:
                os.replace(unfinished / name, folder / name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return digests


def _extract(archive: Path, folder: Path, wanted: str) -> dict[str, str]:
    """Write the members whose names match; SHA-256 of each by its name."""
    digests = {}
    try:
        with _list_members(archive) as members:
            chosen = _choose(archive, members, wanted)
            require_space(folder, sum(size for _, size, _ in chosen), f"what is unpacked of {archive.name}")
            for name, _, opener in chosen:
                file = folder / PurePosixPath(name).name
                digests[file.name] = _write(opener, file)
            return digests
    except (RunFailed, UserError):
        raise
    except _DAMAGED as error:
        raise RunFailed(
            f"{archive}: no whole zip or tar archive ({error or type(error).__name__}); remove it, and fetch it again"
        ) from error


@contextlib.contextmanager
def _list_members(archive: Path) -> Iterator[list[Member]]:
    """Names, sizes in bytes and contents of the regular files in an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            infos = [info for info in zipped.infolist() if not info.is_dir()]
            yield [(info.filename, info.file_size, partial(zipped.open, info)) for info in infos]
    else:
        with tarfile.open(archive) as tarred:
            entries = [entry for entry in tarred.getmembers() if not entry.isdir()]
            yield [(entry.name, entry.size, partial(_open_regular, tarred, entry)) for entry in entries]


def _open_regular(tarred: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    opened = tarred.extractfile(entry) if entry.isreg() else None
    if opened is None:
        raise tarfile.TarError(f"{entry.name} is no regular file")
    return opened


def _choose(archive: Path, members: list[Member], wanted: str) -> list[Member]:
    for name, _, _ in members:
        if name.startswith("/") or re.search(r"[\\:\x00]", name) or ".." in PurePosixPath(name).parts:
            raise RunFailed(f"{archive}: refused, nothing was unpacked: its member {name!r} leads out of the folder")
    chosen = [member for member in members if re.fullmatch(wanted, member[0])]
    if not chosen:
        names = enumerate_some(name for name, _, _ in members)
        raise RunFailed(f"{archive}: expected members that match {wanted}, found none; it holds {names or 'nothing'}")
    twice = [name for name, n in Counter(PurePosixPath(name).name for name, _, _ in chosen).items() if n > 1]
    if twice:
        raise RunFailed(f"{archive}: expected a name once, found several members named {enumerate_some(twice)}")
    return chosen


def _write(opener: Callable[[], IO[bytes]], file: Path) -> str:
    """Write a member; return its SHA-256, of what passes by: archives of some GB are not read again for it."""
    hashed = hashlib.sha256()
    with opener() as source, file.open("xb") as target:
        while piece := source.read(_PIECE):
            hashed.update(piece)
            target.write(piece)
    return hashed.hexdigest()


def _require_unlike_none(folder: Path, digests: dict[str, str]) -> None:
    """Raise UserError if files of these names but other content are in a folder."""
    other = [name for name, known in digests.items() if (folder / name).exists() and digest(folder / name) != known]
    if other:
        raise UserError(
            f"{folder}: holds {len(other)} other files of the same names ({enumerate_some(other)}), and they are not "
            "overwritten; move them away, and run the command again"
        )
