"""The flow of SRFlow, NCSR, FS-NCSR and LLFlow computed the published way, from tensors under their published names.

In every step the features are concatenated with the flow's variables and convolved; nothing is shared between samples;
1×1 convolutions are inverted at each call; gradients are those of plain autograd. It shares no code with the package:
it is the opponent of the benchmarks and what the package's results are compared with in tests.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_encoder import PlainEncoder
from benchmarks.plain_maps import Pair, PlainMap

_BRANCHES = {"affine": "fAffine", "affinereparam": "fAffine", "rqspline": "fRQspline"}


@dataclass
class _Level:
    """Names of a level's layers, as far as their tensors share them; ``split`` is empty or one name."""

    transitions: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)


class PlainFlow:
    """Encodes and decodes; levels, steps and splits are those whose tensors are there.

    Args:
        tensors: By published name; float32 or float64.
        elementwise: The map of all couplings and injectors.
        scale: Side of the data over that of the condition.
        taps: 0-based indices of the encoder's blocks whose outputs are shared features.
        noisy: Per level, how many of its last steps have a noise coupling.
        max_log_scale: Bound of the split priors' log-std; None: unbounded.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        elementwise: PlainMap,
        scale: int,
        taps: Sequence[int],
        noisy: Sequence[int],
        max_log_scale: float | None = None,
    ) -> None:
        self.tensors, self.elementwise, self.scale = tensors, elementwise, scale
        self.noisy, self.max_log_scale = noisy, max_log_scale
        self.encoder = PlainEncoder(tensors, taps)
        self.levels = _levels(tensors)

    def zero_grad(self) -> None:
        """Forget the gradients of the tensors."""
        for tensor in self.tensors.values():
            tensor.grad = None

    def encode(
        self, x: Tensor, y: Tensor, noise: Tensor | None = None, mean: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Latents of x (b, 3, H, W), finest first, the prior's mean subtracted; log p(x | y) in nats, (b,).

        Args:
            x: Data.
            y: Condition (b, c, h, w).
            noise: Noise map of the size of x; None: zero.
            mean: Mean of the last latent's prior, an image; None: the encoder's, or zero.
        """
        contexts, own_mean = self.contexts(y)
        noise = torch.zeros_like(x) if noise is None else noise
        latents, log_prob = [], x.new_zeros(len(x))
        for level, n_noisy, context in zip(self.levels, self.noisy, contexts, strict=True):
            x = F.pixel_unshuffle(x, 2)
            resized = _resized(noise, x)
            for name in level.transitions:
                x, log_prob = self._mix(name, x, log_prob)
            for k, name in enumerate(level.steps, start=n_noisy - len(level.steps)):
                x, log_prob = self._step(name, x, context, resized if k >= 0 else None, log_prob)
            for name in level.split:
                x, rest = x[:, : (x.shape[1] + 1) // 2], x[:, (x.shape[1] + 1) // 2 :]
                of_rest, log_std = self._mean_and_log_std(name, x)
                latents.append((rest - of_rest) / torch.exp(log_std))
                log_prob = log_prob + _log_normal(rest, of_rest, log_std)
        mean = own_mean if mean is None else mean
        mean = torch.zeros_like(x) if mean is None else F.pixel_unshuffle(mean, 2 ** len(self.levels))
        return [*latents, x - mean], log_prob + _log_normal(x, mean, torch.zeros_like(x))

    def decode(self, latents: Sequence[Tensor], y: Tensor, noise: Tensor | None = None) -> Pair:
        """Return x (b, 3, H, W) and log|det dx/d latents|, (b,); arguments as those of ``encode``."""
        contexts, mean = self.contexts(y)
        *rest, x = latents
        if mean is not None:
            x = x + F.pixel_unshuffle(mean, 2 ** len(self.levels))
        log_det = x.new_zeros(len(x))
        if noise is None:
            noise = y.new_zeros(len(y), 3, self.scale * y.shape[-2], self.scale * y.shape[-1])
        stages = list(zip(self.levels, self.noisy, contexts, strict=True))
        for level, n_noisy, context in reversed(stages):
            for name in level.split:
                of_rest, log_std = self._mean_and_log_std(name, x)
                x = torch.cat([x, of_rest + torch.exp(log_std) * rest.pop()], dim=1)
                log_det = log_det + log_std.sum((1, 2, 3))
            resized = _resized(noise, x)
            for k, name in enumerate(reversed(level.steps)):
                x, log_det = self._undo_step(name, x, context, resized if k < n_noisy else None, log_det)
            for name in reversed(level.transitions):
                x, log_det = self._unmix(name, x, log_det)
            x = F.pixel_shuffle(x, 2)
        return x, log_det

    def contexts(self, y: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Per level, finest first: native map and taps at the level's size, concatenated; and the prior's mean."""
        natives, taps, mean = self.encoder.features(y, self.scale, len(self.levels))
        contexts = [
            torch.cat([native, F.interpolate(taps, size=native.shape[-2:], mode="nearest")], dim=1)
            for native in natives
        ]
        return contexts, mean

    def latent_shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Shapes (c, h, w) of the latents of an x of height × width, finest first."""
        shapes, channels = [], 3
        for number, level in enumerate(self.levels, start=1):
            channels, size = 4 * channels, (height // 2**number, width // 2**number)
            if level.split:
                shapes.append((channels // 2, *size))
                channels -= channels // 2
        return [*shapes, (channels, *size)]

    def sample(self, y: Tensor, temperature: float, generators: Iterable[torch.Generator]) -> Tensor:
        """One sample (1, 3, H, W) for each generator, for one y (1, c, h, w): independent calls, concatenated."""
        shapes = self.latent_shapes(self.scale * y.shape[-2], self.scale * y.shape[-1])
        samples = []
        for generator in generators:
            latents = [torch.randn(1, *shape, generator=generator, device=generator.device) for shape in shapes]
            samples.append(self.decode([temperature * latent.to(y) for latent in latents], y)[0])
        return torch.cat(samples)

    def _step(self, name: str, x: Tensor, context: Tensor, noise: Tensor | None, log_det: Tensor) -> Pair:
        """ActNorm → 1×1 convolution → injector → noise coupling → self coupling."""
        branch, own = _branch(name, self.tensors)
        x, log_det = self._mix(name, x, log_det)
        x, log_det = self._map(x, self._network(f"{branch}fFeatures.", context), log_det)
        if noise is not None:
            x, log_det = self._coupling(f"{own}_std.", x, noise, log_det)
        return self._coupling(f"{own}.", x, context, log_det)

    def _undo_step(self, name: str, x: Tensor, context: Tensor, noise: Tensor | None, log_det: Tensor) -> Pair:
        branch, own = _branch(name, self.tensors)
        x, log_det = self._coupling(f"{own}.", x, context, log_det, inverse=True)
        if noise is not None:
            x, log_det = self._coupling(f"{own}_std.", x, noise, log_det, inverse=True)
        x, log_det = self._map(x, self._network(f"{branch}fFeatures.", context), log_det, inverse=True)
        return self._unmix(name, x, log_det)

    def _coupling(self, name: str, x: Tensor, context: Tensor, log_det: Tensor, inverse: bool = False) -> Pair:
        x_a, x_b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        h = self._network(name, torch.cat([x_a, context], dim=1))
        x_b, log_det = self._map(x_b, h, log_det, inverse)
        return torch.cat([x_a, x_b], dim=1), log_det

    def _network(self, name: str, inputs: Tensor) -> Tensor:
        """conv 3×3 → ActNorm → ReLU → conv 1×1 → ActNorm → ReLU → conv 3×3."""
        h = F.conv2d(inputs, self.tensors[f"{name}0.weight"], padding=1)
        h = F.conv2d(F.relu(self._normalized(f"{name}0.actnorm.", h)), self.tensors[f"{name}2.weight"])
        return self._zero_conv(f"{name}4.", F.relu(self._normalized(f"{name}2.actnorm.", h)))

    def _map(self, x: Tensor, h: Tensor, log_det: Tensor, inverse: bool = False) -> Pair:
        """Channel num_params·c + j of h is parameter j of channel c."""
        params = h.unflatten(1, (-1, self.elementwise.num_params)).transpose(1, 2)
        x, log_slope = (self.elementwise.inverse if inverse else self.elementwise.forward)(x, params)
        return x, log_det + log_slope.sum((1, 2, 3))

    def _mean_and_log_std(self, name: str, x: Tensor) -> Pair:
        h = self._zero_conv(f"{name}conv.", x)
        mean, log_std = h[:, 0::2], h[:, 1::2]
        if self.max_log_scale is not None:
            bounded = self.max_log_scale * torch.tanh(log_std / self.max_log_scale)
            log_std = torch.where(log_std > 0, bounded, log_std)
        return mean, log_std

    def _zero_conv(self, name: str, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.tensors[f"{name}weight"], self.tensors[f"{name}bias"], padding=1)
        return x * torch.exp(self.tensors[f"{name}logs"] * 3)

    def _normalized(self, name: str, x: Tensor) -> Tensor:
        return (x + self.tensors[f"{name}bias"]) * torch.exp(self.tensors[f"{name}logs"])

    def _mix(self, name: str, x: Tensor, log_det: Tensor) -> Pair:
        """ActNorm → 1×1 convolution."""
        log_det = log_det + self._mixing_log_det(name) * x[0, 0].numel()
        weight = self.tensors[f"{name}invconv.weight"]
        return F.conv2d(self._normalized(f"{name}actnorm.", x), weight.flatten(1)[..., None, None]), log_det

    def _unmix(self, name: str, x: Tensor, log_det: Tensor) -> Pair:
        log_det = log_det - self._mixing_log_det(name) * x[0, 0].numel()
        weight = self.tensors[f"{name}invconv.weight"]
        inverse = torch.inverse(weight.double()).to(weight.dtype) if weight.dim() == 2 else weight.flatten(1).T
        x = F.conv2d(x, inverse[..., None, None]) * torch.exp(-self.tensors[f"{name}actnorm.logs"])
        return x - self.tensors[f"{name}actnorm.bias"], log_det

    def _mixing_log_det(self, name: str) -> Tensor:
        """Of one position. Fixed 1×1 convolutions, stored with four dimensions, are orthogonal."""
        weight, logs = self.tensors[f"{name}invconv.weight"], self.tensors[f"{name}actnorm.logs"].sum()
        return logs + torch.slogdet(weight)[1] if weight.dim() == 2 else logs


def _levels(names: Iterable[str]) -> list[_Level]:
    """Layers are numbered in order over all levels; each level begins with a squeeze, which has no tensors."""
    layers: dict[int, set[str]] = defaultdict(set)
    for name in names:
        if found := re.match(r"flowUpsamplerNet\.layers\.(\d+)\.(\w+)\.", name):
            layers[int(found[1])].add(found[2])
    levels: list[_Level] = []
    for number in range(max(layers) + 1):
        kinds, name = layers.get(number), f"flowUpsamplerNet.layers.{number}."
        if kinds is None:
            levels.append(_Level())
        elif "conv" in kinds:
            levels[-1].split.append(name)
        else:
            (levels[-1].steps if kinds & _BRANCHES.keys() else levels[-1].transitions).append(name)
    return levels


def _branch(name: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """What the names of a step's parameter networks begin with: all of them; noise and self coupling."""
    kind = next(kind for kind in _BRANCHES if f"{name}{kind}.fFeatures.0.weight" in tensors)
    return f"{name}{kind}.", f"{name}{kind}.{_BRANCHES[kind]}"


def _resized(noise: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(noise, size=x.shape[-2:], mode="bicubic", align_corners=False)


def _log_normal(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    log_prob = -0.5 * (log_std * 2 + (x - mean) ** 2 / torch.exp(log_std * 2) + math.log(2 * math.pi))
    return log_prob.sum((1, 2, 3))
