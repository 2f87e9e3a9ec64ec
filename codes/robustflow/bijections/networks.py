"""Parameter networks: what couplings and injectors get their elementwise parameters from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm

# What the option ``precision`` means for parameter networks and encoders; None: the precision of the parameters.
COMPUTE_DTYPES = {"auto": None, "fp32": None, "tf32": None, "bf16": torch.bfloat16}


def add_shared(x: Tensor, shared: Tensor) -> Tensor:
    """Add shared (b, ...) to x (n·b, ...), sample-major: every one of the n samples gets the same addend."""
    if x.shape[0] == shared.shape[0]:
        return x + shared
    return (x.unflatten(0, (-1, shared.shape[0])) + shared).flatten(0, 1)


def for_convolution(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """x (b, c, h, w) in a dtype (None: its own) and the layout that convolutions are fastest in.

    Channels last on CPUs, where it saves reordering at every convolution, and on GPUs in 16 bits, where matrix units
    want it.
    """
    x = x if dtype is None else x.to(dtype)
    last = x.device.type == "cpu" or x.element_size() == 2
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def scaled(kernel: Tensor, scale: Tensor) -> Tensor:
    """Kernel (out, in, height, width) of a convolution whose output is multiplied by scale (out,)."""
    return kernel * scale[:, None, None, None]


def conv(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution of odd size with zero padding, in the precision of x."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, kernel.to(x.dtype), bias, padding=kernel.shape[-1] // 2)


class ZeroConv(nn.Module):
    """3×3 convolution times exp(3·logs), all parameters zero at the start (Kingma & Dhariwal, Glow, 2018)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.logs = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, in_channels, h, w) to (b, out_channels, h, w)."""
        scale = torch.exp(3 * self.logs)
        return conv(x, scaled(self.weight, scale), self.bias * scale)


def glow_kernel(out_channels: int, in_channels: int, size: int) -> nn.Parameter:
    """Kernel (out_channels, in_channels, size, size) drawn from N(0, 0.05²), as in Glow."""
    return nn.Parameter(0.05 * torch.randn(out_channels, in_channels, size, size))


class ConvNetwork(nn.Module):
    """conv 3×3 → ActNorm → ReLU → conv 1×1 → ActNorm → ReLU → zero-initialised conv 3×3.

    The first convolution reads [x_a, condition]; being linear, it is split: this network owns the part that reads
    x_a, and ``context`` is the part that reads the condition, computed once for all steps of a level with kernels
    multiplied by ``context_scale``. The ActNorms are folded into the convolutions before them.

    Args:
        in_channels: Channels of x_a; 0 if the network reads the condition alone.
        hidden_channels: Width.
        out_channels: Elementwise parameters, num_params·c, the parameter index slowest.

    Attributes:
        compute_dtype: Precision of the convolutions; None: that of the parameters.
    """

    compute_dtype: torch.dtype | None = None

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_in = glow_kernel(hidden_channels, in_channels, 3) if in_channels > 0 else None
        self.norm_in = ActNorm(hidden_channels)
        self.conv_mid = glow_kernel(hidden_channels, hidden_channels, 1)
        self.norm_mid = ActNorm(hidden_channels)
        self.head = ZeroConv(hidden_channels, out_channels)

    def context_scale(self) -> Tensor:
        """Factors (hidden,) of the kernels that make ``context``: the first ActNorm's scale."""
        return self.norm_in.scale_and_shift()[0]

    def forward(self, x_a: Tensor | None, context: Tensor | None) -> Tensor:
        """Map x_a (n·b, in_channels, h, w) and context (b, hidden, h, w), either may be absent, to (n·b, out, h, w)."""
        if x_a is not None:
            x_a = for_convolution(x_a, self.compute_dtype)
        if self.training and not self.norm_mid.is_initialized():
            context = self._initialize(x_a, context)
        hidden = F.relu(self._first(x_a, context), inplace=True)
        scale, shift = self.norm_mid.scale_and_shift()
        hidden = F.relu(conv(hidden, scaled(self.conv_mid, scale), shift), inplace=True)
        # Back to the flow's precision and layout.
        return self.head(hidden).to(self.head.bias.dtype, memory_format=torch.contiguous_format)

    def _first(self, x_a: Tensor | None, context: Tensor | None) -> Tensor:
        """First convolution and ActNorm."""
        scale, shift = self.norm_in.scale_and_shift()
        if x_a is None or self.conv_in is None:
            if context is None:
                raise ValueError("expected x_a, context or both, got neither")
            return context + shift[:, None, None].to(context.dtype)
        hidden = conv(x_a, scaled(self.conv_in, scale), shift)
        return hidden if context is None else add_shared(hidden, context)

    @torch.no_grad()
    def _initialize(self, x_a: Tensor | None, context: Tensor | None) -> Tensor | None:
        """Initialise the ActNorms; return the context scaled by the first one, which was the identity so far."""
        first = self._first(x_a, context)
        self.norm_in.initialize_once(first)
        scale, shift = (value[:, None, None].to(first.dtype) for value in self.norm_in.scale_and_shift())
        self.norm_mid.initialize_once(conv(F.relu(first * scale + shift), self.conv_mid))
        return None if context is None else context * scale
