"""How like a picture is to a clean one: the metrics of tables."""

import logging

import torch
from torch import Tensor

from robustflow.evaluation.metrics import perceptual
from robustflow.evaluation.metrics.images import psnr
from robustflow.evaluation.metrics.ssim import SSIM_WINDOW, ssim

log = logging.getLogger(__name__)

METRICS = ("psnr", "ssim", "lpips")
# Shorter side of the smallest image that a metric can be computed of.
SMALLEST = {"psnr": 1, "ssim": SSIM_WINDOW, "lpips": perceptual.SMALLEST}


class Likeness:
    """Measures pictures; LPIPS where its weights are, which is said once where they are not.

    Attributes:
        lpips: LPIPS, or why it cannot be computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.lpips = perceptual.load(device)
        if isinstance(self.lpips, perceptual.NotComputed):
            log.info("lpips: not computed; %s", self.lpips.reason)

    def __call__(self, image: Tensor, clean: Tensor) -> dict[str, float | None]:
        """`METRICS` of two uint8 images (3, H, W) on the CPU; None for one that cannot be computed."""
        lpips = self.lpips
        return {
            "psnr": psnr(image, clean),
            "ssim": ssim(image, clean),
            "lpips": None if isinstance(lpips, perceptual.NotComputed) else lpips.distance(image, clean),
        }
