"""Compare evaluated models: `python -m robustflow.evaluation.compare RESULTS... [--output DIR]`."""

import logging
from collections.abc import Sequence

from robustflow.options.arguments import Parser
from robustflow.report import compare
from robustflow.report.results import read
from robustflow.report.tables import footnotes
from robustflow.utils import exit_status, paths
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare results folders: print a table and write the files; return the exit status."""
    parser = Parser(prog="python -m robustflow.evaluation.compare", description=__doc__)
    parser.add_argument(
        "results", nargs="+", type=paths.of_flag, help="results folders, one per model, written by test.py"
    )
    parser.add_argument(
        "--output",
        type=paths.of_flag,
        help="folder for summary.md, summary.csv, summary.tex, gallery.png, report.html; default: comparison, beside "
        "the results",
    )
    parser.add_argument("--format", choices=compare.FORMATS, default="simple", help="of the table on the screen")
    chosen = parser.parse_args(arguments)

    def work() -> None:
        output = compare.default_output(chosen.results) if chosen.output is None else chosen.output
        if output.resolve() in [folder.resolve() for folder in chosen.results]:
            raise UserError(f"--output {output}: expected a folder apart from the results, whose report stays")
        runs = [read(folder) for folder in chosen.results]
        compare.check_protocols(runs)
        text = compare.table(runs, chosen.format)
        compare.write(runs, output)
        print(text.rstrip("\n"))  # noqa: T201
        log.info("%s\nreport: %s", footnotes([run.metrics for run in runs]), output / "report.html")

    return exit_status.answered(work)
