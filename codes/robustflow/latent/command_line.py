"""What a trained flow can do beside super-resolution.

python -m robustflow.apply restore -opt confs/demo.yml --input noisy.png
python -m robustflow.apply restore-study -opt confs/demo.yml --degrade noise=20 jpeg=10
python -m robustflow.apply encode -opt confs/demo.yml --input photos
python -m robustflow.apply sample -opt confs/demo.yml --input small.png --n 10
python -m robustflow.apply interpolate -opt confs/demo.yml --input small.png
python -m robustflow.apply transfer-style -opt confs/demo.yml --input photo.png --reference other.png
python -m robustflow.apply transfer-content -opt confs/demo.yml --input photo.png --reference other.png --mask mask.png
"""

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from robustflow.data.sources.bundled import SPLITS
from robustflow.latent import commands, edit, page, restore_study
from robustflow.latent.likeness import METRICS
from robustflow.latent.model import opened, require_mask, require_there
from robustflow.latent.space import Collection
from robustflow.options import command_line, memory_advice
from robustflow.options.arguments import Parser, add_override
from robustflow.report import pages
from robustflow.utils import exit_status
from robustflow.utils.errors import UserError
from robustflow.utils.files import existing_part
from robustflow.utils.paths import of_flag, text_of_flag

log = logging.getLogger(__name__)

HOTTEST = 100.0
# What a page says of elsewhere, or what is no setting.
_NOT_SETTINGS = ("kind", "opt", "weights", "output")


class Kind(NamedTuple):
    """A command.

    Attributes:
        work: What it does.
        told: The same, for --help.
        temperature: Default, if it has one.
        add: Adds its own arguments.
        makes_lr: Whether it needs a model whose conditions are downsampled images.
        random: Whether anything in it is.
    """

    work: Callable[[commands.Call], page.Outcome]
    told: str
    temperature: float | None
    add: Callable[[argparse.ArgumentParser], None]
    makes_lr: bool = True
    random: bool = True


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m robustflow.apply", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, kind in KINDS.items():
        command = kinds.add_parser(name, help=kind.told, description=kind.told, allow_abbrev=False)
        command.add_argument("-opt", "--opt", metavar="FILE", required=True, help="YAML file with the model's options")
        add_override(command)
        command.add_argument("--weights", metavar="FILE", help="weights file or experiment folder, as for test.py")
        command.add_argument(
            "--output",
            type=of_flag,
            metavar="DIR",
            help=f"folder for the results; default: <path.results>/<name>/{pages.APPLICATIONS}",
        )
        if kind.random:
            command.add_argument("--seed", type=int, default=0, help="of all that is random; default %(default)s")
        if kind.temperature is not None:
            command.add_argument(
                "--temperature", type=float, default=kind.temperature, metavar="T", help="default %(default)s"
            )
        kind.add(command)
    return parser


def _encoding(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=of_flag, required=True, metavar="FILE_OR_DIR", help="HR image, or a folder")
    command.add_argument(
        "--lr",
        type=of_flag,
        metavar="FILE_OR_DIR",
        help="LR image of --input, or a folder of them with the same names; default: --input, downsampled. For models "
        "whose input has the size of the output: that input",
    )


def _restoring(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input", type=of_flag, required=True, metavar="FILE_OR_DIR", help="degraded image, or a folder"
    )
    _masked(command, required=False, told="restore there alone; of one --input")
    _normalising(command)


def _masked(command: argparse.ArgumentParser, *, required: bool, told: str) -> None:
    command.add_argument(
        "--mask",
        type=text_of_flag,
        required=required,
        metavar="FILE_OR_BOX",
        help=f"image that is white, or LEFT,TOP,WIDTH,HEIGHT in pixels: {told}",
    )


def _normalising(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--normalise",
        nargs="+",
        action="extend",
        choices=get_args(Collection),
        default=list(edit.RESTORING),
        metavar="WHAT",
        help="latents that get the statistics of samples together, one after another: spatial (a channel's), local (a "
        "position's), global (a level's); default: spatial local",
    )


def _studying(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input", type=of_flag, metavar="FILE_OR_DIR", help="clean images; default: photographs that are bundled"
    )
    command.add_argument("--split", choices=SPLITS, help="which of the bundled photographs; default test")
    command.add_argument(
        "--degrade",
        nargs="+",
        action="extend",
        default=["noise=20"],
        metavar="KIND=X",
        help=f"one or more of: {restore_study.DESCRIBED}",
    )
    _normalising(command)


def _sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=of_flag, required=True, metavar="FILE", help="input image of the model")
    command.add_argument("--reference", type=of_flag, metavar="FILE", help="HR image that samples are compared with")
    command.add_argument("--n", type=int, default=10, help="samples; default %(default)s")
    command.add_argument("--best-of", choices=METRICS, help="what chooses the best; default psnr")
    _projecting(command, "each sample")


