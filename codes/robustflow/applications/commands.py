"""What a trained super-resolution flow can do beside super-resolution.

python -m robustflow.apply restore -opt confs/demo.yml --input noisy.png --output out
python -m robustflow.apply restore-study -opt confs/demo.yml --degrade noise=20 --output out
python -m robustflow.apply encode -opt confs/demo.yml --input photos --output out
python -m robustflow.apply sample -opt confs/demo.yml --input small.png --n 10 --output out
python -m robustflow.apply interpolate -opt confs/demo.yml --input small.png --output out
python -m robustflow.apply transfer-style -opt confs/demo.yml --input photo.png --reference other.png --output out
python -m robustflow.apply transfer-content -opt confs/demo.yml --input photo.png --reference other.png \\
    --mask mask.png --output out
"""

import argparse
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from tqdm import tqdm

from robustflow import exit_status
from robustflow.applications import degradations, edit, restore_study, sampling, sheet, statistics
from robustflow.applications.latent_space import Collection
from robustflow.applications.model import Model, inputs, opened, read_mask, read_one, require_size, size_of
from robustflow.data.images import read_image, write_png
from robustflow.data.seeds import derive_seed
from robustflow.errors import UserError
from robustflow.evaluation.metrics.robustness import PIXEL_RANGE, outside
from robustflow.options import command_line

log = logging.getLogger(__name__)

MEMORY = "Use smaller images, or lower network_G.flow.projection_memory or val.sample_batch."
Work = Callable[[argparse.Namespace, Model, Path], str]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m robustflow.apply", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind, (work, told, heat, add) in _COMMANDS.items():
        command = kinds.add_parser(kind, help=told, description=told)
        command.set_defaults(work=work)
        command.add_argument("-opt", "--opt", metavar="FILE", required=True, help="YAML file with the model's options")
        command.add_argument("--override", metavar="TEXT", help="options that win over the file, as for test.py")
        command.add_argument("--weights", metavar="FILE", help="weights file or experiment folder, as for test.py")
        command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
        command.add_argument("--seed", type=int, default=0, help="of all that is random; default %(default)s")
        if heat is not None:
            command.add_argument("--temperature", type=float, default=heat, metavar="T", help="default %(default)s")
        add(command)
    return parser


def _image_or_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=Path, required=True, metavar="FILE_OR_DIR", help="HR image, or a folder")


def _restoring(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=Path, required=True, metavar="FILE_OR_DIR", help="degraded image, or a folder")
    command.add_argument("--mask", type=Path, metavar="FILE", help="restore where this image is white; of one --input")
    _normalising(command)


def _normalising(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--normalise",
        nargs="+",
        choices=get_args(Collection),
        default=edit.RESTORING,
        metavar="WHAT",
        help="latents that get the statistics of samples together, one after another: spatial (a channel's), local (a "
        "position's), global (a level's); default: spatial local",
    )


def _studying(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input", type=Path, metavar="FILE_OR_DIR", help="clean images; default: the bundled test photographs"
    )
    command.add_argument("--degrade", default="noise=20", metavar="KIND=X", help=degradations.DESCRIBED)
    _normalising(command)


def _sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=Path, required=True, metavar="FILE", help="LR image")
    command.add_argument("--reference", type=Path, metavar="FILE", help="HR image that samples are compared with")
    command.add_argument("--n", type=int, default=10, help="samples; default %(default)s")
    command.add_argument("--best-of", choices=sampling.METRICS, help="what chooses the best; default psnr")
    command.add_argument(
        "--back-projection",
        type=int,
        default=0,
        metavar="N",
        help="also project each sample on its LR image, in N steps; reported apart",
    )


def _interpolating(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=Path, required=True, metavar="FILE", help="LR image")
    command.add_argument("--frames", type=int, default=9, metavar="N", help="both ends included; default %(default)s")


def _transferring(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", type=Path, required=True, metavar="FILE", help="HR image whose LR image is kept")
    command.add_argument("--reference", type=Path, required=True, metavar="FILE", help="HR image of the same size")


def _transferring_content(command: argparse.ArgumentParser) -> None:
    _transferring(command)
    command.add_argument("--mask", type=Path, required=True, metavar="FILE", help="white where to paste --reference")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen = _parser().parse_args(arguments)
    return exit_status.answered(lambda: _run(chosen), memory=MEMORY)


def _run(chosen: argparse.Namespace) -> None:
    temperature = getattr(chosen, "temperature", 0.0)
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UserError(f"--temperature: expected a number of at least 0, got {temperature}")
    if chosen.output.exists() and not chosen.output.is_dir():
        raise UserError(f"--output {chosen.output}: expected a folder, got a file; choose another")
    folder = chosen.input
    if folder is not None and folder.is_dir() and chosen.output.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"--output {chosen.output}: expected a folder apart from --input {folder}, whose images are read"
        )
    work: Work = chosen.work
    print(work(chosen, opened(command_line.load_or_exit(chosen)), chosen.output))  # noqa: T201


def _generator(chosen: argparse.Namespace, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(chosen.seed, name, chosen.kind))


def _write(file: Path, image: Tensor) -> None:
    """Write a decoded image (3, H, W), not clamped; warn of pixels that are no colours."""
    failed = outside(image[None])
    if failed.any():
        log.warning(
            "%s: %.3g %% of its pixels are outside [%g, %g] before clamping: the model's inverse explodes there",
            file.name,
            100 * failed.float().mean().item(),
            *PIXEL_RANGE,
        )
    write_png(file, image)


