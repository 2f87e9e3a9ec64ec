"""Write the page of a results folder again: robustflow report RESULTS makes report.html."""

from collections.abc import Sequence

from robustflow.commands.arguments import Parser, path
from robustflow.report import pages
from robustflow.utils.answer import answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 2 mistake (see stderr)."""
    parser = Parser(prog="robustflow report", description=__doc__)
    parser.add_argument("results", type=path, help="results folder, written by test.py")
    chosen = parser.parse_args(arguments)
    return answer(lambda: print(pages.write(chosen.results)))  # noqa: T201
