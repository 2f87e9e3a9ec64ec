"""LR-PSNR, PSNR, SSIM and spectral distance, on images rounded to 8 bits."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from torch import Tensor

from robustflow.data.bicubic import Kernel, downsample
from robustflow.evaluation.metrics.base import (
    Column,
    FullReference,
    Places,
    Sample,
    SampleMetric,
    Target,
    Values,
    mean,
)
from robustflow.evaluation.metrics.images import crop_borders, grey, luma, psnr
from robustflow.registry import METRICS

if TYPE_CHECKING:
    import pandas as pd

_BEGINNING = "uint8, MATLAB bicubic of the 8-bit sample (quantize), against "
# How it is measured, by the option `lr_psnr_reference`.
LR_REFERENCES = {
    "ground_truth": _BEGINNING + "bicubic(ground truth), or the LR image where that was altered or there is no ground "
    "truth; std: population",
    "input": _BEGINNING + "the LR image; std: population",
}
# What the NTIRE challenge asks of LR-PSNR, dB; and the figures that are held against it.
BAR, BARRED = 45.0, ("lr_psnr", "lr_psnr_min", "lr_psnr_mean")
_WITH = {"lr_psnr": "", "lr_psnr_gt": ", to GT", "lr_psnr_lr": ", to LR"}
# Side of the smallest image that the 11×11 Gaussian window fits into.
SSIM_WINDOW = 11
_REACH = SSIM_WINDOW // 2
_GAUSSIAN = np.exp(-((np.arange(-_REACH, _REACH + 1) / 1.5) ** 2) / 2)
_WEIGHTS = _GAUSSIAN / _GAUSSIAN.sum()
_SPECTRUM_SIDE = 16  # of the smallest image that has a spectrum to speak of
# What keeps the quotients finite, (K L)² with L = 255.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(image: Tensor, reference: Tensor, crop: int = 0) -> float | None:
    """Structural similarity of two images (c, H, W) in 0..255, mean over channels; None below 11 pixels.

    Gaussian window of 11×11, σ = 1.5, population covariance (Wang et al., 2004), where the whole window lies
    inside the image; equal to scikit-image's, several times as fast.

    Args:
        image: uint8, luma or grey values.
        reference: Likewise.
        crop: Pixels left out along each border, before anything else.
    """
    image, reference = crop_borders(image, reference, crop)
    if min(image.shape[-2:]) < SSIM_WINDOW:
        return None
    channels = zip(image.cpu().double().numpy(), reference.cpu().double().numpy(), strict=True)
    return float(np.mean([_ssim(x, y) for x, y in channels]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Structural similarity of two channels (H, W), float64: Wang et al., 2004, equation 13, averaged."""
    mean_x, mean_y = _filter(x), _filter(y)
    var_x, var_y = _filter(x * x) - mean_x**2, _filter(y * y) - mean_y**2
    cov = _filter(x * y) - mean_x * mean_y
    similar = (2 * mean_x * mean_y + _C1) * (2 * cov + _C2)
    return float((similar / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))).mean())


def _filter(values: np.ndarray) -> np.ndarray:
    """Weighted mean in the window around each pixel whose window lies inside: (H, W) to (H - 10, W - 10)."""
    return cv2.sepFilter2D(values, -1, _WEIGHTS, _WEIGHTS)[_REACH:-_REACH, _REACH:-_REACH]


@METRICS.register("lr_psnr")
class LRPSNR(SampleMetric):
    """PSNR in dB of the downsampled sample: to the reference of the protocol, to the ground truth's, to the input."""

    label, better, unit, limits = "LR-PSNR", "high", "dB", (0, None)
    keys = tuple(_WITH)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of a sample; and of an image minimum, standard deviation and mean over its samples."""
        places: Places = ("best", "differences", "captions", "worst")
        found = [Column(self.name, self.label, "high", "dB", places)]
        for key, end in _WITH.items():
            # Those to a reference of their own are in no table.
            table: Places = () if end else ("robustness",)
            plots: Places = () if end else ("curves", "training")
            found.append(Column(f"{key}_min", f"LR-PSNR min{end}", "high", "dB", table))
            found.append(Column(f"{key}_std", f"LR-PSNR σ{end}", "low", "dB", table))
            found.append(Column(f"{key}_mean", f"LR-PSNR mean{end}", "high", "dB", (*table, *plots)))
        return tuple(column._replace(limits=self.limits) for column in found)

    def of_sample(self, sample: Sample, target: Target) -> Values:
        """Against the input where there is no ground truth, or where the protocol says so."""
        of_lr = psnr(sample.small, target.lr)
        of_gt = None if target.lr_of_gt is None else psnr(sample.small, target.lr_of_gt)
        main = of_lr if target.against_input or of_gt is None else of_gt
        return {"lr_psnr": main, "lr_psnr_gt": of_gt, "lr_psnr_lr": of_lr}

    def summarize(self, frame: "pd.DataFrame") -> dict[str, Any]:
        """Means over images of minimum, standard deviation (of several) and mean over the samples of each."""
        found: dict[str, Any] = {}
        several = frame.image.duplicated().any()
        for key in self.keys:
            images = [list(values) for _, values in frame.dropna(subset=key).groupby("image", sort=False)[key]]
            found[f"{key}_min"] = mean(min(values) for values in images)
            found[f"{key}_std"] = mean(_deviation(values) for values in images) if several else None
            found[f"{key}_mean"] = mean(statistics.fmean(values) for values in images)
        return found


def lr_psnr(sample: Tensor, lr_reference: Tensor, scale: int, kernel: Kernel = "bicubic") -> float | None:
    """PSNR in dB between a uint8 sample (3, H, W), downsampled, and a uint8 LR image (3, h, w)."""
    return psnr(downsample(sample, scale, kernel), lr_reference)


def _deviation(values: Sequence[float]) -> float | None:
    """Population standard deviation, as numpy's; None where a value is infinite (equal images)."""
    return statistics.pstdev(values) if all(math.isfinite(value) for value in values) else None


