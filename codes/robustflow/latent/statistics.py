"""What a model thinks of an image: bits per dimension, and its latents against N(0, 1) at every level."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from matplotlib.figure import Figure
from torch import Tensor

from robustflow.data.images import write_png
from robustflow.evaluation.records import known_bits, to_json
from robustflow.latent.space import LatentSpace
from robustflow.report import plots
from robustflow.report.columns import cell
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)

# Of histograms.
_END, _BINS = 5.0, 80
# White in the map of latents: this root mean square, 1 being usual.
_WHITE_RMS = 3.0


def write(
    space: LatentSpace, name: str, image: Tensor, output: Path
) -> tuple[dict[str, Any], dict[str, Tensor], dict[int, Tensor]]:
    """Encode an image (3, H, W), as read; write latents, statistics and plots.

    No noise is added, where tests add that of training: their bits per dimension are not these. Of sides that the flow
    does not take, the mirrored parts count, too.

    Returns:
        What was measured, plain values; per level, by its label, the root mean square of the latents over channels at
        each place; and the latents (1, c, h, w) by level, for `plot`.
    """
    encoding = space.encoding(image)
    latents = dict(zip(space.levels, (z.cpu() for z in encoding.latents), strict=True))
    found: dict[str, Any] = {
        "bits_per_dim": known_bits(encoding.bits_per_dim(space.dimensions)),
        "levels": {level: describe(z) for level, z in latents.items()},
    }
    if not math.isfinite(found["bits_per_dim"]):
        log.warning("%s: encoding failed: not all of its latents are finite", name)
    tensors = {f"level_{level}": z.contiguous() for level, z in latents.items()}
    write_atomically(output / f"{name}_latents.safetensors", safetensors.torch.save(tensors, {"image": name}))
    write_atomically(output / f"{name}_latents.json", to_json(found))
    plots.save_png(draw(latents, found["bits_per_dim"]), output / f"{name}_latents.png")
    maps: dict[str, Tensor] = {}
    for level, z in latents.items():
        maps[f"latents of level {level}"] = shown = _map(z, level, space.size)
        write_png(output / f"{name}_latents_{level}.png", shown)
    return found, maps, latents


def to_table(found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Bits per dimension of all images, mean and standard deviation of the latents of each level; headings first."""
    levels = next(iter(found.values()))["levels"]
    return [["image", "bits/dim", *(f"level {level}: mean ± std" for level in levels)]] + [
        [name, f"{one['bits_per_dim']:.4g}"]
        + [f"{level['mean']:.3f} ± {level['std']:.3f}" for level in one["levels"].values()]
        for name, one in found.items()
    ]


def describe(z: Tensor) -> dict[str, Any]:
    """Moments of a level's latents (1, c, h, w): 0, 1, 0, 3 if they are standard normal; NaN if they are not finite."""
    values = z.double().flatten()
    mean, std = values.mean(), values.std(correction=0)
    standard = (values - mean) / std
    return {
        "shape": list(z.shape[1:]),
        "mean": mean.item(),
        "std": std.item(),
        "skewness": (standard**3).mean().item(),
        "kurtosis": (standard**4).mean().item(),
        "channel_mean": z.double().mean((0, 2, 3)).tolist(),
        "channel_std": z.double().std((0, 2, 3), correction=0).tolist(),
    }


def draw(latents: Mapping[int, Tensor], bits_per_dim: float) -> Figure:
    """Histograms of each level's latents and, below, mean and standard deviation of each channel; grey: N(0, 1)."""
    width, height = 4 * len(latents), 5
    drawn = Figure(figsize=(width, height))
    # In inches; a layout that measures all texts would take longer than to draw them.
    drawn.subplots_adjust(0.65 / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.75 / height, wspace=0.2, hspace=0.35)
    # Without the image's name: "$" would begin a formula.
    drawn.suptitle(f"{bits_per_dim:.4g} bits/dim")
    grid = drawn.subplots(2, len(latents), squeeze=False)
    x = np.linspace(-_END, _END, 201)
    for column, (level, z) in enumerate(latents.items()):
        above, below = grid[0][column], grid[1][column]
        above.fill_between(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color="0.85", linewidth=0, label="N(0, 1)")
        above.stairs(_density(z), np.linspace(-_END, _END, _BINS + 1), label="latents")
        above.set(title=f"level {level}: {tuple(z.shape[1:])}", xlabel="z, ends: all beyond", ylabel="density")
        above.legend(fontsize=8)
        _draw_channels(below, z)
    return drawn


def _draw_channels(axes: Any, z: Tensor) -> None:
    """Mean and standard deviation of each channel, with 95 % of those of independent normal latents."""
    n = z[0, 0].numel()
    for centre, width in ((0.0, 1 / math.sqrt(n)), (1.0, 1 / math.sqrt(2 * n))):
        axes.axhspan(centre - 1.96 * width, centre + 1.96 * width, color="0.85", linewidth=0)
    axes.plot(z.mean((0, 2, 3)).numpy(), ".", label="mean")
    axes.plot(z.std((0, 2, 3), correction=0).numpy(), "x", markersize=4, label="standard deviation")
    axes.set(xlabel="channel")
    axes.legend(fontsize=8)


def plot(name: str, latents: Mapping[int, Tensor], found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plots of an image's latents, by level, against N(0, 1), with captions, for a page; both as of `write`."""
    figures = found["levels"]
    densities = {level: _density(z) for level, z in latents.items()}
    edges = np.linspace(-_END, _END, _BINS + 1).tolist()
    top = 1.05 * max(0.4, *(density.max() for density in densities.values()))
    return [
        (
            plots.histogram(edges, density.tolist(), top, f"Latents of {name}, level {level}"),
            f"{name}, level {level}: mean {cell(figures[level]['mean'])}, std {cell(figures[level]['std'])}",
        )
        for level, density in densities.items()
    ]


def _density(z: Tensor) -> np.ndarray:
    """Histogram of latents, its integral 1; those beyond its ends are in the outermost bins, NaN in none."""
    values = z.flatten()
    counts, _ = np.histogram(values[~values.isnan()].clamp(-_END, _END).numpy(), bins=_BINS, range=(-_END, _END))
    return counts / max(1, counts.sum()) / (2 * _END / _BINS)


def _map(z: Tensor, level: int, size: tuple[int, int]) -> Tensor:
    rms = z.square().mean(1, keepdim=True).sqrt() / _WHITE_RMS
    enlarged = rms.repeat_interleave(2**level, -1).repeat_interleave(2**level, -2)
    return enlarged[0, :, : size[0], : size[1]].expand(3, -1, -1)
