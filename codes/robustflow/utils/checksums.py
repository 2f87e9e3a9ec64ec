"""SHA-256 of the files of a checkpoint, as ``sha256sum -c checksums/<iteration>.sha256`` reads them.

They are written before the files themselves: a file whose checksum is missing is an older one and taken as it is.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from robustflow.utils.files import write_atomically

SUFFIX = ".sha256"


def place(experiment: Path, iteration: int) -> Path:
    """File of an iteration's checksums."""
    return experiment / "checksums" / f"{iteration:08d}{SUFFIX}"


def write(experiment: Path, iteration: int, contents: Mapping[Path, bytes]) -> None:
    """Note what the files of an iteration are going to hold; they lie in folders of the experiment."""
    names = {file.relative_to(experiment).as_posix(): data for file, data in contents.items()}
    note(place(experiment, iteration), {name: hashlib.sha256(data).hexdigest() for name, data in names.items()})


def fault(file: Path) -> str | None:
    """What is wrong with <experiment>/<folder>/<iteration>…, by its checksum; None if nothing is, or none was noted."""
    number = re.match(r"\d+(?=[_.])", file.name)
    if number is None:
        return None
    experiment = file.absolute().parent.parent
    noted = read(place(experiment, int(number[0])))
    return _fault(file, noted.get(f"{file.absolute().parent.name}/{file.name}"))


def fault_of_any(state: Path, spare: str | None = None) -> str | None:
    """What is wrong with the files of a checkpoint: the first that is missing or damaged; None if nothing is.

    Files whose names end in ``spare`` do not count. The state, by which it is named, is noted last: a record without it
    was cut off.
    """
    experiment = state.parent.parent
    record = place(experiment, int(state.stem))
    noted = read(record)
    if record.is_file() and all(Path(name).stem != record.stem for name in noted):
        return f"{record}: damaged, the checksum of {state.name} is not in it"
    needed = {name: digest for name, digest in noted.items() if spare is None or not name.endswith(spare)}
    faults = (_fault(experiment / name, digest) for name, digest in needed.items())
    return next((found for found in faults if found is not None), None)


def note(record: Path, digests: Mapping[str, str]) -> None:
    """Write SHA-256 by file as ``sha256sum -c`` reads them."""
    write_atomically(record, "".join(f"{digest}  {name}\n" for name, digest in digests.items()))


def read(record: Path) -> dict[str, str]:
    """SHA-256 by file, as `note` wrote them; none if there is no such record."""
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else []
    # A damaged line names a file that there is not.
    return {line[66:] or line: line[:64] for line in lines}


def _fault(file: Path, expected: str | None) -> str | None:
    if expected is None:
        return None
    if not file.is_file():
        return f"{file}: missing"
    try:
        return None if digest(file) == expected else f"{file}: damaged, its SHA-256 is not the one noted in checksums"
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror or error})"


def digest(file: Path, kind: str = "sha256") -> str:
    """SHA-256, or MD5, of a file."""
    hashed = hashlib.new(kind, usedforsecurity=False)
    with file.open("rb") as opened:
        while piece := opened.read(1 << 22):
            hashed.update(piece)
    return hashed.hexdigest()
