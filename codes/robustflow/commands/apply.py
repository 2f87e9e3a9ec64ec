"""What a trained flow can do beside super-resolution.

robustflow apply restore -opt confs/demo.yml --input noisy.png
robustflow apply restore-study -opt confs/demo.yml --degrade noise=20 jpeg=10
robustflow apply encode -opt confs/demo.yml --input photos
robustflow apply sample -opt confs/demo.yml --input small.png --n 10
robustflow apply interpolate -opt confs/demo.yml --input small.png
robustflow apply transfer-style -opt confs/demo.yml --input photo.png --reference other.png
robustflow apply transfer-style -opt confs/demo.yml --input photo.png --reference other.png --mask 8,8,24,16
robustflow apply transfer-content -opt confs/demo.yml --input photo.png --reference other.png --mask mask.png
"""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from robustflow.commands.arguments import Parser, add_kind, add_options, path, path_text, read_options, require_at_least
from robustflow.data.sources.bundled import SPLITS
from robustflow.latent import commands, edit, restore_study
from robustflow.latent.inputs import read_place, require_mask, require_there
from robustflow.latent.measure import METRICS
from robustflow.latent.space import Collection, require_super_resolution
from robustflow.models import require_flow
from robustflow.models.loading import load_model
from robustflow.options import memory_advice
from robustflow.report import application, pages
from robustflow.utils.answer import answer
from robustflow.utils.errors import UserError
from robustflow.utils.files import require_writable

log = logging.getLogger(__name__)

Arguments = argparse.ArgumentParser
Work = Callable[[commands.Call], application.Outcome]

HOTTEST = 100.0
# What a page says elsewhere, or what is no setting.
_NOT_SETTINGS = ("kind", "opt", "weights", "output", "work", "makes_lr")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen = _make_parser().parse_args(arguments)
    return answer(lambda: _run(chosen), memory=lambda: _advise(chosen))


def _advise(chosen: argparse.Namespace) -> str:
    options = read_options(chosen)
    return memory_advice.of_sampling(options, chosen.n) if chosen.kind == "sample" else memory_advice.of_images(options)


def _make_parser() -> Parser:
    parser = Parser(prog="robustflow apply", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)

    def add(kind: str, text: str, work: Work, temperature: float | None = None, *, makes_lr: bool = True) -> Arguments:
        """A kind of work; makes_lr: whether it needs a model whose conditions are downsampled images."""
        command = add_kind(kinds, kind, text, allow_abbrev=False)
        command.set_defaults(work=work, makes_lr=makes_lr)
        add_options(command)
        usual = f"<path.results>/<name>/{pages.APPLICATIONS}"
        command.add_argument("--output", type=path, metavar="DIR", help=f"folder for the results; default: {usual}")
        if kind != "encode":
            command.add_argument("--seed", type=int, default=0, help="of all that is random; default %(default)s")
        if temperature is not None:
            text = "of what is drawn; default %(default)s"
            command.add_argument("--temperature", type=float, default=temperature, metavar="T", help=text)
        return command

    _add_restoring(add)
    _add_sampling(add)
    _add_transfers(add)
    return parser


def _add_restoring(add: Callable[..., Arguments]) -> None:
    text = "restore noisy, compressed or blurred images by way of their latents"
    restore = add("restore", text, commands.restore, 0.7)
    _add_images(restore, "--input", "degraded image, or a folder", required=True)
    _add_mask(restore, "restore there alone; of one --input", required=False)
    study = add("restore-study", "degrade clean images, restore them, and measure", commands.study, 0.7)
    _add_images(study, "--input", "clean images; default: photographs that are bundled")
    study.add_argument("--split", choices=SPLITS, help="which of the bundled photographs; default test")
    text = (
        f"one or more of those registered, options by name in braces: {restore_study.describe_degradations()}; "
        "jpeg={quality: 10}; default noise=20"
    )
    study.add_argument("--degrade", nargs="+", action="extend", default=["noise=20"], metavar="KIND[=X]", help=text)
    for command in (restore, study):
        command.add_argument(
            "--normalise",
            nargs="+",
            action="extend",
            choices=get_args(Collection),
            default=list(edit.RESTORING),
            metavar="WHAT",
            help="latents that get the statistics of samples together, one after another: spatial (a channel's), local "
            "(a position's), global (a level's); default: spatial local",
        )