@METRICS.register("psnr")
class PSNR(FullReference):
    """PSNR of RGB."""

    label, better, unit, limits = "PSNR", "high", "dB", (0, None)
    protocol = "RGB, uint8 (quantize); psnr_y: luma (ITU-R BT.601, 16-235)"
    places: Places = ("fidelity", "curves", "best", "differences", "captions", "training", "worst")
    compare = staticmethod(psnr)


@METRICS.register("psnr_gtmean")
class BrightenedPSNR(PSNR):
    """PSNR of RGB at the ground truth's brightness."""

    label, usual, brightened = "PSNR GT-mean", False, True
    protocol = "as psnr, of sample * mean grey of ground truth / mean grey of sample, both in [0, 1]"
    places = ("fidelity", "curves", "best", "differences", "captions", "training")


@METRICS.register("ssim")
class SSIM(FullReference):
    """SSIM of RGB, at most 1."""

    label, better, limits = "SSIM", "high", (-1, 1)
    protocol = "RGB mean, uint8 (quantize), Gaussian window 11, sigma 1.5, as scikit-image's; ssim_y: luma"
    places: Places = ("fidelity", "curves", "best", "differences", "captions")
    compare = staticmethod(ssim)


@METRICS.register("ssim_gtmean")
class BrightenedSSIM(SSIM):
    """SSIM of RGB at the ground truth's brightness."""

    label, usual, brightened, places = "SSIM GT-mean", False, True, ("fidelity",)
    protocol = "as ssim, at the ground truth's brightness, see psnr_gtmean"


@METRICS.register("ssim_grey")
class GreySSIM(SSIM):
    """SSIM of grey values."""

    label, usual = "SSIM grey", False
    places: Places = ("fidelity",)
    protocol = "as ssim, of 0.299 R + 0.587 G + 0.114 B"
    view = staticmethod(grey)


@METRICS.register("ssim_grey_gtmean")
class BrightenedGreySSIM(GreySSIM):
    """SSIM of grey values at the ground truth's brightness."""

    label, brightened, places = "SSIM grey GT-mean", True, ("fidelity", "differences")
    protocol = "as ssim_grey, at the ground truth's brightness, see psnr_gtmean"


@METRICS.register("spectral_distance")
class SpectralDistance(SampleMetric):
    """How far the power of details is from the ground truth's; 0: as sharp, wherever the details lie. Of this project.

    Smooth images have it too low and noise too high: what a blurred image gains in PSNR it loses here, without weights
    that must be fetched. It does not see whether details are in their places, which LPIPS does.
    """

    label, better, unit, limits, needs = "spectral distance", "low", "dB", (0, None), ("ground truth",)
    protocol = (
        "of grey values, uint8 (quantize), Hann window: rms over the spatial frequencies above the input's limit "
        "(1 / (2 scale) cycles per pixel; scale 1: above 1/4), in rings 1 / side wide, of 10 log10 of the ratio of the "
        "powers, 1 added to each"
    )
    places: Places = ("fidelity", "curves", "differences")

    def of_sample(self, sample: Sample, target: Target) -> float | None:
        """None below 16 pixels."""
        assert target.gt is not None
        image, reference = crop_borders(sample.image, target.gt, target.crop)
        if min(image.shape[-2:]) < _SPECTRUM_SIDE:
            return None
        scale = max(target.scale, 2)
        powers = target.keep(_power_by_frequency, lambda: _power_by_frequency(reference, scale))
        return _distance_of_powers(_power_by_frequency(image, scale), powers)


def spectral_distance(image: Tensor, reference: Tensor, scale: int) -> float:
    """Distance in dB of the spectra of two uint8 images (3, H, W) above 1/(2 scale) cycles per pixel."""
    return _distance_of_powers(*(_power_by_frequency(one, scale) for one in (image, reference)))


def _distance_of_powers(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.sqrt(np.mean((10 * np.log10(ours / theirs)) ** 2)))


def _power_by_frequency(image: Tensor, scale: int) -> np.ndarray:
    """1 and the mean power of grey values in rings of frequencies from 1/(2 scale) to 1/2 cycles per pixel."""
    values = grey(image).cpu().numpy()[0].astype(np.float64)
    height, width = values.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.rfft2((values - values.mean()) * window)) ** 2 / (window**2).sum()
    side, across = min(height, width), np.fft.rfftfreq(width)
    # In rings; rounded, as frequencies on the edge of one may come out below it.
    radius = (np.hypot(np.fft.fftfreq(height)[:, None], across) * side).round(9)
    chosen = (radius > side / (2 * scale)) & (radius <= side / 2)
    # Only half the spectrum of a real image is computed; the first and the last column hold their conjugates already.
    times = np.broadcast_to(np.where((across > 0) & (across < 0.5), 2, 1), radius.shape)[chosen]
    rings = radius[chosen].astype(int)
    sums, counts = (np.bincount(rings, weights) for weights in (times * power[chosen], times))
    return 1 + sums[counts > 0] / counts[counts > 0]


@METRICS.register("psnr_y")
class LumaPSNR(PSNR):
    """PSNR of luma, as many papers on super-resolution report it; its peak is 255, as in their tables."""

    label, protocol, places = "PSNR Y", "", ()
    view = staticmethod(luma)


@METRICS.register("ssim_y")
class LumaSSIM(SSIM):
    """SSIM of luma."""

    label, protocol, places = "SSIM Y", "", ()
    view = staticmethod(luma)
