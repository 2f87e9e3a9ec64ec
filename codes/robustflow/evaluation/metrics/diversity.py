"""How much the samples of one input differ from each other."""

import torch
from torch import Tensor

from robustflow.evaluation.metrics.base import SetMetric, Target, stack
from robustflow.registry import METRICS
from robustflow.utils import memory

# White in pictures of standard deviations, of the image's range.
WHITE = 0.25


def sigma(samples: Tensor) -> float | None:
    """Standard deviation of a pixel over the samples, averaged over pixels and channels, in 8-bit levels.

    Lugmayr et al., SRFlow, ECCV 2020: "diversity σ". Population standard deviation, so 0 for one sample.

    Args:
        samples: (n, 3, H, W), floating, finite, clamped to [0, 1].

    Returns:
        On the scale 0..255; None if there are no samples.
    """
    if len(samples) < 2:
        return 0.0 if len(samples) else None
    total = 0.0
    for rows in memory.bands_of(samples):
        total += samples[..., rows, :].clamp(0, 1).double().std(dim=0, correction=0).sum().item()
    return 255 * (total / samples[0].numel())


def picture(samples: Tensor) -> Tensor | None:
    """`Spread.picture` of finite samples (n, 3, H, W) that are all there: no sums of whole images are made."""

    def of(rows: slice) -> Tensor | None:
        spread = Spread()
        for sample in samples:
            spread.add(sample[:, rows])
        return spread.picture()

    parts = [part for rows in memory.bands_of(samples) if (part := of(rows)) is not None]
    return torch.cat([part[:1] for part in parts], dim=-2).expand(3, -1, -1) if parts else None


class Spread:
    """The standard deviation of samples at each pixel, as a picture; samples are added one by one, and not kept."""

    def __init__(self) -> None:
        self.n = 0
        self._sum = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, sample: Tensor) -> None:
        """Add a sample (3, H, W), floating, clamped to [0, 1]; one that is not finite does not count."""
        if not all(sample[:, rows].isfinite().all() for rows in memory.bands_of(sample)):
            return
        if self.n == 0:
            self._sum, self._squares = (torch.zeros(sample.shape, dtype=torch.float64) for _ in range(2))
        self.n += 1
        for rows in memory.bands_of(sample):
            values = sample[:, rows].clamp(0, 1).double().cpu()
            self._sum[:, rows] += values
            self._squares[:, rows] += values**2

    def picture(self) -> Tensor | None:
        """Population standard deviation, mean over channels, (3, H, W), grey, white from `WHITE` on.

        None for fewer than two samples.
        """
        if self.n < 2:
            return None
        return torch.cat([self._grey(rows) for rows in memory.bands_of(self._sum)], dim=-2).expand(3, -1, -1)

    def _grey(self, rows: slice) -> Tensor:
        variance = self._squares[:, rows] / self.n - (self._sum[:, rows] / self.n) ** 2
        return variance.clamp(min=0).sqrt().mean(0, keepdim=True) / WHITE


def score(maps: Tensor) -> float | None:
    """Diversity score of the NTIRE 2021 challenge on learning the super-resolution space, in percent.

        100 (global_best − local_best) / global_best

    global_best is the smallest distance of any one sample, local_best the distance of the image that takes from the
    samples, pixel by pixel, whatever is closest to the reference. 0: samples do not complement each other.

    Args:
        maps: (n, H, W), distance of each sample to the reference at each pixel, spatial LPIPS.

    Returns:
        None if there are no samples, or if one equals the reference, so that nothing can be gained.
    """
    if len(maps) == 0:
        return None
    maps = maps.double()
    global_best = maps.mean(dim=(1, 2)).min().item()
    local_best = maps.amin(dim=0).mean().item()
    return None if global_best == 0 else 100 * (global_best - local_best) / global_best


@METRICS.register("diversity_sigma")
class DiversitySigma(SetMetric):
    """Standard deviation over samples."""

    label, places, least, limits = "diversity σ", ("fidelity", "curves"), 2, (0, None)
    protocol = "standard deviation over samples, mean over pixels, 0-255"

    def of_samples(self, samples: Tensor, target: Target) -> float | None:
        """See `sigma`."""
        return sigma(samples)


@METRICS.register("diversity_score")
class DiversityScore(SetMetric):
    """Diversity score of the NTIRE challenge."""

    label, better, places, needs = "diversity score", "high", ("fidelity",), ("ground truth", "backbone")
    least, limits = 2, (0, 100)
    protocol = "NTIRE: 100 (global best - local best) / global best, LPIPS maps"

    def of_samples(self, samples: Tensor, target: Target) -> float | None:
        """See `score`; None for images that are too small."""
        assert target.perceptual is not None and target.gt is not None
        maps = target.perceptual.maps(stack(samples, target), target.gt)
        return None if maps is None else score(maps)
