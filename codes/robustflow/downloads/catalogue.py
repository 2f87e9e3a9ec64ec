"""What can be fetched: addresses, where the content goes, and the pages of sets that ask for a form; catalogue.yml."""

from importlib import resources
from typing import NamedTuple

import yaml

# Archives are kept here until they are unpacked, and the checksums of what came from them.
FOLDER = "datasets/downloads"


class Published(NamedTuple):
    """A file that others publish.

    Attributes:
        url: Its address; its last part names the file.
        place: Where its content goes, from the folder of the project: a file, or a folder for members of an archive;
            {hub} is torch's hub cache.
        page: What to read about it.
        members: Regular expression of the members of an archive that are wanted; None for a file that is no archive.
        checksum: "sha256:…" or "md5:…"; None where none is known.
        size: In bytes, where it is known exactly.
        mirror: The address is not its authors'.
    """

    url: str
    place: str
    page: str
    members: str | None = None
    checksum: str | None = None
    size: int | None = None
    mirror: bool = False

    @property
    def name(self) -> str:
        """Of the file."""
        return self.url.rpartition("/")[2]


_listed = yaml.safe_load((resources.files("robustflow.downloads") / "catalogue.yml").read_text())
# By the name that is asked for: what it is, and its files.
FILES: dict[str, tuple[str, tuple[Published, ...]]] = {
    name: (entry["what"], tuple(Published(**one) for one in entry["files"])) for name, entry in _listed["files"].items()
}
# Sets whose terms ask for a form, or that lie where only a browser gets them: their page, and where they go.
FORMS: dict[str, tuple[str, str]] = {name: (form["page"], form["place"]) for name, form in _listed["forms"].items()}
