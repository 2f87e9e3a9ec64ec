"""The commands of `robustflow apply`: what each reads, does, writes and finds."""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.data.images import read_image, to_float, to_uint8, write_png
from robustflow.data.sources.pairs import pair_files
from robustflow.evaluation.metrics import diversity
from robustflow.evaluation.sampling import latent_generator
from robustflow.latent import edit, restore_study, sampling, statistics
from robustflow.latent.inputs import find_images, find_offset, read_mask, read_one, read_place, require_size
from robustflow.latent.measure import measure, to_table
from robustflow.latent.space import LatentSpace, lr_of, require_super_resolution, size_of
from robustflow.models import FlowModel, SuperResolution
from robustflow.models.protocol import DENSITY
from robustflow.report import sheet
from robustflow.report.application import Album, Outcome
from robustflow.report.columns import count
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

# Frames of an interpolation that are shown side by side, at most.
_SHOWN = 10


class Call(NamedTuple):
    """A command with all that it needs.

    Attributes:
        chosen: Its arguments.
        model: What it is done with.
        output: Folder for the results.
        album: Pictures for its page.
    """

    chosen: argparse.Namespace
    model: FlowModel
    output: Path
    album: Album

    @property
    def stem(self) -> str:
        """Name of page and JSON, with that of the image or folder."""
        kind, given = self.chosen.kind.replace("-", "_"), self.chosen.input
        if given is None:
            return kind
        return f"{self.name if given.is_file() else given.resolve().name}_{kind}"

    @property
    def name(self) -> str:
        """Name of the one image given."""
        (name,) = find_images(self.chosen.input)
        return name

    def generator(self, name: str) -> torch.Generator:
        """Source of all that is random for an image."""
        return torch.Generator().manual_seed(derive_seed(self.chosen.seed, name, self.chosen.kind))

    def show(self, name: str, shown: Mapping[str, Tensor], columns: int | None = None) -> None:
        """Write pictures side by side, and put them on the page."""
        kind = self.chosen.kind.replace("-", "_")
        sheet.write(self.output / f"{name}_{kind}_side_by_side.png", shown, columns)
        self.album.add(name, shown)

    def write(self, name: str, image: Tensor) -> None:
        """Write a decoded image (3, H, W), not clamped, as PNG; see `sheet.write_decoded`."""
        sheet.write_decoded(self.output / f"{name}.png", image)

    def progress(self, files: Mapping[str, Path]) -> "tqdm[tuple[str, Path]]":
        """Names and files, with a bar."""
        return tqdm(files.items(), desc=self.chosen.kind, unit="image", leave=False, disable=None)


def restore(call: Call) -> Outcome:
    """Restore degraded images."""
    chosen, model = call.chosen, call.model
    files = find_images(chosen.input)
    if chosen.mask is not None and not chosen.input.is_file():
        raise UserError("--mask: expected one image as --input, got a folder")
    found: dict[str, dict[str, float | None]] = {}
    for name, file in call.progress(files):
        image = read_image(file)
        mask = None if chosen.mask is None else read_mask(chosen.mask, size_of(image))
        space = LatentSpace.of(model, image)
        restored = edit.restore(space, image, chosen.temperature, call.generator(name), chosen.normalise, mask)
        call.write(f"{name}_restored", restored)
        call.show(name, {"given": image, "restored": restored})
        found[name] = measure(model, restored, lr_of(model, to_uint8(image)))
    about = (
        "Each image was encoded given its own downsampled image, its latents were given mean and variance of samples, "
        "and decoded. LR-PSNR: of what was restored, to the downsampled image."
    )
    return Outcome(about, {"": to_table("image", found)}, {"images": found})


def study(call: Call) -> Outcome:
    """Measure restoration."""
    chosen = call.chosen
    if chosen.input is not None and chosen.split is not None:
        raise UserError("--split: expected no --input beside it: it names bundled photographs")
    found = restore_study.run(
        call.model,
        chosen.input or chosen.split or "test",
        dict(map(restore_study.parse_degradation, chosen.degrade)),
        call.output,
        call.album,
        temperature=chosen.temperature,
        collections=chosen.normalise,
        seed=chosen.seed,
    )
    tables = {kind: to_table(count(len(one["images"]), "image"), one["mean"]) for kind, one in found.items()}
    about = (
        "Clean images were degraded; their LR images were super-resolved, at two temperatures; and they were restored: "
        "encoded given their LR images, their latents normalised, decoded. Figures are means over images, to the clean "
        "ones."
    )
    return Outcome(about, tables, {"degradations": found})


