"""Convolutions, and the layouts in memory that they and the flow's variables have."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# What the option ``precision`` means for parameter networks and encoders; None: the precision of the parameters.
COMPUTE_DTYPES = {"auto": None, "fp32": None, "tf32": None, "bf16": torch.bfloat16}


def for_convolution(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x (b, c, h, w) in a dtype (None: its own) and the layout that convolutions are fastest in: channels last."""
    return (x if dtype is None else x.to(dtype)).contiguous(memory_format=torch.channels_last)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that autocast has convolutions of x computed in; None: it is off, or leaves x alone, as float64."""
    device = x.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_on and x.dtype != torch.float64 else None


def flow_format(x: Tensor) -> torch.memory_format:
    """Layout of the flow's variables: channels last on GPUs, where nothing is converted then; planes on CPUs.

    A CPU runs through the elementwise maps' few channels more slowly than through planes.
    """
    return torch.channels_last if x.is_cuda else torch.contiguous_format


def conv(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution of odd size with zero padding, in the precision of x."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, kernel.to(x.dtype), bias, padding=kernel.shape[-1] // 2)


def scale_kernel(kernel: Tensor, scale: Tensor) -> Tensor:
    """Kernel (out, in, height, width) of a convolution whose output is multiplied by scale (out,)."""
    return kernel * scale[:, None, None, None]


def scale_kernels(kernels: Sequence[Tensor], scales: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    """Likewise for kernels of one shape and scales (n, out), in one pass; channels last as convolutions want them."""
    stacked = torch.stack([kernel.permute(0, 2, 3, 1) for kernel in kernels]) * scales[:, :, None, None, None]
    return [kernel.permute(0, 3, 1, 2) for kernel in stacked.to(dtype or stacked.dtype).unbind()]


def add_shared(x: Tensor, shared: Tensor) -> Tensor:
    """Add shared (b, ...) to x (n·b, ...), sample-major: every one of the n samples gets the same addend."""
    if x.shape[0] == shared.shape[0]:
        return x + shared
    return (x.unflatten(0, (-1, shared.shape[0])) + shared).flatten(0, 1)


def mix_channels(x: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Apply matrix (c, c) to the channels of x, (b, c, *spatial), and add shift (c,).

    A matrix product, not a convolution: on recent GPUs convolutions round to ten bits (TF32) unless told otherwise.
    """
    if x.stride(1) == 1 and x[0, 0].numel() > 1:
        return F.linear(x.movedim(1, -1), matrix, shift).movedim(-1, 1)
    mixed = torch.matmul(matrix, x.flatten(2) if x.dim() > 2 else x[..., None])
    return (mixed if shift is None else mixed.add_(shift[:, None])).view(x.shape)
