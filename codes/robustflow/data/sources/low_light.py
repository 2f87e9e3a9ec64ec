"""Pairs of low-light and normal-light photographs: LOL, VE-LOL (LOL-v2), and synthetic ones."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from robustflow.data.sources.base import Pairs, Source, register_source
from robustflow.data.sources.bundled import BundledSource
from robustflow.data.sources.folders import name_images, open_files
from robustflow.data.sources.pairs import pair_files
from robustflow.options.schema import DatasetOptions
from robustflow.options.values import Finite, PathText
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

# Folders of (low light, normal light) below the root.
_LOL = {"train": ("our485/low", "our485/high"), "test": ("eval15/low", "eval15/high")}
_SUBSETS_V2 = ("Real_captured", "Synthetic")
_SPLITS_V2 = {"train": "Train", "test": "Test"}
_MARKS = r"(?i)^(low|normal|high)_?(?=\d)"
_GAMMA = 2.2


class LoLOptions(DatasetOptions):
    """LOL (Wei et al., BMVC 2018): `our485/{low,high}` to train, `eval15/{low,high}` to test."""

    mode: Literal["LoL"]
    root: PathText = Field(description="Folder that holds our485 and eval15.")
    split: Literal["train", "test"] = Field("train", description="train: our485; test: eval15.")

    @property
    def dataroot_GT(self) -> str:
        """Folder of the normal-light images, as other modes name it."""
        return str(Path(self.root) / _LOL[self.split][1])


@register_source("LoL", LoLOptions)
def open_lol(root: str, split: str, scale: int) -> Pairs:
    """Open the pairs of LOL. UserError naming the folders and files, if one is missing or does not pair."""
    low, normal = _LOL[split]
    return _pairs(Path(root), low, normal, scale)


class LoLv2Options(DatasetOptions):
    """VE-LOL, also called LOL-v2 (Yang et al., TIP 2021): `{Synthetic,Real_captured}/{Train,Test}/{Low,Normal}`."""

    mode: Literal["LoL_v2"]
    root: PathText = Field(description="Folder that holds Synthetic and Real_captured.")
    subset: Literal["Synthetic", "Real_captured"] | None = Field(None, description="Which of the two; null: both.")
    split: Literal["train", "test"] = Field("train", description="Which part of it.")

    @property
    def dataroot_GT(self) -> list[str]:
        """Folders of the normal-light images, as other modes name it."""
        return [f"{self.root}/{part}/Normal" for part in _parts_v2(self.subset, self.split).values()]


@register_source("LoL_v2", LoLv2Options)
def open_lol_v2(root: str, subset: str | None, split: str, scale: int) -> Pairs:
    """Open the pairs of VE-LOL, of both subsets with their names before those of the images; errors as `open_lol`."""
    parts = _parts_v2(subset, split)
    sources = {name: _pairs(Path(root), f"{part}/Low", f"{part}/Normal", scale) for name, part in parts.items()}
    if subset is not None:
        return sources[subset]
    names = [f"{key}_{name}" for key, source in sources.items() for name in source.names]
    return Pairs([pair for source in sources.values() for pair in source.pairs], names, scale)


def _parts_v2(subset: str | None, split: str) -> dict[str, str]:
    """Folders below the root that hold Low and Normal, by subset."""
    return {name: f"{name}/{_SPLITS_V2[split]}" for name in (_SUBSETS_V2 if subset is None else (subset,))}


def _pairs(root: Path, low: str, normal: str, scale: int) -> Pairs:
    """Pairs by name; ``low00690`` and ``normal00690`` are one."""
    for folder in (root / low, root / normal):
        if not folder.is_dir():
            raise UserError(
                f"{folder}: expected this folder below root, got nothing there; correct root or, with LoL_v2, set "
                "subset to the one that is there"
            )
    files = pair_files(root / normal, root / low, scale)
    stems = [file.relative_to(root / normal).with_suffix("").as_posix() for file, _ in files]
    return open_files(files, name_images([Path(f"{re.sub(_MARKS, '', stem)}.png") for stem in stems]), scale)


def _exposures(bounds: tuple[float, float]) -> tuple[float, float]:
    if not 0 < bounds[0] <= bounds[1] <= 1:
        raise ValueError(f"expected [lower, upper] with 0 < lower <= upper <= 1, got {list(bounds)}")
    return bounds


class BundledLowLightOptions(DatasetOptions):
    """Synthetic low light: photographs from the scikit-image package, darkened (see `darken`)."""

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

    Args:
        split: train or test.
        exposure: Range that the share of light is drawn from, evenly in its logarithm.
        photons: See `darken`; likewise ``read_noise``.
        read_noise: See above.
        variants: Versions of each photograph, of different exposures and noise.
        scale: Must be 1: both images have one size.
    """

    def __init__(
        self, split: str, exposure: tuple[float, float], photons: float, read_noise: float, variants: int, scale: int
    ) -> None:
        self._photographs = BundledSource(split, scale)
        self.exposure, self.photons, self.read_noise, self.variants = exposure, photons, read_noise, variants
        names = self._photographs.names
        self.names = [f"{name}_{k}" if variants > 1 else name for name in names for k in range(variants)]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width."""
        return self._photographs.size(index // self.variants)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Normal light and low light, (3, h, w) uint8."""
        normal, _ = self._photographs.pair(index // self.variants)
        seed = derive_seed("low light", self.names[index])
        return normal, _darken(index // self.variants, self, seed)


@lru_cache(maxsize=64)
def _darken(photograph: int, source: BundledLowLightSource, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, high = source.exposure
    exposure = low * (high / low) ** float(torch.rand((), generator=generator))
    normal, _ = source._photographs.pair(photograph)
    return darken(normal, exposure, source.photons, source.read_noise, generator)


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
