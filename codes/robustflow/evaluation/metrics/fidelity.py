"""PSNR and SSIM, on images rounded to 8 bits: of RGB, of luma, of grey values, at the ground truth's brightness."""

import cv2
import numpy as np
from torch import Tensor

from robustflow.evaluation.metrics.base import FullReference, Places
from robustflow.evaluation.metrics.images import crop_borders, grey, luma, psnr
from robustflow.registry import METRICS

# Side of the smallest image that the 11×11 Gaussian window fits into.
SSIM_WINDOW = 11
_REACH = SSIM_WINDOW // 2
_GAUSSIAN = np.exp(-((np.arange(-_REACH, _REACH + 1) / 1.5) ** 2) / 2)
_WEIGHTS = _GAUSSIAN / _GAUSSIAN.sum()
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


@METRICS.register("psnr")
class PSNR(FullReference):
    """PSNR of RGB."""

    label, better, unit = "PSNR", "high", "dB"
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

    label, better = "SSIM", "high"
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
