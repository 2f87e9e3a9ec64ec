"""Command line of train.py and test.py."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from robustflow.options import amount
from robustflow.options.arguments import Parser, add_override
from robustflow.options.load import Assignment, load, load_any
from robustflow.options.schema import RunOptions
from robustflow.options.toy import ToyOptions
from robustflow.options.yaml_tree import OptionsError
from robustflow.utils import paths

T = TypeVar("T")

_TRAINING = """examples:
  python train.py -opt confs/demo.yml
  python train.py -opt confs/demo.yml --override "train.niter=200|network_G.flow.coupling=rq_spline"
  python train.py -opt confs/demo.yml --resume auto
  python train.py -opt confs/demo.yml --check"""

_TESTING = """examples:
  python test.py -opt confs/demo.yml
  python test.py -opt confs/demo.yml --weights weights.safetensors --override "val.heats=[0, 0.8]|val.n_sample=5"
  python test.py -opt confs/demo.yml --input photos/ --output upscaled/
  python test.py -opt confs/demo.yml --trace"""

_KEYS = {"resume": "path.resume_state", "weights": "path.model_path"}


def parse(argv: Sequence[str] | None, *, testing: bool) -> argparse.Namespace:
    """Read the arguments of a training or of a test; None reads those of the process."""
    parser = Parser(
        prog="test.py" if testing else "train.py",
        description="Test a trained model." if testing else "Train a model.",
        epilog=(_TESTING if testing else _TRAINING) + "\n\nAll keys: python -m robustflow.options",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-opt", "--opt", metavar="FILE", required=True, help="YAML file with the options of the run")
    add_override(parser)
    if testing:
        _add_testing(parser)
    else:
        parser.add_argument(
            "--resume",
            metavar="auto|FILE",
            help="continue a run: auto takes its newest checkpoint, FILE is a .state file or the "
            "folder of an experiment (sets path.resume_state)",
        )
        parser.add_argument(
            "--check",
            action="store_true",
            help="try everything before the run: data, a few steps, save, resume, validation; estimate time, memory "
            "and disk; nothing is left behind",
        )
    return parser.parse_args(argv)


def _add_testing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="FILE", help="weights file or experiment folder (sets path.model_path)")
    parser.add_argument(
        "--input",
        type=paths.text_of_flag,
        metavar="DIR_OR_FILE",
        help="own low-resolution images, in place of the datasets",
    )
    parser.add_argument(
        "--output",
        type=paths.text_of_flag,
        metavar="DIR",
        help="folder for the results; default: <path.results>/<name>",
    )
    parser.add_argument(
        "--trace",
        action="store_true",
        help="instead of metrics: what every layer does along sampling, which one explodes first, and how much the "
        "model can amplify; into the sub-folder trace",
    )
    parser.add_argument("--quiet", action="store_true", help="print warnings and the table, nothing of what is done")


def load_or_exit(namespace: argparse.Namespace) -> RunOptions:
    """Load the options of an image model, to be used; report mistakes on stderr and exit with status 2.

    Settle on the threads to use it with.
    """
    options = _or_exit(load, namespace)
    amount.settle_threads(options, testing=True)
    return options


def load_any_or_exit(namespace: argparse.Namespace) -> RunOptions | ToyOptions:
    """Load the options of any model; report mistakes on stderr and exit with status 2."""
    return _or_exit(load_any, namespace)


def _or_exit(read: Callable[..., T], namespace: argparse.Namespace) -> T:
    level = logging.WARNING if getattr(namespace, "quiet", False) else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    given = [(flag, key) for flag, key in _KEYS.items() if getattr(namespace, flag, None) is not None]
    assignments = [Assignment(key, getattr(namespace, flag), f"--{flag}") for flag, key in given]
    try:
        return read(namespace.opt, namespace.override, *assignments)
    except OptionsError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
