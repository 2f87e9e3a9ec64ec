"""Pairs of low-light and normal-light photographs: LOL, LOL-v2, VE-LOL, and synthetic ones."""

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from robustflow.data.sources.base import Pairs, Source, register_source
from robustflow.data.sources.bundled import BundledSource
from robustflow.data.sources.folders import FilePair, PairingOptions, name_images, open_files
from robustflow.data.sources.pairs import pair_files
from robustflow.options.schema import DatasetOptions
from robustflow.options.values import Finite, PathText
from robustflow.utils.errors import UserError, enumerate_some
from robustflow.utils.seeds import derive_seed

# Folders of low light and of normal light below the root, by mode and subset; {} stands for the split.
_LAYOUTS: dict[str, dict[str, tuple[str, str]]] = {
    "LoL": {"LOL": ("{}/low", "{}/high")},
    "LoL_v2": {name: (f"{name}/{{}}/Low", f"{name}/{{}}/Normal") for name in ("Real_captured", "Synthetic")},
    "VE_LOL": {
        name: (f"VE-LOL-L-{folder}/VE-LOL-L-{part}-Low_{{}}", f"VE-LOL-L-{folder}/VE-LOL-L-{part}-Normal_{{}}")
        for name, folder, part in (("captured", "Cap-Full", "Cap"), ("synthetic", "Syn", "Syn"))
    },
}
_SPLITS = {
    "LoL": {"train": "our485", "test": "eval15"},
    "LoL_v2": {"train": "Train", "test": "Test"},
    "VE_LOL": {"train": "train", "test": "test"},
}
_MARKS = r"(?i)^(low|normal|high)_?(?=\d)"
_GAMMA = 2.2


class LowLightOptions(PairingOptions):
    """What sets of photographs in low and in normal light share.

    In the names of their folders letter case, - and _ do not count.
    """

    root: PathText = Field(description="Folder that holds the data set.")
    split: Literal["train", "test"] = Field("train", description="Which part of it.")

    @property
    def dataroot_GT(self) -> list[str]:
        """Folders of the normal-light images, as other modes name it."""
        root, folders = Path(self.root), _list_folders(self.mode, getattr(self, "subset", None), self.split)
        return [str(_find(root, normal) or root / normal) for _, normal in folders.values()]


class LoLOptions(LowLightOptions):
    """LOL (Wei et al., BMVC 2018): `our485/{low,high}` to train, `eval15/{low,high}` to test."""

    mode: Literal["LoL"]


class LoLv2Options(LowLightOptions):
    """LOL-v2 (Yang et al., TIP 2021): `{Synthetic,Real_captured}/{Train,Test}/{Low,Normal}`.

    Images that LOL trains on are in the captured test set, in other files.
    """

    mode: Literal["LoL_v2"]
    subset: Literal["Synthetic", "Real_captured"] | None = Field(None, description="Which of the two; null: both.")


class VELOLOptions(LowLightOptions):
    """VE-LOL-L (Liu et al., IJCV 2021): `VE-LOL-L-Cap-Full/VE-LOL-L-Cap-{Low,Normal}_{train,test}`, and Syn likewise.

    The folder in front may be missing: root may be that folder itself.
    """

    mode: Literal["VE_LOL"]
    subset: Literal["captured", "synthetic"] | None = Field(None, description="Which of the two; null: both.")


def open_photographs(mode: str, root: str, split: str, scale: int, subset: str | None = None, **pairing: Any) -> Pairs:
    """Open the pairs of a set by its mode; ``low00690`` and ``normal00690`` are one.

    Those of all subsets have its name before their own; ``pairing`` as `pair_files` takes it. UserError naming the
    folders and files, if one is missing or does not pair.
    """
    files: list[FilePair] = []
    names: list[Path] = []
    layout = _list_folders(mode, subset, split)
    for key, folders in layout.items():
        low, normal = (_require(mode, Path(root), folder) for folder in folders)
        found = pair_files(normal, low, scale, **pairing)
        stems = [file.relative_to(normal).with_suffix("").as_posix() for file, _ in found]
        files += found
        names += [Path(key if len(layout) > 1 else "", f"{re.sub(_MARKS, '', stem)}.png") for stem in stems]
    return open_files(files, name_images(names), scale)


register_source("LoL", LoLOptions)(partial(open_photographs, "LoL"))
register_source("LoL_v2", LoLv2Options)(partial(open_photographs, "LoL_v2"))
register_source("VE_LOL", VELOLOptions)(partial(open_photographs, "VE_LOL"))


def _list_folders(mode: str, subset: str | None, split: str) -> dict[str, tuple[str, str]]:
    """Folders below the root, of low and of normal light, by subset; None: of all."""
    part, layout = _SPLITS[mode][split], _LAYOUTS[mode]
    return {
        name: (low.format(part), normal.format(part))
        for name, (low, normal) in layout.items()
        if subset in (None, name)
    }


def _find(root: Path, below: str) -> Path | None:
    """A folder below the root, or without the first part of VE-LOL's paths; None: not there, or more than one."""
    shorter = [below.partition("/")[2]] if below.startswith("VE-") else []
    found = (_find_alike(root, path.split("/")) for path in (below, *shorter))
    return next((folder for folder in found if folder is not None), None)


