"""How much the samples of one input differ from each other."""

from torch import Tensor


def sigma(samples: Tensor) -> float | None:
    """Standard deviation of a pixel over the samples, averaged over pixels and channels, in 8-bit levels.

    Lugmayr et al., SRFlow, ECCV 2020: "diversity σ". Population standard deviation, so 0 for one sample.

    Args:
        samples: (n, 3, H, W), floating in [0, 1], finite.

    Returns:
        On the scale 0..255; None if there are no samples.
    """
    if len(samples) == 0:
        return None
    return 255 * samples.double().std(dim=0, correction=0).mean().item()


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
