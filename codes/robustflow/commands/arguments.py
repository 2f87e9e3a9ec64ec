"""What the command lines share: nothing that is given is dropped, a flag that is given twice least of all."""

import argparse
from pathlib import Path
from typing import Any

from robustflow.options.load import Assignment, load, load_any
from robustflow.options.schema import RunOptions
from robustflow.options.toy import ToyOptions
from robustflow.utils import cpus, files
from robustflow.utils.answer import accept_all_characters
from robustflow.utils.errors import UserError

# Flags that set an option.
_KEYS = {"resume": "path.resume_state", "weights": "path.model_path"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that refuses a second value of a flag; lists (action "extend") add up, without the default.

    From when it is made on, the command can print to a terminal of any encoding.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        accept_all_characters()
        super().__init__(*arguments, **{"formatter_class": argparse.RawDescriptionHelpFormatter, **settings})
        self.register("action", None, _Once)
        self.register("action", "extend", _Extend)


class _Once(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = getattr(namespace, self.dest, self.default)
        if option_string is not None and given is not self.default and given != values:
            parser.error(f"argument {option_string}: expected once, got {given} and {values}; keep one")
        setattr(namespace, self.dest, values)


class _Extend(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(() if given is self.default else given), *(values or ())])


def add_kind(kinds: Any, name: str, text: str, **settings: Any) -> Parser:
    """Add a sub-command, which its own help explains as that of the command does; ``kinds``: of add_subparsers."""
    parser: Parser = kinds.add_parser(name, help=text, description=text, **settings)
    return parser


def path_text(text: str) -> str:
    """The value of a flag as a path, for argparse; see `files.expand`."""
    try:
        return files.expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def path(text: str) -> Path:
    """As `path_text`, a Path."""
    return Path(path_text(text))


def add_options(parser: argparse.ArgumentParser, *, weights: bool = True) -> None:
    """Add ``-opt``, ``--override`` and, with ``weights``, ``--weights``; see `read_options`."""
    parser.add_argument("-opt", "--opt", metavar="FILE", required=True, help="YAML file with the options of the run")
    add_override(parser)
    if weights:
        parser.add_argument("--weights", metavar="FILE", help="weights or experiment folder (sets path.model_path)")


def add_override(parser: argparse.ArgumentParser) -> None:
    """Add ``--override``, of which all count; the namespace holds a list of texts, or None."""
    parser.add_argument(
        "--override",
        metavar="TEXT",
        action="append",
        help="options that win over the file: key.path=value, several separated by '|' or in --override flags of their "
        "own; values are YAML, null means the default, quote a value that holds '|' or ' #'",
    )


def read_options(chosen: argparse.Namespace, *assignments: Assignment) -> RunOptions:
    """Options of an image model to be used, from a command line; settle on the threads to use it with.

    Raises:
        OptionsError: with all mistakes.
    """
    options = load(chosen.opt, chosen.override, *_given(chosen), *assignments)
    cpus.settle(cpus.threads_for(options.layer_elements(testing=True)))
    return options


def require_at_least(chosen: argparse.Namespace, **least: int) -> None:
    """Raise UserError for a number that is given and is below what is said of its flag."""
    for name, bound in least.items():
        value = getattr(chosen, name, None)
        if value is not None and value < bound:
            raise UserError(f"--{name.replace('_', '-')}: expected at least {bound}, got {value}")


def read_options_of_any(chosen: argparse.Namespace) -> RunOptions | ToyOptions:
    """Options of any model, from a command line. OptionsError with all mistakes."""
    return load_any(chosen.opt, chosen.override, *_given(chosen))


def _given(chosen: argparse.Namespace) -> list[Assignment]:
    given = {flag: getattr(chosen, flag, None) for flag in _KEYS}
    return [(_KEYS[flag], value, f"--{flag}") for flag, value in given.items() if value is not None]