def _find_alike(folder: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        there = [child for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
        alike = [child for child in there if _simplify(child.name) == _simplify(name)]
        exact = [child for child in alike if child.name == name] or alike
        if len(exact) != 1:
            return None
        (folder,) = exact
    return folder


def _simplify(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).casefold()


def _require(mode: str, root: Path, below: str) -> Path:
    """The folder. UserError if it is not there, with what is, and the mode that would find it."""
    found = _find(root, below)
    if found is None:
        there = sorted(child.name for child in root.iterdir()) if root.is_dir() else []
        others = [other for other in _LAYOUTS if other != mode and _is_of(other, root)]
        several = ", or set subset to the one that is there" if len(_LAYOUTS[mode]) > 1 else ""
        advice = f"that is the layout of mode: {others[0]}" if others else f"correct root{several}"
        raise UserError(
            f"{root / below}: expected this folder below root (letter case, - and _ aside), found "
            f"{enumerate_some(there) or 'nothing'} in {root}; {advice}; for folders of other names use mode: folder "
            "with dataroot_GT and dataroot_LQ"
        )
    return found


def _is_of(mode: str, root: Path) -> bool:
    """Whether a folder of a mode's layout is there."""
    folders = (pair for split in _SPLITS[mode] for pair in _list_folders(mode, None, split).values())
    return any(_find(root, folder) is not None for pair in folders for folder in pair)


def _exposures(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= bounds[1] <= 1:
        raise ValueError(f"expected [lower, upper] with 0 < lower <= upper <= 1, got {list(bounds)}")
    return bounds


class BundledLowLightOptions(DatasetOptions):
    """Synthetic low light: photographs from the scikit-image package, with little light, shot and sensor noise."""

    mode: Literal["bundled_low_light"]
    split: Literal["train", "test"] = Field("train", description="As in mode bundled.")
    exposure: Annotated[tuple[Finite, Finite], AfterValidator(_exposures)] = Field(
        (0.02, 0.1), description="Range of the share of the light that is left, drawn per image, evenly in its log."
    )
    photons: Annotated[Finite, Field(gt=0)] = Field(
        2000.0, description="Electrons that full white gives in normal light: shot noise; fewer are noisier."
    )
    read_noise: Annotated[Finite, Field(ge=0)] = Field(2.0, description="Std of the sensor's own noise, electrons.")
    variants: Annotated[int, Field(ge=1)] = Field(1, description="Low-light versions of each photograph.")


@register_source("bundled_low_light", BundledLowLightOptions)
class BundledLowLightSource(Source):
    """Synthetic pairs: normal light is the photograph, low light a darkened version, the same in every run.

    See `BundledLowLightOptions` and `darken`; the scale must be 1: both images have one size.
    """

    def __init__(
        self, split: str, exposure: tuple[float, float], photons: float, read_noise: float, variants: int, scale: int
    ) -> None:
        self._photographs, self.split = BundledSource(split, scale), split
        self.exposure, self.photons, self.read_noise, self.variants = exposure, photons, read_noise, variants
        names = self._photographs.names
        self.names = [f"{name}_{k}" if variants > 1 else name for name in names for k in range(variants)]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width."""
        return self._photographs.size(index // self.variants)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Normal light and low light, (3, h, w) uint8."""
        seed = derive_seed("low light", self.names[index])
        photograph = index // self.variants
        low = _darken(self.split, photograph, self.exposure, self.photons, self.read_noise, seed)
        return self._photographs.pair(photograph)[0], low


@lru_cache(maxsize=64)
def _darken(
    split: str, photograph: int, exposures: tuple[float, float], photons: float, read_noise: float, seed: int
) -> Tensor:
    """The same for all sources of the same settings: making it takes longer than most of what is done with it."""
    generator = torch.Generator().manual_seed(seed)
    low, high = exposures
    exposure = low * (high / low) ** float(torch.rand((), generator=generator))
    normal, _ = BundledSource(split, 1).pair(photograph)
    return darken(normal, exposure, photons, read_noise, generator)


def darken(image: Tensor, exposure: float, photons: float, read_noise: float, generator: torch.Generator) -> Tensor:
    """Make a synthetic low-light version: linear light (gamma 2.2), less of it, sensor noise, 8 bits.

    Shot noise is Poisson, the sensor's own noise Gaussian; gamma 2.2 again at the end, without any brightening.

    Args:
        image: (3, h, w) uint8.
        exposure: Share of the light that is left.
        photons: Electrons at full white in normal light.
        read_noise: Standard deviation of the sensor's own noise, electrons.
        generator: Source of the noise.

    Returns:
        (3, h, w) uint8.
    """
    electrons = exposure * photons * (image.double() / 255) ** _GAMMA
    noise = read_noise * torch.randn(image.shape, generator=generator, dtype=torch.float64)
    noisy = torch.poisson(electrons, generator) + noise
    return ((noisy / photons).clamp(0, 1) ** (1 / _GAMMA) * 255).round().to(torch.uint8)
