"""The flow written plainly: in every step, features at the level's size are concatenated and convolved.

Reads the weights of a ConditionalFlow, but shares none of its code except encoder and elementwise maps.
"""

import math

import torch
import torch.nn.functional as F


def actnorm(norm, x):
    return (x + norm.bias[:, None, None]) * norm.logs.exp()[:, None, None]


def zero_conv(head, x):
    return F.conv2d(x, head.weight, head.bias, padding=1) * torch.exp(3 * head.logs)[:, None, None]


def network(net, kernels, inputs):
    """Parameter network: first convolution of the concatenated inputs with the joined kernels."""
    x = F.conv2d(torch.cat(inputs, dim=1), torch.cat(kernels, dim=1), padding=1)
    x = F.relu(actnorm(net.norm_in, x))
    x = F.relu(actnorm(net.norm_mid, F.conv2d(x, net.conv_mid)))
    return zero_conv(net.head, x)


def mapped(elementwise, x, params):
    z, log_slope = elementwise(x, params.reshape(len(x), elementwise.num_params, -1, *x.shape[2:]))
    return z, log_slope.sum((1, 2, 3))


def coupling(module, x, kernels, inputs):
    x_a, x_b = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    params = network(module.network, [module.network.conv_in, *kernels], [x_a, *inputs])
    z_b, log_det = mapped(module.elementwise, x_b, params)
    return torch.cat([x_a, z_b], dim=1), log_det


def mix(step, x):
    x = actnorm(step.actnorm, x)
    positions = x[0, 0].numel()
    log_det = positions * (step.actnorm.logs.sum() + torch.linalg.slogdet(step.permutation.weight)[1])
    return torch.einsum("ij,bjhw->bihw", step.permutation.weight, x), log_det


def full_step(level, number, x, features, noise):
    step, hidden = level.steps[number], level.injector_projection.hidden_channels
    rows = slice(number * hidden, (number + 1) * hidden)
    x, total = mix(step, x)
    projection = level.injector_projection
    params = network(step.injector.network, [projection.native[rows], projection.taps[rows]], features)
    x, log_det = mapped(step.injector.elementwise, x, params)
    total = total + log_det
    if step.noise_coupling is not None:
        resized = F.interpolate(noise, size=x.shape[-2:], mode="bicubic", align_corners=False)
        first = sum(other.noise_coupling is None for other in level.steps)
        noisy_rows = slice((number - first) * hidden, (number - first + 1) * hidden)
        x, log_det = coupling(step.noise_coupling, x, [level.noise_projection[noisy_rows]], [resized])
        total = total + log_det
    projection = level.coupling_projection
    x, log_det = coupling(step.coupling, x, [projection.native[rows], projection.taps[rows]], features)
    return x, total + log_det


def log_normal(x, mean, log_std):
    return (-0.5 * ((x - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum((1, 2, 3))


def encode(flow, x, y, noise=None):
    """Latents and log p(x | y)."""
    pyramid = flow.encoder(y)
    noise = torch.zeros_like(x) if noise is None else noise
    latents, log_prob = [], 0
    for level, native in zip(flow.levels, pyramid.native, strict=True):
        x = F.pixel_unshuffle(x, 2)
        features = [native, F.interpolate(pyramid.taps, size=x.shape[-2:], mode="nearest")]
        for transition in level.transitions:
            x, log_det = mix(transition, x)
            log_prob = log_prob + log_det
        for number in range(len(level.steps)):
            x, log_det = full_step(level, number, x, features, noise)
            log_prob = log_prob + log_det
        if level.split_prior is not None:
            x, rest = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
            mean, log_std = zero_conv(level.split_prior.network, x).chunk(2, dim=1)
            limit = level.split_prior.max_log_scale
            if limit is not None:
                log_std = torch.where(log_std > 0, limit * torch.tanh(log_std / limit), log_std)
            latents.append((rest - mean) / log_std.exp())
            log_prob = log_prob + log_normal(rest, mean, log_std)
    mean = torch.zeros_like(x) if pyramid.mean is None else F.pixel_unshuffle(pyramid.mean, 2 ** len(flow.levels))
    latents.append(x - mean)
    return latents, log_prob + log_normal(x, mean, torch.zeros_like(x))