def _projecting(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument(
        "--back-projection",
        type=int,
        default=0,
        metavar="N",
        help=f"also project {what} on its LR image, in N steps; reported apart",
    )


def _interpolating(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=of_flag, required=True, metavar="FILE", help="input image of the model")
    command.add_argument("--frames", type=int, default=9, metavar="N", help="both ends included; default %(default)s")


def _transferring(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=of_flag, required=True, metavar="FILE", help="HR image whose LR image is kept")
    command.add_argument("--reference", type=of_flag, required=True, metavar="FILE", help="HR image of the same size")
    _projecting(command, "the result")


def _transferring_content(command: argparse.ArgumentParser) -> None:
    _transferring(command)
    _masked(command, required=True, told="paste --reference there")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen = _parser().parse_args(arguments)
    return exit_status.answered(lambda: _run(chosen), memory=lambda: _memory(chosen))


def _memory(chosen: argparse.Namespace) -> str:
    options = command_line.load_or_exit(chosen)
    return memory_advice.of_sampling(options, chosen.n) if chosen.kind == "sample" else memory_advice.of_images(options)


def _run(chosen: argparse.Namespace) -> None:
    kind: Kind = KINDS[chosen.kind]
    _require_numbers(chosen)
    _require_there(chosen)
    options = command_line.load_or_exit(chosen)
    results = Path(options.path.results) / options.name
    usual = results / pages.APPLICATIONS
    output = usual if chosen.output is None else chosen.output
    _require_apart(output, chosen)
    model = opened(options)
    if kind.makes_lr:
        model.require_lr(chosen.kind)
    call = commands.Call(chosen, model, output, page.Gallery())
    outcome = kind.work(call)
    stem = output / call.stem
    page.write(stem, chosen.kind, model, _settings(chosen), outcome, call.gallery)
    told = [f"{table.title}\n{table.text()}".strip() for table in outcome.tables]
    print("\n\n".join([*told, f"{stem}.html"]))  # noqa: T201
    if output.resolve() == usual.resolve() and (results / "metrics.json").is_file():
        _link(results)


def _link(results: Path) -> None:
    """Write the model's report again, which names the page; a mistake there does not undo what is done."""
    try:
        pages.write(results)
    except UserError as error:
        log.warning("%s: not written again with the new page: %s", results / "report.html", error)


def _require_numbers(chosen: argparse.Namespace) -> None:
    temperature = getattr(chosen, "temperature", 0.0)
    if not 0 <= temperature <= HOTTEST:
        raise UserError(f"--temperature: expected a number from 0 to {HOTTEST:g}, got {temperature}")
    for name, least in (("n", 1), ("frames", 2), ("back_projection", 0)):
        value = getattr(chosen, name, least)
        if value < least:
            raise UserError(f"--{name.replace('_', '-')}: expected at least {least}, got {value}")


def _require_there(chosen: argparse.Namespace) -> None:
    """Raise UserError for images that do not exist, before the model is opened, which takes a while."""
    for flag in ("input", "reference", "lr"):
        path = getattr(chosen, flag, None)
        if path is not None:
            require_there(path, f"--{flag}")
    if getattr(chosen, "mask", None) is not None:
        require_mask(chosen.mask)


def _require_apart(output: Path, chosen: argparse.Namespace) -> None:
    """Raise UserError unless results can be written to a folder without meeting images that are read."""
    there = existing_part(output)
    if not there.is_dir():
        raise UserError(f"--output {output}: expected a folder, got a file, {there}; choose another")
    if not os.access(there, os.W_OK):
        raise UserError(f"--output {output}: expected a folder that can be written to, got {there}; choose another")
    for flag in ("input", "reference", "lr", "mask"):
        given = getattr(chosen, flag, None)
        if given is None or (flag == "mask" and not Path(given).is_file()):
            continue
        read, here = Path(given).resolve(), output.resolve()
        if here.is_relative_to(read) if read.is_dir() else read.is_file() and read.parent == here:
            raise UserError(
                f"--output {output}: expected a folder apart from --{flag} {given}: results could replace what "
                "is read; choose another"
            )


def _settings(chosen: argparse.Namespace) -> dict[str, Any]:
    values = {name: value for name, value in vars(chosen).items() if name not in _NOT_SETTINGS and value is not None}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


KINDS: dict[str, Kind] = {
    "restore": Kind(
        commands.restore, "restore noisy, compressed or blurred images by way of their latents", 0.7, _restoring
    ),
    "restore-study": Kind(commands.study, "degrade clean images, restore them, and measure", 0.7, _studying),
    "encode": Kind(
        commands.encode,
        "latents and bits per dimension of images, and how far from N(0, 1)",
        None,
        _encoding,
        makes_lr=False,
        random=False,
    ),
    "sample": Kind(
        commands.sample,
        "samples of an LR image: the best, their spread, their LR-PSNR",
        edit.SAMPLING,
        _sampling,
        makes_lr=False,
    ),
    "interpolate": Kind(
        commands.interpolate,
        "frames on the way from one sample to another",
        edit.SAMPLING,
        _interpolating,
        makes_lr=False,
    ),
    "transfer-style": Kind(
        commands.transfer_style, "the latents of one image with the LR image of another", None, _transferring
    ),
    "transfer-content": Kind(
        commands.transfer_content,
        "paste a part of one image into another and make it fit its LR image",
        0.7,
        _transferring_content,
    ),
}
