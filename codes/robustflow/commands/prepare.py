"""Decode a folder of images once, for fast training crops: robustflow prepare SOURCE DESTINATION."""

import argparse
from collections.abc import Sequence
from functools import partial

from robustflow.commands.arguments import Parser, path
from robustflow.data.preparation import prepare_images
from robustflow.utils import cpus, locks
from robustflow.utils.answer import answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 2 mistake (message on stderr), 130 interrupted."""
    parser = Parser(prog="robustflow prepare", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", type=path, help="folder of images, sub-folders included")
    parser.add_argument("destination", metavar="DESTINATION", type=path, help="folder for the decoded images")
    workers = cpus.available()
    parser.add_argument("--workers", type=int, default=workers, help=f"processes that decode (default {workers})")
    chosen = parser.parse_args(arguments)
    if chosen.workers < 0:
        parser.error(f"--workers: expected 0 or more, got {chosen.workers}")
    return answer(partial(_prepare, chosen), interrupted="interrupted; run it again to go on")


def _prepare(chosen: argparse.Namespace) -> None:
    with locks.hold(locks.beside(chosen.destination), chosen.destination):
        prepare_images(chosen.source, chosen.destination, chosen.workers)
