"""Fetch what is published: the file, checked, and of archives their members, where the recipes look for them."""

import logging
from collections.abc import Mapping
from pathlib import Path

from robustflow.downloads import archives, transfer
from robustflow.downloads.catalogue import FILES, FOLDER, FORMS, Published
from robustflow.utils import checksums, locks
from robustflow.utils.errors import UserError, enumerate_some

log = logging.getLogger(__name__)


def fetch(name: str, root: Path, *, mirror: str | None = None, keep: bool = False) -> None:
    """Fetch what a name of the catalogue stands for; what is there already is checked and stays as it is.

    Args:
        name: One of `FILES`; of `FORMS`, a UserError says which page to visit.
        root: Folder of the project, from which places are counted.
        mirror: Address of a folder that has the files, in place of those they are published at.
        keep: Keep archives when they are unpacked.

    Raises:
        RunFailed, UserError: see `transfer.download` and `archives.unpack`.
    """
    if name in FORMS:
        page, place = FORMS[name]
        raise UserError(
            f"{name}: cannot be fetched by a command: ask for it at {page} and put it into {place}, in the layout of "
            "datasets/README.md"
        )
    for published in FILES[name][1]:
        url = published.url if mirror is None else f"{mirror.rstrip('/')}/{published.name}"
        _fetch(published, root, url, keep=keep)


def find_place(published: Published, root: Path) -> Path:
    """Where its content goes."""
    if "{hub}" not in published.place:
        return root / published.place
    # Here, because it takes seconds, and only this needs it.
    import torch

    return Path(published.place.format(hub=torch.hub.get_dir()))


def is_there(published: Published, root: Path) -> bool:
    """Whether it was fetched: its file is there, or all files that came of the archive; their content is not read."""
    place = find_place(published, root)
    if published.members is None:
        return place.is_file()
    members = _members_of(published, checksums.read(_record_of(published, root)))
    return bool(members) and all((place / name).is_file() for name in members)


def _fetch(published: Published, root: Path, url: str, *, keep: bool) -> None:
    place, file, record = find_place(published, root), _file_of(published, root), _record_of(published, root)
    with locks.hold(locks.beside(file), file):
        noted = checksums.read(record)
        if _has_members(published, root, noted):
            return
        checksum = published.checksum
        if checksum is None and published.name in noted:
            checksum = f"sha256:{noted[published.name]}"
        if file.is_file():
            log.info("%s: is there already", file)
            transfer.require_same(file, checksum)
        else:
            advice = f"download it by other means (see {published.page}), put it at {file}, and run the command again"
            folder = None if published.members is None else place
            transfer.download(url, file, checksum=checksum, advice=advice, folder=folder)
        digests = {published.name: checksums.digest(file)}
        if published.members is not None:
            digests |= archives.unpack(file, place, published.members)
            log.info("%s: %d files", place, len(digests) - 1)
        checksums.note(record, digests)
        log.info("%s: %s", file, _describe_check(published, noted, digests))
        if published.members is not None and not keep:
            file.unlink()


def _has_members(published: Published, root: Path, noted: Mapping[str, str]) -> bool:
    """Whether all that came of an archive is there and unaltered. UserError if it was altered."""
    if published.members is None or not is_there(published, root):
        return False
    place = find_place(published, root)
    members = _members_of(published, noted)
    other = [name for name, digest in members.items() if checksums.digest(place / name) != digest]
    if other:
        raise UserError(
            f"{place}: {len(other)} files of {published.name} are no longer as they came ({enumerate_some(other)}); "
            "move them away to fetch them again"
        )
    log.info("%s: the %d files of %s are there already, unaltered", place, len(members), published.name)
    return True


def _describe_check(published: Published, noted: Mapping[str, str], digests: Mapping[str, str]) -> str:
    if published.checksum is not None:
        return f"{published.checksum.partition(':')[0].upper()} as published"
    if published.name in noted:
        return "SHA-256 as when it was first fetched"
    return (
        f"no checksum of it is known here: SHA-256 {digests[published.name]} is noted, and what is fetched later is "
        "compared with it"
    )


def _file_of(published: Published, root: Path) -> Path:
    """Where the file itself is put."""
    return find_place(published, root) if published.members is None else root / FOLDER / published.name


def _record_of(published: Published, root: Path) -> Path:
    """Where SHA-256 of the file and of what came of it are noted."""
    file = _file_of(published, root)
    return file.with_name(f"{file.name}{checksums.SUFFIX}")


def _members_of(published: Published, noted: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in noted.items() if name != published.name}