def encode(call: Call) -> Outcome:
    """Tell what the model thinks of images."""
    files = find_images(call.chosen.input)
    conditions = _find_conditions(call, files)
    found = {}
    for name, file in call.progress(files):
        image = read_image(file)
        lr = read_image(conditions[name]) if name in conditions else lr_of(call.model, image)
        scale = call.model.scale
        height, width = (-(-side // scale) for side in size_of(image))
        require_size(lr, (height, width), f"LR image of {name}", f"those of the image through {scale}")
        space = LatentSpace(call.model, lr, size_of(image))
        found[name], maps, latents = statistics.write(space, name, image, call.output)
        call.show(name, {"image": image, **maps})
        call.album.plot(partial(statistics.plot, name, latents, found[name]))
    about = (
        f"Each image was encoded given its {_name_input(call.model)}; under the model its latents are independent and "
        "standard normal at every level. Maps show their root mean square over channels: 1 is a third of white, and "
        "places darker or brighter than that are unlike what the model learnt. Bits per dimension are low for whatever "
        f"is smooth, and no sign of that; they are {DENSITY}."
    )
    return Outcome(about, {"": statistics.to_table(found)}, {"images": found})


def _find_conditions(call: Call, files: Mapping[str, Path]) -> dict[str, Path]:
    """LR images by name, where they are given."""
    given: Path | None = call.chosen.lr
    if given is None:
        if not isinstance(call.model, SuperResolution):
            raise UserError(f"--lr: expected the input that --input is the output of, for {call.model.file}, got none")
        return {}
    if call.chosen.input.is_file() != given.is_file():
        raise UserError(f"--lr {given}: expected a file if --input is one, and a folder if --input is one")
    found = find_images(given, "--lr")
    if call.chosen.input.is_file():
        return dict(zip(files, found.values(), strict=True))
    if missing := [name for name in files if name not in found]:
        try:
            partners = dict(pair_files(call.chosen.input, given, call.model.scale))
        except UserError as error:
            raise UserError(
                f"--lr {given}: expected an image of each name of --input, or with a mark of published sets (x4, _LR), "
                f"got none named {missing[0]}"
            ) from error
        return {name: partners[file] for name, file in files.items()}
    return found


def sample(call: Call) -> Outcome:
    """Draw samples, and measure them."""
    chosen, model = call.chosen, call.model
    if chosen.best_of is not None and chosen.reference is None:
        raise UserError("--best-of: expected --reference beside it, the HR image to compare with")
    if chosen.back_projection > 0:
        require_super_resolution(model, "--back-projection")
    lr = read_one(chosen.input, "--input")
    reference = None
    if chosen.reference is not None:
        reference = read_one(chosen.reference, "--reference")
        sampling.require_reference(reference, lr, model.scale, f"--reference {chosen.reference}")
    best_of = None if reference is None else chosen.best_of or "psnr"
    found, shown = sampling.draw(
        *(model, call.name, lr, reference, call.output),
        n=chosen.n,
        temperature=chosen.temperature,
        seed=chosen.seed,
        best_of=best_of,
        back_projection=chosen.back_projection,
    )
    call.show(call.name, shown)
    about = f"{chosen.n} sample{'s were' if chosen.n > 1 else ' was'} drawn at temperature {chosen.temperature:g}."
    if best_of is not None:
        about += f" The best is that by {best_of.upper()} to the reference."
    if chosen.n > 1:
        about += f" White in the map of standard deviations: {diversity.WHITE:g} of the range, or more."
    if chosen.back_projection > 0:
        about += " Back-projected: the same, projected on the LR image; not what the model drew."
    return Outcome(about, {"": to_table("sample", sampling.list_rows(found))}, found)


def interpolate(call: Call) -> Outcome:
    """Go from one sample to another."""
    chosen, model = call.chosen, call.model
    lr, name = read_one(chosen.input, "--input"), call.name
    ends = latent_generator(chosen.seed, name, 0), latent_generator(chosen.seed, name, 1)
    made = edit.interpolate(LatentSpace(model, lr), chosen.frames, chosen.temperature, ends)
    frames = tqdm(made, desc=chosen.kind, unit="frame", total=chosen.frames, leave=False, disable=None)
    evenly = {round(k * (chosen.frames - 1) / (_SHOWN - 1)) for k in range(_SHOWN)}
    files: list[Path] = []
    shown: dict[str, Tensor] = {}
    found: dict[str, dict[str, float | None]] = {}
    for number, frame in enumerate(frames):
        label = f"t = {number / (chosen.frames - 1):.6g}"
        files.append(call.output / f"{name}_frame_{number:03d}.png")
        sheet.write_decoded(files[-1], frame)
        found[label] = measure(model, frame, lr)
        if number in evenly:
            shown[label] = frame.cpu()
    sheet.remove_beyond(call.output, f"{name}_frame", chosen.frames)
    sheet.write_moving(call.output / f"{name}_moving.apng", map(read_image, files))
    call.show(name, shown, columns=5)
    about = (
        f"Latents of two samples at temperature {chosen.temperature:g}, and those on the arc between them, were "
        f"decoded given the same {_name_input(model)}; {name}_moving.apng shows them one after another."
    )
    return Outcome(about, {"": to_table("frame", found)}, {"frames": found})


def transfer_style(call: Call) -> Outcome:
    """Decode the latents of one image, or those of a region of it, with the LR image of another."""
    if call.chosen.mask is not None or call.chosen.place is not None:
        return _transfer_region(call)
    target, source = _read_two(call, "as --input has; of another size: beside --mask or --place")
    space = LatentSpace.of(call.model, target)
    result = edit.transfer_style(space, source)
    shown = {"its LR image is kept": target, "its latents are taken": source, "style transferred": result}
    about = "The latents of the second image, encoded given its own LR image, were decoded given that of the first."
    return _finish_transfer(call, target, space, shown, about)


def _transfer_region(call: Call) -> Outcome:
    """Decode an image with the latents of a region of another in their place."""
    chosen = call.chosen
    target, source = read_one(chosen.input, "--input"), read_one(chosen.reference, "--reference")
    everything = torch.ones(size_of(source), dtype=torch.bool)
    mask = everything if chosen.mask is None else read_mask(chosen.mask, size_of(source), "--reference")
    place = None if chosen.place is None else read_place(chosen.place)
    multiple = call.model.size_multiple
    down, right = find_offset(mask, place, size_of(target), multiple)
    space = LatentSpace.of(call.model, target)
    result = edit.transfer_region(space, target, source, mask, (down, right))
    region = torch.where(mask, to_float(source), 1 - (1 - to_float(source)) / 3)
    shown = {"its LR image is kept": target, "latents of a region are taken": region, "style transferred": result}
    about = (
        f"The latents of a region of the second image, moved {down} pixels down and {right} right (multiples of "
        f"{multiple}, as whole cells of every level are), took the place of those of the first image, and were decoded "
        "with the others given its LR image."
    )
    return _finish_transfer(call, target, space, shown, about)


def transfer_content(call: Call) -> Outcome:
    """Paste a part of one image into another, and make it fit."""
    target, source = _read_two(call, "as --input has")
    mask = read_mask(call.chosen.mask, size_of(target))
    heat, space = call.chosen.temperature, LatentSpace.of(call.model, target)
    pasted, result = edit.transfer_content(space, target, source, mask, heat, call.generator(call.name))
    write_png(call.output / f"{call.name}_pasted.png", pasted)
    shown = {"its LR image is kept": target, "source": source, "pasted": pasted, "content transferred": result}
    about = (
        "A part of the second image was pasted into the first; encoded given the LR image of the first, its latents "
        f"were normalised there, at temperature {heat:g}, and decoded."
    )
    return _finish_transfer(call, target, space, shown, about)


def _read_two(call: Call, why: str) -> tuple[Tensor, Tensor]:
    """The input, and the reference of the same size; ``why`` that is expected."""
    target = read_one(call.chosen.input, "--input")
    source = read_one(call.chosen.reference, "--reference")
    require_size(source, size_of(target), f"--reference {call.chosen.reference}", why)
    return target, source


def _finish_transfer(call: Call, target: Tensor, space: LatentSpace, shown: dict[str, Tensor], about: str) -> Outcome:
    """Write a transfer, the last picture; measure it beside a sample of the target's LR image; project it if wanted."""
    model, steps, lr = call.model, call.chosen.back_projection, lr_of(call.model, target)
    name, (label, result) = call.name, list(shown.items())[-1]
    stem = f"{name}_{call.chosen.kind.removeprefix('transfer-')}"
    call.write(stem, result)
    drawn = space.sample(edit.SAMPLING, call.generator(f"{name} sample"))
    measured = {label: result, f"for comparison, a sample at {edit.SAMPLING:g}": drawn}
    if "pasted" in shown:
        measured = {"pasted": shown["pasted"], **measured}
    if steps > 0:
        projected = edit.back_project(result.cpu(), to_float(lr).cpu(), model.scale, steps, model.options.kernel)
        write_png(call.output / f"{stem}_back_projected.png", projected)
        measured[f"{label}, back-projected in {steps} steps"] = projected
    call.show(name, shown)
    found = {row: measure(model, image, lr_of(model, to_uint8(target))) for row, image in measured.items()}
    about += " LR-PSNR: to the LR image of the first."
    return Outcome(about, {"": to_table("image", found)}, {"results": found})


def _name_input(model: FlowModel) -> str:
    return "LR image" if isinstance(model, SuperResolution) else "input"
