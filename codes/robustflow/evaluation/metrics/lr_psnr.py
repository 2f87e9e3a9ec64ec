"""LR-PSNR: how well a sample, downsampled, agrees with its input."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from robustflow.data.bicubic import Kernel, downsample
from robustflow.evaluation.metrics.base import Column, Sample, SampleMetric, Target, Values, mean
from robustflow.evaluation.metrics.images import psnr
from robustflow.registry import METRICS

if TYPE_CHECKING:
    import pandas as pd

_BEGINNING = "uint8, MATLAB bicubic of the 8-bit sample (quantize), against "
# How it is measured, by the option `lr_psnr_reference`.
REFERENCES = {
    "ground_truth": _BEGINNING + "bicubic(ground truth), or the LR image where that was altered or there is no ground "
    "truth; std: population",
    "input": _BEGINNING + "the LR image; std: population",
}
# What the NTIRE challenge asks of LR-PSNR, dB; and the figures that are held against it.
BAR, BARRED = 45.0, ("lr_psnr", "lr_psnr_min", "lr_psnr_mean")
_WITH = {"lr_psnr": "", "lr_psnr_gt": ", to GT", "lr_psnr_lr": ", to LR"}


@METRICS.register("lr_psnr")
class LRPSNR(SampleMetric):
    """PSNR in dB of the downsampled sample: to the reference of the protocol, to the ground truth's, to the input."""

    label, better, unit = "LR-PSNR", "high", "dB"
    keys = tuple(_WITH)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of a sample; and of an image minimum, standard deviation and mean over its samples."""
        own = Column(self.name, self.label, "high", "dB", ("best", "differences", "captions", "worst"))
        return own, *(column for key in self.keys for column in self._of_images(key, key == self.name))

    def _of_images(self, key: str, main: bool) -> tuple[Column, ...]:
        end = _WITH[key]
        return (
            Column(f"{key}_min", f"LR-PSNR min{end}", "high", "dB", ("robustness",) if main else ()),
            Column(f"{key}_std", f"LR-PSNR σ{end}", "low", "dB", ("robustness",) if main else ()),
            Column(f"{key}_mean", f"LR-PSNR mean{end}", "high", "dB", ("robustness", "curves", "training") if main else ()),
        )

    def of_sample(self, sample: Sample, target: Target) -> Values:
        """Against the input where there is no ground truth, or where the protocol says so."""
        of_lr = psnr(sample.small, target.lr)
        of_gt = None if target.lr_of_gt is None else psnr(sample.small, target.lr_of_gt)
        main = of_lr if target.against_input or of_gt is None else of_gt
        return {"lr_psnr": main, "lr_psnr_gt": of_gt, "lr_psnr_lr": of_lr}

    def summarize(self, frame: "pd.DataFrame") -> dict[str, Any]:
        """Means over images of minimum, standard deviation and mean over the samples of each."""
        found: dict[str, Any] = {}
        for key in self.keys:
            images = [list(values) for _, values in frame.dropna(subset=key).groupby("image", sort=False)[key]]
            found[f"{key}_min"] = mean(min(values) for values in images)
            found[f"{key}_std"] = mean(_std(values) for values in images)
            found[f"{key}_mean"] = mean(statistics.fmean(values) for values in images)
        return found


def lr_psnr(
    sample: Tensor, lr_reference: Tensor, scale: int, crop: int = 0, kernel: Kernel = "bicubic"
) -> float | None:
    """PSNR in dB between a uint8 sample (3, H, W), downsampled, and a uint8 LR image (3, h, w).

    ``crop`` counts LR pixels.
    """
    return psnr(downsample(sample, scale, kernel), lr_reference, crop)


def _std(values: Sequence[float]) -> float | None:
    """Population standard deviation, as numpy's; None where a value is infinite (equal images)."""
    return statistics.pstdev(values) if all(math.isfinite(value) for value in values) else None
