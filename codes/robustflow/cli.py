"""The command `robustflow`: its first word names a module of `commands`, which reads the others."""

import importlib
import sys
from collections.abc import Sequence

from robustflow import __version__
from robustflow.commands.arguments import Parser
from robustflow.utils import children, cpus

COMMANDS = {
    "train": "train a model, try a run before it is started, or run the 2-D toy",
    "test": "sample and measure a model on test sets, or super-resolve own images",
    "compare": "put results of several models side by side: tables, pictures, a page",
    "reproduce": "everything that a table or figure of a paper takes, from training to the numbers",
    "report": "write the page of a results folder again",
    "study": "metrics against the temperature, the best of n samples, several seeds",
    "trace": "what every layer does along sampling, and how much a model can amplify",
    "ood": "fit, rank by and plot the out-of-distribution score",
    "apply": "restore, encode, sample, interpolate, transfer in latent space",
    "example": "images for `apply`, and one picture of what it made of them",
    "fetch": "published data sets and weights, put where the recipes look for them",
    "prepare": "decode a folder of images once, for fast training crops",
    "enhance": "write a folder of images sharpened, as in Enhanced Urban100",
    "convert": "convert weights between the published layout and ours",
    "replay": "run a training step that was not finite again",
    "options": "all keys of an options file, or the resolved options of one",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    cpus.shorten_waits()
    children.end_with_parent()
    words = sys.argv[1:] if arguments is None else list(arguments)
    lines = [f"  {name:<9}  {what}" for name, what in COMMANDS.items()]
    parser = Parser(
        prog="robustflow",
        description="Conditional normalizing flows in imaging.",
        epilog="\n".join(["commands:", *lines, "", "robustflow COMMAND --help tells more of each."]),
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    chosen = parser.parse_args(words[:1])
    # Only now: a mistake is answered before the libraries are loaded.
    status: int = importlib.import_module(f"robustflow.commands.{chosen.command}").main(words[1:])
    return status
