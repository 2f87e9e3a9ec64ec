"""Test a trained model.

examples, where python test.py does the same as robustflow test:
  robustflow test -opt confs/demo.yml
  robustflow test -opt confs/demo.yml --weights weights.safetensors --override "val.heats=[0, 0.8]|val.n_sample=5"
  robustflow test -opt confs/demo.yml --input photos/ --output upscaled/
  robustflow test -opt confs/demo.yml --trace
  torchrun --standalone --nproc_per_node 4 test.py -opt confs/demo.yml

All keys: robustflow options
"""

import argparse
from collections.abc import Sequence

from robustflow.commands.arguments import Parser, add_options, path_text, read_options
from robustflow.options.schema import RunOptions
from robustflow.utils import cpus
from robustflow.utils.answer import exit_on_mistake, print_messages, require_one_process


def main(arguments: Sequence[str] | None = None, prog: str = "robustflow test") -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen, options = read(make_parser(prog), arguments)
    # Imported after the options are read: a mistake in them is answered before the libraries are loaded.
    from robustflow.commands import evaluate

    return evaluate.run(options, chosen.input, chosen.output, chosen.trace)


def read(parser: Parser, arguments: Sequence[str] | None) -> tuple[argparse.Namespace, RunOptions]:
    """A command line and the options that it names; a mistake ends the process, with its message."""
    cpus.shorten_waits()
    with exit_on_mistake():
        chosen = parser.parse_args(arguments)
        print_messages(quiet=chosen.quiet)
        options = read_options(chosen)
        if chosen.trace:
            require_one_process()
    return chosen, options


def make_parser(prog: str = "robustflow test") -> Parser:
    """The command line."""
    parser = Parser(prog=prog, description=__doc__, allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument(
        "--trace",
        action="store_true",
        help="instead of metrics: what every layer does along sampling, which one explodes first, and how much the "
        "model can amplify; into the sub-folder trace",
    )
    return parser


def add_arguments(parser: Parser) -> None:
    """Add what tests and traces share."""
    add_options(parser)
    text = "own low-resolution images, in place of the datasets"
    parser.add_argument("--input", type=path_text, metavar="DIR_OR_FILE", help=text)
    text = "folder for the results; default: <path.results>/<name>, with --input its sub-folder input"
    parser.add_argument("--output", type=path_text, metavar="DIR", help=text)
    parser.add_argument("--quiet", action="store_true", help="print warnings and the table, nothing of what is done")
