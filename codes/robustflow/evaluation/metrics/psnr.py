"""Peak signal-to-noise ratio, on images rounded to 8 bits."""

from robustflow.evaluation.metrics.base import FullReference, Places
from robustflow.evaluation.metrics.images import psnr
from robustflow.registry import METRICS


@METRICS.register("psnr")
class PSNR(FullReference):
    """PSNR of RGB."""

    label, better, unit = "PSNR", "high", "dB"
    protocol = "RGB, uint8 (quantize), finite samples; psnr_y: luma (ITU-R BT.601, 16-235)"
    places: Places = ("fidelity", "curves", "best", "differences", "captions", "training", "worst")
    compare = staticmethod(psnr)


@METRICS.register("psnr_gtmean")
class BrightenedPSNR(PSNR):
    """PSNR of RGB at the ground truth's brightness."""

    label, usual, brightened = "PSNR GT-mean", False, True
    protocol = "as psnr, of sample * mean grey of ground truth / mean grey of sample, both in [0, 1]"
    places = ("fidelity", "curves", "best", "differences", "captions", "training")
