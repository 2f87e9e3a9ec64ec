"""What is measured of a trained toy flow, at one noise level of the input."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustflow.toy.flow import DIMENSIONS, ToyFlow
from robustflow.toy.points import WINDOW


class HeldOut(NamedTuple):
    """Held-out points and inputs of one noise level, with the exact answers.

    Attributes:
        x: Points, (n, 2).
        y: Their inputs, (n, 2); the first ``n_conditions`` are sampled many times, all are sampled once.
        mean: Of the posterior of these first ones, (n_conditions, 2); see `points.posterior`.
        var: The same.
        bits_per_dim: Of a perfect model.
    """

    x: Tensor
    y: Tensor
    mean: Tensor
    var: Tensor
    bits_per_dim: float


class Measurement(NamedTuple):
    """Figures of one run at one noise level, and what pictures need.

    Attributes:
        figures: By name, see ``summary.COLUMNS``.
        layers: Names along sampling, the latent first.
        variances: Of both coordinates behind each of them, about the centre at fixed y, (len(layers), 2).
        samples: Some samples at fixed y, (n_conditions, n_sample, 2).
        marginal: One sample for each held-out input, (n, 2).
    """

    figures: dict[str, Any]
    layers: list[str]
    variances: Tensor
    samples: Tensor
    marginal: Tensor


@torch.no_grad()
def measure(flow: ToyFlow, given: HeldOut, n_sample: int, generator: torch.Generator) -> Measurement:
    """Sample and score held-out points; the flow in eval mode."""
    bits = float(-flow.log_prob(given.x, given.y).double().mean() / (DIMENSIONS * math.log(2)))
    z = torch.randn(len(given.x), DIMENSIONS, generator=generator)
    marginal, _ = flow.inverse(z, given.y)
    layers, variances, samples = _trace(flow, given, n_sample, generator)
    figures = {
        "bits_per_dim": bits,
        "bits_gap": bits - given.bits_per_dim,
        **_against_truth(samples, given),
        **_largest_jump(layers, variances),
        "outside": float((~(samples.abs() <= WINDOW).all(-1)).double().mean()),
        "max_abs": float(samples.abs().nan_to_num(nan=math.inf, posinf=math.inf).max()),
    }
    return Measurement(figures, layers, variances, samples, marginal)


def _trace(
    flow: ToyFlow, given: HeldOut, n_sample: int, generator: torch.Generator
) -> tuple[list[str], Tensor, Tensor]:
    """Layer names, variances behind them, and the samples."""
    y = given.y[: len(given.mean)].repeat_interleave(n_sample, dim=0)
    x = torch.randn(len(y), DIMENSIONS, generator=generator)
    layers, variances = ["latent"], [_variance(x, n_sample)]
    for name, value in flow.trace(x, y):
        x = value
        layers.append(name)
        variances.append(_variance(x, n_sample))
    return layers, torch.stack(variances), x.view(-1, n_sample, DIMENSIONS).double()


def _variance(x: Tensor, n_sample: int) -> Tensor:
    """Variance of both coordinates, (2,), of the samples of each y about their own centre, pooled; inf if undefined."""
    pooled = x.double().view(-1, n_sample, DIMENSIONS).var(dim=1).mean(dim=0)
    return pooled.nan_to_num(nan=math.inf, posinf=math.inf)


def _against_truth(samples: Tensor, given: HeldOut) -> dict[str, float]:
    """Standard deviation at fixed y, pooled over y and coordinates, and RMS distance of the centres from the truth."""
    spread = float(samples.var(dim=1).mean().sqrt())
    true_spread = float(given.var.mean().sqrt())
    off = float((samples.mean(dim=1) - given.mean).square().sum(-1).mean().sqrt())
    return {
        "spread": spread if math.isfinite(spread) else math.inf,
        "true_spread": true_spread,
        "spread_ratio": spread / true_spread if math.isfinite(spread) else math.inf,
        "centre_error": off if math.isfinite(off) else math.inf,
    }


def _largest_jump(layers: list[str], variances: Tensor) -> dict[str, Any]:
    """Largest factor by which a layer multiplies the total variance of both coordinates, and the layer."""
    total = variances.sum(1)
    factors = (total[1:] / total[:-1]).nan_to_num(nan=1.0, posinf=math.inf)
    index = int(factors.argmax())
    return {"jump": float(factors[index]), "jump_layer": layers[index + 1]}
