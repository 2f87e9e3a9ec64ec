"""Convert weights between the published layout and ours; the option file may be of either.

examples:
  robustflow convert -opt X.yml --weights X_G.pth --output Y.safetensors
  robustflow convert -opt X.yml --weights Y.safetensors --output X_G.pth --reverse
  robustflow convert -opt X.yml --weights Y.safetensors --output small.safetensors --half
"""

import io
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from robustflow import models
from robustflow.commands.arguments import Parser, add_options, path
from robustflow.interop import published
from robustflow.models import RRDB, weights
from robustflow.options.load import load
from robustflow.options.schema import RunOptions
from robustflow.utils.answer import answer
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 2 mistake (message on stderr)."""
    parser = Parser(prog="robustflow convert", description=__doc__)
    add_options(parser, weights=False)
    parser.add_argument(
        "--weights", required=True, type=path, metavar="PATH", help="weights to convert: a file or an experiment folder"
    )
    parser.add_argument("--output", required=True, type=path, metavar="FILE", help="file to write")
    parser.add_argument("--reverse", action="store_true", help="write the published layout, as .pth")
    parser.add_argument("--half", action="store_true", help="round to float16: half the size; computed with as float32")
    chosen = parser.parse_args(arguments)
    return answer(
        lambda: convert(
            *(load(chosen.opt, chosen.override), chosen.weights, chosen.output),
            reverse=chosen.reverse,
            half=chosen.half,
        )
    )


def convert(options: RunOptions, source: Path, output: Path, *, reverse: bool, half: bool = False) -> None:
    """Read weights in either layout and write them in ours (safetensors), or with ``reverse`` in the published one."""
    if reverse and half:
        raise UserError("--half: expected none with --reverse: the published codes compute with what they read")
    suffix = ".pth" if reverse else ".safetensors"
    if output.suffix != suffix:
        raise UserError(f"--output: expected a {suffix} file, got {output}")
    source = weights.locate(str(source))
    if output.resolve() == source.resolve():
        raise UserError(f"--output: expected another file than --weights {source}, which would be replaced")
    for key in ("max_log_scale", "soft"):
        if reverse and getattr(options.network_G.flow.split, key) is not None:
            raise UserError(
                f"network_G.flow.split.{key}: expected null with --reverse: published networks have no such bound, "
                "and would sample otherwise"
            )
    options = weights.fit_options(options, source)
    model = models.build(options)
    weights.load(source, model, options, encoder_suffices=False)
    if reverse:
        if isinstance(model, RRDB) and model.residual == "first_conv":
            log.warning("%s: its names do not say so: read it with model: {type: RRDB, residual: first_conv}", output)
        buffer = io.BytesIO()
        torch.save(published.write_back(model.network), buffer)
        write_atomically(output, buffer.getvalue())
    else:
        weights.save(output, model, options, iteration=0, half=half)
    log.info("wrote %s", output)
