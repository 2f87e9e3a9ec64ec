"""What all command lines share: nothing that is given is dropped, a flag that is given twice least of all."""

import argparse
from collections.abc import Sequence
from typing import Any

from robustflow.utils import terminal


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that refuses a second value of a flag; lists (action "extend") add up, without the default.

    From when it is made on, the command can print to a terminal of any encoding.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        terminal.accept_all_characters()
        super().__init__(*arguments, **settings)
        self.register("action", None, _Once)
        self.register("action", "extend", _Extend)


class _Once(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest, self.default)
        if option_string is not None and given is not self.default and given != values:
            parser.error(f"argument {option_string}: expected once, got {given} and {values}; keep one")
        setattr(namespace, self.dest, values)


class _Extend(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(() if given is self.default else given), *(values or ())])


def add_override(parser: argparse.ArgumentParser) -> None:
    """Add ``--override``, of which all count; the namespace holds a list of texts, or None."""
    parser.add_argument(
        "--override",
        metavar="TEXT",
        action="append",
        help="options that win over the file: key.path=value, several separated by '|' or in --override flags of their "
        "own; values are YAML, null means the default, quote a value that holds '|' or ' #'",
    )
