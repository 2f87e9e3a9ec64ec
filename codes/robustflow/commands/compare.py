"""Compare evaluated models: robustflow compare RESULTS... [--output DIR]."""

import argparse
import logging
from collections.abc import Sequence

from robustflow.commands.arguments import Parser, path
from robustflow.report import compare, tables
from robustflow.report.results import read
from robustflow.utils.answer import answer
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare results folders: print a table and write the files; return the exit status."""
    parser = Parser(prog="robustflow compare", description=__doc__)
    parser.add_argument("results", nargs="+", type=path, help="results folders, one per model, written by test.py")
    text = "folder for summary.md, summary.csv, summary.tex, gallery.png, curves.png, report.html; default: "
    parser.add_argument("--output", type=path, metavar="DIR", help=f"{text}comparison, beside the results")
    text = "of the table on the screen; default %(default)s"
    parser.add_argument("--format", choices=compare.FORMATS, default="simple", help=text)
    chosen = parser.parse_args(arguments)
    return answer(lambda: _compare(chosen))


def _compare(chosen: argparse.Namespace) -> None:
    output = compare.default_output(chosen.results) if chosen.output is None else chosen.output
    if output.resolve() in [folder.resolve() for folder in chosen.results]:
        raise UserError(f"--output {output}: expected a folder apart from the results, whose report stays")
    runs = [read(folder) for folder in chosen.results]
    compare.check_protocols(runs)
    text = compare.table(runs, chosen.format)
    compare.write(runs, output)
    print(text.rstrip("\n"))  # noqa: T201
    log.info("%s\nreport: %s", tables.footnotes([run.metrics for run in runs]), output / "report.html")
