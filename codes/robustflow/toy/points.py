"""The toy's data, what is seen of them, and the exact answer."""

import math

import torch
from torch import Tensor

# x = M u, u ~ U(-1, 1)² (Hong et al., ICCV 2023, supplement S1.2): a parallelogram.
M = ((math.sqrt(3) / 4, -1 / 10), (1 / 4, -math.sqrt(3) / 10))
AREA = 4 * abs(M[0][0] * M[1][1] - M[0][1] * M[1][0])
# Half the side of the square that figures show.
WINDOW = 1.5

_GRID = 4001
_CHUNK = 1000


def observe(x: Tensor, sigmas: Tensor, sees_x: bool, generator: torch.Generator) -> Tensor:
    """Inputs y = (x₁ + σn, σ), n ~ N(0, 1), or without x₁, (b, 2), of points x, (b, 2), at noise levels σ, (b,)."""
    seen = x[:, 0] if sees_x else torch.zeros(len(x))
    return torch.stack([seen + sigmas * torch.randn(len(x), generator=generator), sigmas], dim=1)


def draw_points(n: int, generator: torch.Generator) -> Tensor:
    """Points uniform on the parallelogram, (n, 2)."""
    u = 2 * torch.rand(n, 2, generator=generator) - 1
    return u @ torch.tensor(M).T


def posterior(y: Tensor, sees_x: bool) -> tuple[Tensor, Tensor, Tensor]:
    """p(x | y) by quadrature over x₁: given x₁, x₂ is uniform on a segment. ``sees_x``: y holds x₁.

    Returns:
        Mean and variance, (b, 2), and log evidence, log p(y₁ | σ) − const in nats, (b,).
    """
    (a, b), (c, d) = M
    x1 = torch.linspace(-(abs(a) + abs(b)), abs(a) + abs(b), _GRID, dtype=torch.float64)
    ends = torch.stack([(x1 - abs(a)) / b, (x1 + abs(a)) / b]).sort(dim=0).values.clamp(-1, 1)  # of u₂
    low, high = (c / a) * x1 + (d - c * b / a) * ends
    prior = (high - low).abs() / (high - low).abs().sum()
    grid = x1, (low + high) / 2, (high - low) ** 2 / 12, prior
    mean, var, log_evidence = zip(*(_posterior(part, sees_x, *grid) for part in y.split(_CHUNK)), strict=True)
    return torch.cat(mean), torch.cat(var), torch.cat(log_evidence)


def _posterior(
    y: Tensor, sees_x: bool, x1: Tensor, x2: Tensor, var2: Tensor, prior: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    log_weight = prior.log() + _log_likelihood(x1, y.double()[:, None], sees_x)
    log_evidence = log_weight.logsumexp(1)
    weight = torch.exp(log_weight - log_evidence[:, None])
    mean = torch.stack([weight @ x1, weight @ x2], dim=1)
    var = torch.stack([weight @ x1**2, weight @ (x2**2 + var2)], dim=1) - mean**2
    return mean, var, log_evidence


def _log_likelihood(x1: Tensor, y: Tensor, sees_x: bool) -> Tensor:
    """log p(y₁ | x₁, σ) + log σ√2π, the same constant as in the evidence; y (..., 2)."""
    if not sees_x:
        return torch.zeros_like(x1 + y[..., 0])
    return -0.5 * ((y[..., 0] - x1) / y[..., 1]) ** 2


def exact_bits_per_dim(x: Tensor, y: Tensor, sees_x: bool) -> float:
    """Mean of −log₂ p(x | y) / 2 of points on the parallelogram: what a perfect model reaches."""
    nats = _log_likelihood(x.double()[:, 0], y.double(), sees_x) - posterior(y, sees_x)[2]
    return float(-(nats - math.log(AREA)).mean() / (2 * math.log(2)))
