"""A results folder as one page: `python -m robustflow.evaluation.report_html RESULTS` makes report.html again."""

from collections.abc import Sequence

from robustflow.options.arguments import Parser
from robustflow.report import pages
from robustflow.utils import exit_status, paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a results folder's report.html again; return the exit status."""
    parser = Parser(prog="python -m robustflow.evaluation.report_html", description=__doc__)
    parser.add_argument("results", type=paths.of_flag, help="results folder, written by test.py")
    chosen = parser.parse_args(arguments)
    return exit_status.answered(lambda: print(pages.write(chosen.results)))  # noqa: T201
