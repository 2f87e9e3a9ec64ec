"""Small networks of every kind, their weights under published names, and inputs: all made of a seed.

The legacy generator of numpy gives the same numbers for ever; values are rounded to multiples of 1/4096 (so that the
last digits of a machine's logarithm do not matter), which float32 holds exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

BATCH, SIDE = 2, 16


@dataclass(frozen=True)
class Case:
    """A network; sizes it does not name are those of all."""

    seed: int
    model: str
    coupling: str
    scale: int = 4
    eps: float | None = 1e-4
    L: int = 3
    K: int = 1
    S: tuple[int, ...] = (0, 0, 0)
    taps: tuple[int, ...] = (0, 1)
    splits: tuple[int, ...] = ()
    max_log_scale: float | None = None
    fixed: bool = False
    B: float | None = None

    nf, nb, gc, hidden = 4, 2, 3, 6

    @property
    def is_low_light(self) -> bool:
        return self.model == "LLFlow"

    @property
    def num_params(self) -> int:
        return 4 if self.coupling == "rq_spline" else 2


CASES = {
    "srflow_affine": Case(1, "SRFlow", "affine", K=2, splits=(1,)),
    "ncsr_affine": Case(2, "NCSR", "affine", K=2, S=(0, 1, 2), splits=(1,), taps=(1,)),
    "fsncsr_bounded": Case(3, "FS-NCSR", "affine", eps=0.1, S=(1, 1, 0), splits=(1, 2), max_log_scale=0.5),
    "fsncsr_rq": Case(4, "FS-NCSR", "rq_spline", eps=1e-3, K=2, S=(0, 1, 1), splits=(1,)),
    "fsncsr_8x_rq": Case(
        5, "FS-NCSR", "rq_spline", scale=8, eps=1e-3, L=4, S=(0, 0, 1, 1), splits=(1, 2, 3), max_log_scale=2, fixed=True
    ),
    "llflow_affine": Case(6, "LLFlow", "affine", scale=1),
    "llflow_rq": Case(7, "LLFlow", "rq_spline", scale=1, eps=1e-3, taps=(0,)),
    "srflow_16x_exp": Case(
        8, "SRFlow", "exp_affine", scale=16, eps=None, L=4, S=(0, 0, 0, 0), splits=(1, 2), max_log_scale=1
    ),
    "fsncsr_inverse": Case(9, "FS-NCSR", "inverse_affine", eps=0.1, S=(0, 1, 1), splits=(1, 2)),
    "ncsr_soft": Case(10, "NCSR", "soft_affine", eps=0.01, S=(0, 1, 1), splits=(1,), B=0.5),
}

Named = Iterator[tuple[str, np.ndarray]]

# Of the published couplings' tensors; others here go by the affine one's.
_NAMES = {"rq_spline": ("rqspline.", "fRQspline"), "inverse_affine": ("affinereparam.", "fAffine")}


class Source:
    """Numbers of a seed, float64 multiples of 1/4096."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def normal(self, *shape: int, std: float, mean: float = 0.0) -> np.ndarray:
        return np.round((mean + std * self.state.standard_normal(shape)) * 4096) / 4096

    def orthogonal(self, channels: int) -> np.ndarray:
        """Orthogonal without any rounding: signs, permutations and blocks (±½) of Hadamard's."""
        block = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
        blocks = np.kron(np.eye(channels // 4), block)
        signs = np.where(self.state.uniform(size=channels) < 0.5, -1.0, 1.0)
        return signs * blocks[self.state.permutation(channels)] @ blocks[self.state.permutation(channels)]


def weights(case: Case) -> dict[str, torch.Tensor]:
    """All tensors of a published checkpoint that are used, float64."""
    source = Source(case.seed)
    named = {**dict(_encoder(case, source)), **dict(_flow(case, source))}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in named.items()}


def _encoder(case: Case, source: Source) -> Named:
    nf, gc = case.nf, case.gc
    shapes = {"conv_first": (nf, 12 if case.is_low_light else 3), "trunk_conv": (nf, nf)}
    for block in range(case.nb):
        for dense in (1, 2, 3):
            for k in range(5):
                shapes[f"RRDB_trunk.{block}.RDB{dense}.conv{k + 1}"] = (nf if k == 4 else gc, nf + k * gc)
    if case.is_low_light:
        shapes |= {"conv_second": (nf, nf)} | {f"downconv{k}": (nf, nf) for k in range(1, case.L)}
        yield from _conv(source, "RRDB.fine_tune_color_map.0", 3, nf, 1)
    else:
        shapes |= {f"upconv{k}": (nf, nf) for k in range(1, case.scale.bit_length())}
        shapes |= {"HRconv": (nf, nf), "conv_last": (3, nf)}
    for name, (n_out, n_in) in shapes.items():
        yield from _conv(source, f"RRDB.{name}", n_out, n_in, 3)


def _flow(case: Case, source: Source) -> Named:
    number, channels = -1, 3
    for level in range(1, case.L + 1):
        number, channels = number + 1, 4 * channels  # squeeze
        for k in range(-2, case.K):
            number += 1
            name = f"flowUpsamplerNet.layers.{number}."
            yield from _mixing(case, source, name, channels)
            if k >= 0:
                yield from _couplings(case, source, name, channels, noisy=k >= case.K - case.S[level - 1])
        if level in case.splits:
            number, channels = number + 1, channels // 2
            yield from _head(source, f"flowUpsamplerNet.layers.{number}.conv.", 2 * channels, channels)


def _mixing(case: Case, source: Source, name: str, channels: int) -> Named:
    yield from _actnorm(source, f"{name}actnorm.", channels)
    weight = source.orthogonal(channels)
    if case.fixed:
        yield f"{name}invconv.weight", weight[:, :, None, None]
        yield f"{name}invconv.weight_transpose", weight.T[:, :, None, None]
    else:
        yield f"{name}invconv.weight", weight + source.normal(channels, channels, std=0.2 / channels)


def _couplings(case: Case, source: Source, name: str, channels: int, noisy: bool) -> Named:
    branch, own = _NAMES.get(case.coupling, ("affine.", "fAffine"))
    n_features, kept = case.nf * (1 + len(case.taps)), channels // 2
    networks = {"fFeatures": (n_features, channels), own: (kept + n_features, channels - kept)}
    if noisy:
        networks[f"{own}_std"] = (kept + 3, channels - kept)
    for network, (n_in, n_out) in networks.items():
        yield from _network(source, f"{name}{branch}{network}.", n_in, case.hidden, case.num_params * n_out)


def _network(source: Source, name: str, n_in: int, hidden: int, n_out: int) -> Named:
    yield f"{name}0.weight", source.normal(hidden, n_in, 3, 3, std=(9 * n_in) ** -0.5)
    yield from _actnorm(source, f"{name}0.actnorm.", hidden)
    yield f"{name}2.weight", source.normal(hidden, hidden, 1, 1, std=hidden**-0.5)
    yield from _actnorm(source, f"{name}2.actnorm.", hidden)
    yield from _head(source, f"{name}4.", n_out, hidden)


def _actnorm(source: Source, name: str, channels: int) -> Named:
    yield f"{name}bias", source.normal(1, channels, 1, 1, std=0.1, mean=0.05)
    yield f"{name}logs", source.normal(1, channels, 1, 1, std=0.1)


def _head(source: Source, name: str, n_out: int, n_in: int) -> Named:
    yield f"{name}weight", source.normal(n_out, n_in, 3, 3, std=0.3 * (9 * n_in) ** -0.5)
    yield f"{name}bias", source.normal(n_out, std=0.2)
    yield f"{name}logs", source.normal(n_out, 1, 1, std=0.1)


def _conv(source: Source, name: str, n_out: int, n_in: int, size: int) -> Named:
    yield f"{name}.weight", source.normal(n_out, n_in, size, size, std=(size**2 * n_in) ** -0.5)
    yield f"{name}.bias", source.normal(n_out, std=0.1)


@dataclass(frozen=True)
class Inputs:
    """Images hr (2, 3, 16, 16) and lr (2, 3, h, w), in [0, 1]; a noise map of the size of hr; standard normal z.

    z (2, 3·16·16) holds the latents one after the other, finest first; those of the second item are zero.
    """

    hr: torch.Tensor
    lr: torch.Tensor
    noise: torch.Tensor
    z: torch.Tensor


def inputs(case: Case) -> Inputs:
    """Inputs of a case, float64; lr is not the downsampled hr, and dark for low light."""
    source, side = Source(100 + case.seed), SIDE // case.scale
    levels = source.state.randint(0, 80 if case.is_low_light else 256, (BATCH, 3, side, side))
    hr = source.state.randint(0, 256, (BATCH, 3, SIDE, SIDE)) / 256
    noise = source.normal(BATCH, 3, SIDE, SIDE, std=0.05) if any(case.S) else np.zeros((BATCH, 3, SIDE, SIDE))
    z = source.normal(BATCH, 3 * SIDE * SIDE, std=0.9)
    z[1] = 0
    return Inputs(*map(torch.from_numpy, (hr, levels / 256, noise, z)))


def latents(z: torch.Tensor, shapes: list[tuple[int, int, int]]) -> list[torch.Tensor]:
    """z of `Inputs` cut into latents of these shapes."""
    parts = z.split([int(np.prod(shape)) for shape in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