def _add_sampling(add: Callable[..., Arguments]) -> None:
    text = "latents and bits per dimension of images, and how far from N(0, 1)"
    encode = add("encode", text, commands.encode, makes_lr=False)
    _add_images(encode, "--input", "HR image, or a folder", required=True)
    text = "LR image of --input, or a folder of them with the same names; default: --input, downsampled. "
    _add_images(encode, "--lr", f"{text}For models whose input has the size of the output: that input")
    text = "samples of an LR image: the best, their spread, their LR-PSNR"
    sample = add("sample", text, commands.sample, edit.SAMPLING, makes_lr=False)
    sample.add_argument("--reference", type=path, metavar="FILE", help="HR image that samples are compared with")
    sample.add_argument("--n", type=int, default=10, help="samples; default %(default)s")
    sample.add_argument("--best-of", choices=METRICS, help="what chooses the best; default psnr")
    _add_projection(sample, "each sample")
    text = "frames on the way from one sample to another"
    between = add("interpolate", text, commands.interpolate, edit.SAMPLING, makes_lr=False)
    between.add_argument("--frames", type=int, default=9, metavar="N", help="both ends included; default %(default)s")
    for command in (sample, between):
        command.add_argument("--input", type=path, required=True, metavar="FILE", help="input image of the model")


def _add_transfers(add: Callable[..., Arguments]) -> None:
    text = "the latents of one image, or of a region of it, with the LR image of another"
    style = add("transfer-style", text, commands.transfer_style)
    _add_mask(style, "take the latents of --reference there alone", required=False)
    text = "where in --input the region's upper left corner goes, rounded to whole latents; default: where it was"
    style.add_argument("--place", metavar="LEFT,TOP", help=text)
    text = "paste a part of one image into another and make it fit its LR image"
    content = add("transfer-content", text, commands.transfer_content, 0.7)
    _add_mask(content, "paste --reference there", required=True)
    for command in (style, content):
        command.add_argument("--input", type=path, required=True, metavar="FILE", help="HR image; its LR image is kept")
        text = f"HR image of the same size{', or any beside --mask or --place' if command is style else ''}"
        command.add_argument("--reference", type=path, required=True, metavar="FILE", help=text)
        _add_projection(command, "the result")


def _add_images(command: Arguments, flag: str, text: str, *, required: bool = False) -> None:
    command.add_argument(flag, type=path, required=required, metavar="FILE_OR_DIR", help=text)


def _add_mask(command: Arguments, text: str, *, required: bool) -> None:
    text = f"image that is white, or LEFT,TOP,WIDTH,HEIGHT in pixels: {text}"
    command.add_argument("--mask", type=path_text, required=required, metavar="FILE_OR_BOX", help=text)


def _add_projection(command: Arguments, what: str) -> None:
    text = f"also project {what} on its LR image, in N steps; reported apart; default: not at all"
    command.add_argument("--back-projection", type=int, default=0, metavar="N", help=text)


def _run(chosen: argparse.Namespace) -> None:
    _require_numbers(chosen)
    _require_there(chosen)
    options = read_options(chosen)
    results = Path(options.path.results) / options.name
    usual = results / pages.APPLICATIONS
    output = usual if chosen.output is None else chosen.output
    _require_apart(output, chosen)
    model = require_flow(load_model(options), chosen.kind)
    log.info("%s: %s", options.name, model.file)
    if chosen.makes_lr:
        require_super_resolution(model, chosen.kind)
    call = commands.Call(chosen, model, output, application.Album())
    outcome = chosen.work(call)
    stem = output / call.stem
    application.write(stem, chosen.kind, model, _settings(chosen), outcome, call.album)
    print(f"{outcome.text()}\n\n{stem}.html")  # noqa: T201
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
    require_at_least(chosen, n=1, frames=2, back_projection=0)


def _require_there(chosen: argparse.Namespace) -> None:
    """Raise UserError for images that do not exist, before the model is opened, which takes a while."""
    for flag in ("input", "reference", "lr"):
        given = getattr(chosen, flag, None)
        if given is not None:
            require_there(given, f"--{flag}")
    if getattr(chosen, "mask", None) is not None:
        require_mask(chosen.mask)
    if getattr(chosen, "place", None) is not None:
        read_place(chosen.place)


def _require_apart(output: Path, chosen: argparse.Namespace) -> None:
    """Raise UserError unless results can be written to a folder without meeting images that are read."""
    require_writable(output, f"--output {output}", "choose another")
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
