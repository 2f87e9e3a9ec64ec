"""The transfer of one file: with a progress bar, resumable, checked, and in its place only when it is whole."""

import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from robustflow import __version__
from robustflow.utils import checksums
from robustflow.utils.errors import RunFailed, UserError
from robustflow.utils.files import CannotWrite, explain_faults, find_existing_part, write_atomically

_PIECE = 2**20
_PATIENCE = 30  # seconds without a byte
_MIB = 2**20
_CANNOT_RESUME = 416


def download(url: str, place: Path, *, checksum: str | None, advice: str, folder: Path | None = None) -> None:
    """Download a file to ``place``; go on with what an earlier transfer left in ``<place>.part``.

    Args:
        url: Address.
        place: Where to; its folders are made.
        checksum: "sha256:…" or "md5:…" of the file, None for any.
        advice: What to do where it cannot be had.
        folder: Where it is unpacked to: as much space again is asked for there.

    Raises:
        RunFailed: no network, an answer that is none, a broken transfer, another file than expected.
        CannotWrite: no space, or no permission.
    """
    part = place.with_name(f"{place.name}.part")
    tag = place.with_name(f"{place.name}.part.tag")
    with explain_faults(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    response, begun = _open(url, part, tag, checksum, advice)
    with response:
        length = response.headers.get("Content-Length")
        total = begun + int(length) if length is not None and length.isdecimal() else None
        if total is not None:
            _require_space_for_both(place, total - begun, folder, total)
        _receive(response, part, begun, total)
    if total is not None and part.stat().st_size != total:
        raise RunFailed(
            f"{url}: broken off after {part.stat().st_size} of {total} bytes; run the same command again to go on"
        )
    fault = find_fault(part, checksum)
    if fault is not None:
        _remove(part, tag)
        raise RunFailed(f"{url}: what came is another file, and removed: {fault}; try again later, or {advice}")
    with explain_faults(place):
        part.replace(place)
    _remove(tag)


def find_fault(file: Path, checksum: str | None) -> str | None:
    """What is wrong with a file by its checksum; None if nothing is, or none is known."""
    if checksum is None:
        return None
    kind, _, expected = checksum.partition(":")
    found = checksums.digest(file, kind)
    return None if found == expected else f"expected {kind.upper()} {expected}, got {found}"


def require_space(folder: Path, needed: int, name: str) -> None:
    """Raise CannotWrite unless ``needed`` bytes are free where a folder is, or will be."""
    free = shutil.disk_usage(find_existing_part(folder)).free
    if free < needed:
        raise CannotWrite(
            f"{folder}: too little space for {name}: expected {needed / _MIB:.4g} MiB free, found "
            f"{free / _MIB:.4g} MiB; make room, or choose another folder with --into"
        )


def _require_space_for_both(place: Path, missing: int, folder: Path | None, unpacked: int) -> None:
    """Raise CannotWrite unless there is space for what is missing of a file, and for what is unpacked of it."""
    if folder is not None and _device_of(folder) == _device_of(place):
        missing += unpacked
    elif folder is not None:
        require_space(folder, unpacked, f"what is unpacked of {place.name}")
    require_space(place.parent, missing, place.name)


def _device_of(place: Path) -> int:
    return find_existing_part(place).stat().st_dev


def _open(url: str, part: Path, tag: Path, checksum: str | None, advice: str) -> tuple[Any, int]:
    """The answer of the server, to be closed, and how many bytes of the file are there already."""
    validator = tag.read_text() if tag.is_file() else ""
    # The last byte again: of a part that is the whole file, nothing would be left to be asked for.
    begun = max(0, part.stat().st_size - 1) if part.is_file() and (validator or checksum is not None) else 0
    headers = {"User-Agent": f"robustflow/{__version__}", "Accept-Encoding": "identity"}
    if begun:
        headers |= {"Range": f"bytes={begun}-", **({"If-Range": validator} if validator else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != _CANNOT_RESUME or not begun:
            raise RunFailed(f"{url}: the server answered {error.code} {error.reason}; {advice}") from error
        # What is there is no beginning of the file: from the start.
        _remove(part, tag)
        return _open(url, part, tag, checksum, advice)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise RunFailed(f"{url}: cannot be reached ({reason}); without a network, {advice}") from error
    given = response.headers.get("Content-Range")
    if given is None:
        _remove(part)
        validator = response.headers.get("ETag", "")
        validator = response.headers.get("Last-Modified", "") if validator[:1] != '"' else validator
        write_atomically(tag, validator)
        return response, 0
    if not given.startswith(f"bytes {begun}-"):
        response.close()
        raise RunFailed(f"{url}: expected the bytes from {begun} on, the server sends {given}; {advice}")
    return response, begun


def _receive(response: Any, part: Path, begun: int, total: int | None) -> None:
    """Write what comes to a file from a byte on; what came stays there if the transfer breaks."""
    name = part.name.removesuffix(".part")
    with (
        explain_faults(part),
        part.open("ab") as file,
        tqdm(initial=begun, total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=name, disable=None) as bar,
    ):
        file.truncate(begun)
        for piece in _read_pieces(response):
            file.write(piece)
            bar.update(len(piece))


def _read_pieces(response: Any) -> Iterator[bytes]:
    """The content, up to where the transfer ends or breaks: how long the file is then tells which."""
    try:
        while piece := response.read(_PIECE):
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise RunFailed(f"{response.url}: broken off ({error}); run the same command again to go on") from error


def _remove(*files: Path) -> None:
    for file in files:
        with explain_faults(file):
            file.unlink(missing_ok=True)


def require_same(file: Path, checksum: str | None) -> None:
    """Raise UserError if a file that is there is not the one expected: it is never overwritten."""
    fault = find_fault(file, checksum)
    if fault is not None:
        raise UserError(f"{file}: is there, but is another file: {fault}; move it away, and run the command again")
