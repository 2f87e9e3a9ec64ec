"""Convert weights between the published layout and ours: `python -m robustflow.interop.convert -opt X.yml ...`."""

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from robustflow import models
from robustflow.interop import published
from robustflow.models import weights
from robustflow.options.arguments import Parser, add_override
from robustflow.options.load import load
from robustflow.options.schema import RunOptions
from robustflow.utils import exit_status, paths
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)

_EXAMPLES = """examples:
  python -m robustflow.interop.convert -opt X.yml --weights X_G.pth --output Y.safetensors
  python -m robustflow.interop.convert -opt X.yml --weights Y.safetensors --output X_G.pth --reverse"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 2 mistake (message on stderr)."""
    parser = Parser(
        prog="python -m robustflow.interop.convert",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file, published or ours")
    add_override(parser)
    parser.add_argument("--weights", required=True, type=paths.of_flag, metavar="FILE", help="weights to convert")
    parser.add_argument("--output", required=True, type=paths.of_flag, metavar="FILE", help="file to write")
    parser.add_argument("--reverse", action="store_true", help="write the published layout, as .pth")
    chosen = parser.parse_args(arguments)
    return exit_status.answered(
        lambda: convert(load(chosen.opt, chosen.override), chosen.weights, chosen.output, reverse=chosen.reverse)
    )


def convert(options: RunOptions, source: Path, output: Path, *, reverse: bool) -> None:
    """Read weights in either layout and write them in ours (safetensors), or with ``reverse`` in the published one."""
    suffix = ".pth" if reverse else ".safetensors"
    if output.suffix != suffix:
        raise UserError(f"--output: expected a {suffix} file, got {output}")
    if output.resolve() == source.resolve():
        raise UserError(f"--output: expected another file than --weights {source}, which would be replaced")
    if reverse and options.network_G.flow.split.max_log_scale is not None:
        raise UserError(
            "network_G.flow.split.max_log_scale: expected null with --reverse: published networks have no such bound, "
            "and would sample otherwise"
        )
    options = weights.fitting(options, source)
    model = models.build(options)
    weights.load(source, model, options, encoder_suffices=False)
    if reverse:
        buffer = io.BytesIO()
        torch.save(published.write_back(model.network), buffer)
        write_atomically(output, buffer.getvalue())
    else:
        weights.save(output, model, options, iteration=0)
    log.info("wrote %s", output)


if __name__ == "__main__":
    sys.exit(main())
