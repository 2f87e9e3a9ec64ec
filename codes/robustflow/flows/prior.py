"""Priors of the latents."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.bijections.base import InverseBound, sum_per_item
from robustflow.bijections.elementwise.soft_affine import scale_softly, unscale_softly
from robustflow.bijections.networks import ZeroConv

_LEAST_SLOPE = 1e-4  # of a soft split prior, as of the couplings


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, summed over all but the first dimension: (b,)."""
    # Summed before all else: the gradient, z times a number for each item, is then laid out as z is.
    return -0.5 * (sum_per_item(z**2) + math.log(2 * math.pi) * z[0].numel())


def latent_mean(image: Tensor, shape: tuple[int, int, int], n_levels: int) -> Tensor:
    """Mean of a last latent, (b, *shape), from a mean in image space (b, c, H, W): one pixel_unshuffle by 2^n_levels.

    ValueError if that is of another shape: a latent without the channels that were split off has none in image space.
    """
    size = 2**n_levels
    expected = (image.shape[1], shape[1] * size, shape[2] * size)
    if tuple(image.shape[1:]) != expected or shape[0] != image.shape[1] * size**2:
        raise ValueError(
            f"expected a prior mean (b, c, H, W) that {n_levels} levels without splits turn into (b, {shape[0]}, "
            f"{shape[1]}, {shape[2]}), got {tuple(image.shape)}"
        )
    return F.pixel_unshuffle(image, size)


class SplitPrior(nn.Module):
    """Factors out half of the channels with a Gaussian whose mean and log-std depend on the other half.

    The first C − C//2 channels pass; the rest becomes ε = (rest − mean)/exp(log_std), so that
    log N(rest; mean, std) = log N(ε; 0, 1) − Σ log_std (Lugmayr et al., SRFlow, ECCV 2020).

    Args:
        channels: C.
        max_log_scale: m; a positive log_std becomes m·tanh(log_std/m), so that sampling scales by less than exp(m)
            whatever the input (our addition). None: unbounded, as published.
        soft: B of a `SoftAffine` map in place of the division: ε = c(rest − mean), of slope exp(−log_std) at zero and
            1 far beyond ±B, so that sampling lengthens a latent by at most B before the mean is added (our addition).
            None: none.
    """

    def __init__(self, channels: int, max_log_scale: float | None = None, soft: float | None = None) -> None:
        super().__init__()
        self.soft = soft
        self.kept_channels = channels - channels // 2
        self.max_log_scale = max_log_scale
        self.network = ZeroConv(self.kept_channels, 2 * (channels // 2))

    def mean_and_log_std(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-std of the rest, (b, C//2, *spatial) each, given the kept channels (b, C − C//2, *spatial)."""
        mean, log_std = self.network(kept).chunk(2, dim=1)
        if self.max_log_scale is not None:
            bounded = self.max_log_scale * torch.tanh(log_std / self.max_log_scale)
            log_std = torch.where(log_std > 0, bounded, log_std)
        return mean, log_std

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the kept channels, the latent ε, and log|det dε/d rest|, (b,)."""
        kept, rest = x.split([self.kept_channels, x.shape[1] - self.kept_channels], dim=1)
        mean, log_std = self.mean_and_log_std(kept)
        if self.soft is not None:
            latent, log_slope = scale_softly(rest - mean, torch.exp(-log_std) + _LEAST_SLOPE, self.soft)
            return kept, latent, sum_per_item(log_slope)
        return kept, (rest - mean) * torch.exp(-log_std), -sum_per_item(log_std)

    def merge(self, kept: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Undo ``split``; return x and log|det d rest/dε|, (b,)."""
        rest, log_slope = self.unscale(kept, latent)
        return torch.cat([kept, rest], dim=1), sum_per_item(log_slope)

    def unscale(self, kept: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rest of x and log|d rest/dε| of each of its elements, both of the shape of ``latent``."""
        mean, log_std = self.mean_and_log_std(kept)
        if self.soft is None:
            return mean + latent * torch.exp(log_std), log_std
        rest, log_slope = unscale_softly(latent, torch.exp(-log_std) + _LEAST_SLOPE, self.soft)
        return mean + rest, log_slope

    def inverse_bound(self) -> InverseBound | None:
        """exp(max_log_scale), the part that passes counting 1; a soft map's 1 and 2B; None without either."""
        if self.soft is not None:
            return InverseBound(1.0, 2 * self.soft)
        return None if self.max_log_scale is None else InverseBound(math.exp(self.max_log_scale))
