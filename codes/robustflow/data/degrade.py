"""Conditions a model was not trained for: enhanced HR images, altered LR images."""

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Enhancement = Literal["published", "unit"]

# Hong et al., ICCV 2023, supplement S1. Kept integer and divided afterwards, so that uint8 images are filtered exactly.
_KERNEL = ((-1.0, -4.0, -1.0), (-4.0, 26.0, -4.0), (-1.0, -4.0, -1.0))
_DIVISORS: dict[str, float] = {"published": 3.0, "unit": 6.0}


def enhance(image: Tensor, kind: Enhancement) -> Tensor:
    """Sharpen each channel as in Enhanced Urban100 (Hong et al., ICCV 2023, supplement S1); edges are replicated.

    Args:
        image: (..., c, h, w), uint8 or floating in [0, 1].
        kind: ``published`` divides the kernel by 3 (it sums to 2: sharper and twice as bright), ``unit`` by 6 (sum 1).

    Returns:
        Same shape and dtype, clipped to the image range; uint8 rounded.
    """
    if kind not in _DIVISORS:
        raise ValueError(f"expected an enhancement 'published' or 'unit', got {kind!r}")
    flat = image.reshape(-1, 1, *image.shape[-2:]).to(torch.promote_types(image.dtype, torch.float32))
    filtered = F.conv2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), _kernel(flat.dtype, flat.device))
    # By a tensor: GPUs replace division by a number with multiplication by its inverse, which breaks ties of rounding.
    filtered = filtered.reshape(image.shape) / filtered.new_full((), _DIVISORS[kind])
    if image.dtype == torch.uint8:
        return filtered.round().clamp(0, 255).to(torch.uint8)
    return filtered.clamp(0, 1).to(image.dtype)


@lru_cache(maxsize=8)
def _kernel(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The kernel (1, 1, 3, 3); copied to a device once, for a GPU would be waited for."""
    return torch.tensor([[_KERNEL]], dtype=dtype, device=device)


def degrade_lr(lr: Tensor, *, noise: float, gain: float, invert: bool, generator: torch.Generator) -> Tensor:
    """Alter a condition: gain, then inversion, then noise.

    Args:
        lr: (..., c, h, w) floating, in [0, 1].
        noise: Standard deviation of white Gaussian noise; above 0 the result is clipped to [0, 1].
        gain: Factor; its result is not clipped.
        invert: Replace y by 1 - y.
        generator: Source of the noise; not advanced if ``noise`` is 0.

    Returns:
        Same shape and dtype; ``lr`` itself if nothing is to be changed.
    """
    white = torch.randn(lr.shape, generator=generator, dtype=lr.dtype) if noise > 0 else None
    return alter_lr(lr, noise=noise, gain=gain, invert=invert, white=white)


def alter_lr(lr: Tensor, *, noise: float, gain: float, invert: bool, white: Tensor | None) -> Tensor:
    """As `degrade_lr`, the white noise (shape of ``lr``, standard deviation 1) given; None: no noise."""
    if gain != 1:
        lr = lr * gain
    if invert:
        lr = 1 - lr
    if white is not None:
        lr = (lr + noise * white).clamp(0, 1)
    return lr
