"""The opponent: the flow of SRFlow, NCSR and FS-NCSR computed the published way, with the weights of a ConditionalFlow.

In every step the features are concatenated with the flow's variables and convolved; nothing is shared between samples;
1×1 convolutions are inverted at each call; gradients are those of plain autograd.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import plain_maps
from benchmarks.plain_encoder import PlainEncoder
from robustflow.bijections.base import Elementwise
from robustflow.flows import ConditionalFlow

Pair = tuple[Tensor, Tensor]
# Parts of the flow, read by the names of their parameters.
Module = Any


@dataclass(frozen=True)
class Kernels:
    """First kernels of a step's parameter networks over all their inputs: leaves, joined once from the flow's parts.

    Attributes:
        injector: Over [native, taps].
        coupling: Over [x_a, native, taps].
        noise: Over [x_a, noise map], or None without noise coupling.
    """

    injector: Tensor
    coupling: Tensor
    noise: Tensor | None


class PlainFlow:
    """Encodes and decodes as ``flow`` does; reads its parameters at each call, but for the joined first kernels.

    Args:
        flow: Owns the weights, on the device and of the type to compute with.
    """

    def __init__(self, flow: ConditionalFlow) -> None:
        self.flow = flow
        self.encoder = PlainEncoder(flow)
        self.levels: list[Module] = list(flow.levels)
        self.kernels = [_joined(level) for level in self.levels]

    def zero_grad(self) -> None:
        """Forget the gradients of the joined kernels (the flow has its own ``zero_grad``)."""
        for kernels in itertools.chain.from_iterable(self.kernels):
            for kernel in (kernels.injector, kernels.coupling, kernels.noise):
                if kernel is not None:
                    kernel.grad = None

    def encode(self, x: Tensor, y: Tensor, noise: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return the latents of x (b, 3, H, W), finest first, and log p(x | y) in nats, (b,)."""
        features = self.encoder.features(y)
        noise = torch.zeros_like(x) if noise is None else noise
        latents, log_prob = [], x.new_zeros(len(x))
        for level, kernels, context in zip(self.levels, self.kernels, features, strict=True):
            x = F.pixel_unshuffle(x, 2)
            resized = _resized(noise, x)
            for transition in level.transitions:
                x, log_prob = _mix(transition, x, log_prob)
            for step, kernel in zip(level.steps, kernels, strict=True):
                x, log_prob = _step(step, kernel, x, context, resized, log_prob)
            if level.split_prior is not None:
                x, rest = x.chunk(2, dim=1)
                mean, log_std = _zero_conv(level.split_prior.network, x).chunk(2, dim=1)
                latents.append((rest - mean) / torch.exp(log_std))
                log_prob = log_prob + _log_normal(rest, mean, log_std)
        return [*latents, x], log_prob + _log_normal(x, torch.zeros_like(x), torch.zeros_like(x))

    def decode(self, latents: Sequence[Tensor], y: Tensor) -> Pair:
        """Return x (b, 3, H, W) and log|det dx/d latents|, (b,); the noise map is zero."""
        features = self.encoder.features(y)
        *rest, x = latents
        log_det = x.new_zeros(len(x))
        sides = [self.flow.scale * side for side in y.shape[-2:]]
        noise = y.new_zeros(len(y), y.shape[1], *sides)
        stages = list(zip(self.levels, self.kernels, features, strict=True))
        for level, kernels, context in reversed(stages):
            if level.split_prior is not None:
                mean, log_std = _zero_conv(level.split_prior.network, x).chunk(2, dim=1)
                x = torch.cat([x, mean + torch.exp(log_std) * rest.pop()], dim=1)
                log_det = log_det + log_std.sum((1, 2, 3))
            resized = _resized(noise, x)
            for step, kernel in reversed(list(zip(level.steps, kernels, strict=True))):
                x, log_det = _undo_step(step, kernel, x, context, resized, log_det)
            for transition in reversed(level.transitions):
                x, log_det = _unmix(transition, x, log_det)
            x = F.pixel_shuffle(x, 2)
        return x, log_det

    def sample(self, y: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
        """One sample (1, 3, H, W) for each generator, for one y (1, 3, h, w): independent calls, concatenated."""
        height, width = (self.flow.scale * side for side in y.shape[-2:])
        samples = []
        for generator in generators:
            drawn = self.flow.draw_latents((height, width), generator)
            samples.append(self.decode([temperature * latent.to(y) for latent in drawn], y)[0])
        return torch.cat(samples)


def _joined(level: Module) -> list[Kernels]:
    injectors, couplings = level.injector_projection, level.coupling_projection
    hidden = level.steps[0].injector.network.conv_mid.shape[0]
    first_noisy = sum(step.noise_coupling is None for step in level.steps)

    def leaf(*parts: Tensor) -> Tensor:
        return torch.cat([part.detach() for part in parts], dim=1).requires_grad_()

    kernels = []
    for number, step in enumerate(level.steps):
        rows = slice(number * hidden, (number + 1) * hidden)
        noise = None
        if step.noise_coupling is not None:
            noisy_rows = slice((number - first_noisy) * hidden, (number - first_noisy + 1) * hidden)
            noise = leaf(step.noise_coupling.network.conv_in, level.noise_projection[noisy_rows])
        coupling = leaf(step.coupling.network.conv_in, couplings.native[rows], couplings.taps[rows])
        kernels.append(Kernels(leaf(injectors.native[rows], injectors.taps[rows]), coupling, noise))
    return kernels


def _step(step: Module, kernels: Kernels, x: Tensor, features: Tensor, noise: Tensor, log_det: Tensor) -> Pair:
    """ActNorm → 1×1 convolution → injector → noise coupling → self coupling."""
    x, log_det = _mix(step, x, log_det)
    h = _network(step.injector.network, kernels.injector, features)
    x, log_det = _mapped(step.injector.elementwise, x, h, log_det)
    if kernels.noise is not None:
        x, log_det = _coupling(step.noise_coupling, kernels.noise, x, noise, log_det)
    return _coupling(step.coupling, kernels.coupling, x, features, log_det)


def _undo_step(step: Module, kernels: Kernels, x: Tensor, features: Tensor, noise: Tensor, log_det: Tensor) -> Pair:
    x, log_det = _coupling(step.coupling, kernels.coupling, x, features, log_det, inverse=True)
    if kernels.noise is not None:
        x, log_det = _coupling(step.noise_coupling, kernels.noise, x, noise, log_det, inverse=True)
    h = _network(step.injector.network, kernels.injector, features)
    x, log_det = _mapped(step.injector.elementwise, x, h, log_det, inverse=True)
    return _unmix(step, x, log_det)


def _coupling(
    coupling: Module, kernel: Tensor, x: Tensor, context: Tensor, log_det: Tensor, inverse: bool = False
) -> Pair:
    x_a, x_b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    h = _network(coupling.network, kernel, torch.cat([x_a, context], dim=1))
    x_b, log_det = _mapped(coupling.elementwise, x_b, h, log_det, inverse)
    return torch.cat([x_a, x_b], dim=1), log_det


def _network(network: Module, kernel: Tensor, inputs: Tensor) -> Tensor:
    """conv 3×3 → ActNorm → ReLU → conv 1×1 → ActNorm → ReLU → conv 3×3."""
    h = F.relu(_normalized(network.norm_in, F.conv2d(inputs, kernel, padding=1)))
    h = F.relu(_normalized(network.norm_mid, F.conv2d(h, network.conv_mid)))
    return _zero_conv(network.head, h)


def _mapped(elementwise: Elementwise, x: Tensor, h: Tensor, log_det: Tensor, inverse: bool = False) -> Pair:
    function = plain_maps.inverse if inverse else plain_maps.forward
    x, log_slope = function(elementwise, x, h.unflatten(1, (elementwise.num_params, -1)))
    return x, log_det + log_slope.sum((1, 2, 3))


def _zero_conv(conv: Module, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight, conv.bias, padding=1) * torch.exp(conv.logs * 3)[:, None, None]


def _normalized(norm: Module, x: Tensor) -> Tensor:
    x = x + norm.bias[:, None, None]
    return x * torch.exp(norm.logs)[:, None, None]


def _mix(step: Module, x: Tensor, log_det: Tensor) -> Pair:
    """ActNorm → 1×1 convolution."""
    weight = step.permutation.weight
    log_det = log_det + (step.actnorm.logs.sum() + torch.slogdet(weight)[1]) * x[0, 0].numel()
    return F.conv2d(_normalized(step.actnorm, x), weight[..., None, None]), log_det


def _unmix(step: Module, x: Tensor, log_det: Tensor) -> Pair:
    weight, norm = step.permutation.weight, step.actnorm
    log_det = log_det - (norm.logs.sum() + torch.slogdet(weight)[1]) * x[0, 0].numel()
    x = F.conv2d(x, torch.inverse(weight.double()).to(weight.dtype)[..., None, None])
    x = x * torch.exp(-norm.logs)[:, None, None]
    return x - norm.bias[:, None, None], log_det


def _resized(noise: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(noise, size=x.shape[-2:], mode="bicubic", align_corners=False)


def _log_normal(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    log_prob = -0.5 * (log_std * 2 + (x - mean) ** 2 / torch.exp(log_std * 2) + math.log(2 * math.pi))
    return log_prob.sum((1, 2, 3))
