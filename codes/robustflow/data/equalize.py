"""Histogram equalisation."""

import cv2
import numpy as np
import torch
from torch import Tensor


def equalize(image: Tensor) -> Tensor:
    """Equalise the histogram of each channel of each image, rounded to 256 levels, by OpenCV's ``equalizeHist``.

    It depends on the whole image: that of a crop is not the crop of it.

    Args:
        image: (..., h, w), uint8, or floating and clamped to [0, 1]; not finite counts as 0.

    Returns:
        Same shape, dtype and device; 256 levels.
    """
    levels = image if image.dtype == torch.uint8 else (image.nan_to_num(0, 0, 0).clamp(0, 1) * 255).round()
    channels = levels.to(torch.uint8).flatten(0, -3).cpu().contiguous().numpy()
    equal = torch.from_numpy(np.stack([cv2.equalizeHist(channel) for channel in channels])).view(image.shape)
    equal = equal.to(image.device)
    return equal if image.dtype == torch.uint8 else equal.to(image.dtype) / 255
