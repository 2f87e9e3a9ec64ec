"""What is measured of the pictures that commands make."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from robustflow.data.images import to_uint8
from robustflow.evaluation.metrics import perceptual
from robustflow.evaluation.metrics.failures import pixel_errors
from robustflow.evaluation.metrics.fidelity import SSIM_WINDOW, lr_psnr, ssim
from robustflow.evaluation.metrics.images import psnr
from robustflow.models import FlowModel, SuperResolution
from robustflow.report.columns import cell

log = logging.getLogger(__name__)

METRICS = ("psnr", "ssim", "lpips")
LABELS = {"lr_psnr": "LR-PSNR", **{key: key.upper() for key in METRICS}, "pixel_errors": "%PixelErr"}
# Shorter side of the smallest image that a metric can be computed of.
SMALLEST = {"psnr": 1, "ssim": SSIM_WINDOW, "lpips": perceptual.SMALLEST}
# Of a picture; None for what cannot be computed.
Figures = dict[str, float | None]


class Likeness:
    """How like a picture is to a clean one; LPIPS where its weights are, which is said once where they are not.

    Attributes:
        lpips: LPIPS, or why it cannot be computed.
    """

    def __init__(self, device: torch.device) -> None:
        self.lpips = perceptual.load(device)
        if isinstance(self.lpips, str):
            log.info("lpips: not computed; %s", self.lpips)

    def __call__(self, image: Tensor, clean: Tensor) -> Figures:
        """`METRICS` of two uint8 images (3, H, W) on the CPU."""
        lpips = self.lpips
        return {
            "psnr": psnr(image, clean),
            "ssim": ssim(image, clean),
            "lpips": None if isinstance(lpips, str) else lpips.distance(image, clean),
        }


def measure(model: FlowModel, image: Tensor, lr: Tensor) -> Figures:
    """Figures of a result (3, H, W), not clamped.

    LR-PSNR in dB, of the result as written with 8 bits, downsampled as the model's LR images are, to an LR image
    (3, h, w) as read: inf if they are equal, None if the result is not finite, left out for models without LR images.
    Pixel errors in percent.
    """
    figures: Figures = {"pixel_errors": pixel_errors(image)}
    if isinstance(model, SuperResolution):
        finite, written, lr = bool(image.isfinite().all()), to_uint8(image).cpu(), to_uint8(lr).cpu()
        agreement = lr_psnr(written, lr, model.scale, kernel=model.options.kernel) if finite else None
        figures = {"lr_psnr": agreement, **figures}
    return figures


def to_table(first: str, rows: Mapping[str, Mapping[str, Any]]) -> Sequence[Sequence[str]]:
    """A table of figures, headings first: a row per name, the columns of `LABELS` that any row has, dashes for None."""
    keys = [key for key in LABELS if any(key in row for row in rows.values())]
    headings = [first, *(LABELS[key] for key in keys)]
    return [headings, *([name, *(cell(row.get(key)) for key in keys)] for name, row in rows.items())]
