"""Fetch published data sets and weights, put where the recipes look for them: robustflow fetch NAME ... or list.

Nothing is ever fetched but by this command. A transfer that broke off goes on when the command is run again; what is
there is checked, and nothing is overwritten. Without a network, put the file where the message says and run it again.
"""

from collections.abc import Sequence
from pathlib import Path

import tabulate

from robustflow.commands.arguments import Parser, path
from robustflow.downloads import fetching
from robustflow.downloads.catalogue import FILES, FORMS
from robustflow.utils.answer import answer

LIST = "list"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    parser = Parser(prog="robustflow fetch", description=__doc__)
    names = [LIST, *FILES, *FORMS]
    parser.add_argument("names", metavar="NAME", nargs="+", choices=names, help=f"one or more of {', '.join(names)}")
    text = "project folder; default: the folder you are in"
    parser.add_argument("--into", metavar="DIR", type=path, default=Path(), help=text)
    parser.add_argument("--mirror", metavar="URL", help="folder with files of these names, http(s):// or file://")
    parser.add_argument("--keep", action="store_true", help="keep archives in datasets/downloads once unpacked")
    chosen = parser.parse_args(arguments)
    if chosen.mirror is not None and not chosen.mirror.startswith(("http://", "https://", "file://")):
        parser.error(
            f"--mirror: expected an address that begins with http://, https:// or file://, got {chosen.mirror}"
        )
    if LIST in chosen.names and len(chosen.names) > 1:
        parser.error("list: expected alone, got it beside names to fetch")

    def work() -> None:
        if LIST in chosen.names:
            print(_list(chosen.into))  # noqa: T201
            return
        for name in chosen.names:
            fetching.fetch(name, chosen.into, mirror=chosen.mirror, keep=chosen.keep)

    return answer(work, interrupted="interrupted; run the same command again to go on")


def _list(root: Path) -> str:
    """All that can be fetched, and what asks for a form, as a table."""
    rows = []
    for name, (what, files) in FILES.items():
        for file in files:
            size = "" if file.size is None else f"{file.size / 2**20:.0f} MiB"
            origin = file.url.split("/")[2] + (" (mirror)" if file.mirror else "")
            there = "is there" if fetching.is_there(file, root) else ""
            rows.append([name, what, size, origin, file.place, there])
    rows += [[name, "by a form or a browser", "", page, place, ""] for name, (page, place) in FORMS.items()]
    return tabulate.tabulate(rows, ["name", "what", "size", "from", "to", ""], tablefmt="simple")
