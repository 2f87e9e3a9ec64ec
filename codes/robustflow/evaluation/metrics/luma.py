"""PSNR and SSIM of luma alone, as many papers on super-resolution report them."""

from robustflow.evaluation.metrics.images import luma
from robustflow.evaluation.metrics.psnr import PSNR
from robustflow.evaluation.metrics.ssim import SSIM
from robustflow.registry import METRICS


@METRICS.register("psnr_y")
class LumaPSNR(PSNR):
    """PSNR of luma; its peak is 255, as in published tables."""

    label, protocol, places = "PSNR Y", "", ()
    view = staticmethod(luma)


@METRICS.register("ssim_y")
class LumaSSIM(SSIM):
    """SSIM of luma."""

    label, protocol, places = "SSIM Y", "", ()
    view = staticmethod(luma)