def _restore(chosen: argparse.Namespace, model: Model, output: Path) -> str:
    files = inputs(chosen.input)
    if chosen.mask is not None and not chosen.input.is_file():
        raise UserError("--mask: expected one image as --input, got a folder")
    for name, file in tqdm(files.items(), desc="restore", unit="image", leave=False, disable=None):
        image = read_image(file)
        mask = None if chosen.mask is None else read_mask(chosen.mask, size_of(image))
        generator = _generator(chosen, name)
        restored = edit.restored(model, image, chosen.temperature, generator, collections=chosen.normalise, mask=mask)
        _write(output / f"{name}_restored.png", restored)
        sheet.write(output / f"{name}_side_by_side.png", {"given": image, "restored": restored})
    return f"{len(files)} restored, in {output}"


def _study(chosen: argparse.Namespace, model: Model, output: Path) -> str:
    degradation = degradations.parsed(chosen.degrade)
    request = restore_study.Request(degradation, chosen.temperature, tuple(chosen.normalise), chosen.seed)
    return restore_study.table(restore_study.run(model, chosen.input, request, output))


def _encode(chosen: argparse.Namespace, model: Model, output: Path) -> str:
    files = tqdm(inputs(chosen.input).items(), desc="encode", unit="image", leave=False, disable=None)
    return statistics.table([statistics.run(model, name, read_image(file), output) for name, file in files])


def _sample(chosen: argparse.Namespace, model: Model, output: Path) -> str:
    if chosen.n < 1:
        raise UserError(f"--n: expected at least 1, got {chosen.n}")
    if chosen.back_projection < 0:
        raise UserError(f"--back-projection: expected 0 or more steps, got {chosen.back_projection}")
    if chosen.best_of is not None and chosen.reference is None:
        raise UserError("--best-of: expected --reference beside it, the HR image to compare with")
    lr = read_one(chosen.input, "--input")
    reference = None
    if chosen.reference is not None:
        reference = read_one(chosen.reference, "--reference")
        height, width = size_of(lr)
        why = f"{model.scale} times --input"
        require_size(reference, (model.scale * height, model.scale * width), f"--reference {chosen.reference}", why)
    best_of = None if reference is None else chosen.best_of or "psnr"
    request = sampling.Request(chosen.n, chosen.temperature, chosen.seed, best_of, chosen.back_projection)
    (name,) = inputs(chosen.input)
    return sampling.table(sampling.run(model, name, lr, reference, request, output))


def _interpolate(chosen: argparse.Namespace, model: Model, output: Path) -> str:
    if chosen.frames < 2:
        raise UserError(f"--frames: expected at least 2, got {chosen.frames}")
    lr = read_one(chosen.input, "--input")
    (name,) = inputs(chosen.input)
    seeds = (derive_seed(chosen.seed, name, 0), derive_seed(chosen.seed, name, 1))
    made = edit.interpolated(model, lr, chosen.frames, chosen.temperature, seeds)
    frames = tqdm(made, desc="interpolate", unit="frame", total=chosen.frames, leave=False, disable=None)
    shown: dict[str, Tensor] = {}
    for number, frame in enumerate(frames):
        _write(output / f"{name}_{number:03d}.png", frame)
        shown[f"t = {number / (chosen.frames - 1):.2f}"] = frame
    sheet.write(output / f"{name}_side_by_side.png", shown, columns=5)
    return f"{chosen.frames} frames, in {output}"


def _two(chosen: argparse.Namespace) -> tuple[str, Tensor, Tensor]:
    """Name and pixels of the input, and of the reference of the same size."""
    target = read_one(chosen.input, "--input")
    source = read_one(chosen.reference, "--reference")
    require_size(source, size_of(target), f"--reference {chosen.reference}", "as --input has")
    (name,) = inputs(chosen.input)
    return name, target, source


def _transfer_style(chosen: argparse.Namespace, model: Model, output: Path) -> str:
    name, target, source = _two(chosen)
    result = edit.style_transferred(model, target, source)
    _write(output / f"{name}_style.png", result)
    shown = {"its LR image is kept": target, "its latents are taken": source, "style transferred": result}
    sheet.write(output / f"{name}_side_by_side.png", shown)
    return _told(model, result, target, output)


def _transfer_content(chosen: argparse.Namespace, model: Model, output: Path) -> str:
    name, target, source = _two(chosen)
    mask = read_mask(chosen.mask, size_of(target))
    pasted, result = edit.content_transferred(model, target, source, mask, chosen.temperature, _generator(chosen, name))
    write_png(output / f"{name}_pasted.png", pasted)
    _write(output / f"{name}_content.png", result)
    shown = {"its LR image is kept": target, "source": source, "pasted": pasted, "content transferred": result}
    sheet.write(output / f"{name}_side_by_side.png", shown)
    return _told(model, result, target, output)


def _told(model: Model, result: Tensor, target: Tensor, output: Path) -> str:
    consistency = edit.lr_psnr(model, result, target)
    return f"LR-PSNR to the LR image of --input: {consistency:.2f} dB; in {output}"


# What runs, what it does, default temperature if it has one, its own arguments.
_COMMANDS: dict[str, tuple[Work, str, float | None, Callable[[argparse.ArgumentParser], None]]] = {
    "restore": (_restore, "restore noisy, compressed or blurred images by way of their latents", 0.7, _restoring),
    "restore-study": (_study, "degrade clean images, restore them, and measure", 0.7, _studying),
    "encode": (_encode, "latents and bits per dimension of images, and how far from N(0, 1)", None, _image_or_folder),
    "sample": (_sample, "samples of an LR image: the best, their spread, their LR-PSNR", 0.9, _sampling),
    "interpolate": (_interpolate, "frames on the way from one sample to another", 0.9, _interpolating),
    "transfer-style": (_transfer_style, "the latents of one image with the LR image of another", None, _transferring),
    "transfer-content": (
        _transfer_content,
        "paste a part of one image into another and make it fit its LR image",
        0.7,
        _transferring_content,
    ),
}
