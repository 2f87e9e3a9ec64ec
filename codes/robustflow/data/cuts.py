"""Training crops on their way from the processes that cut them to the device that trains.

A loader process decodes an image and cuts a window of its pixels, uint8 as in the file: a quarter of the bytes of what
training needs. LR images are made of all windows of a batch at once, by the device.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from robustflow.data.bicubic import downsample, mirror_pad
from robustflow.data.degrade import Enhancement, alter_lr, enhance
from robustflow.data.images import to_float
from robustflow.data.source import REACH, Box, Shift, cut_pair, lr_size, shifted

Cut = dict[str, Tensor]
Batch = list[dict[str, Tensor]]
_OF_PLACES = ("number", "pose", "shift")  # parts that say where pixels go: not for the device
_AT_ONCE = 4  # windows whose float64 copies a CPU's cache holds


def cut_box(
    hr: Tensor, lr: Tensor | None, box: Box, scale: int, enhancement: Enhancement | None, shift: Shift | None = None
) -> Cut:
    """Cut out what a crop and its LR image are made from; arguments as of `cut_pair`.

    Returns:
        ``window``, see `mirrored_window`, if the LR image is to be made from 8-bit pixels, where every way of computing
        it gives the same, and ``shift`` unless it is None; otherwise ``gt``, shifted, and ``lr``, as `cut_pair` gives
        them.
    """
    if hr.dtype == torch.uint8 and (lr is None or enhancement is not None):
        window = {"window": mirrored_window(hr, box, scale)}
        return window if shift is None else {**window, "shift": torch.tensor(shift)}
    gt, lr = cut_pair(hr, lr, box, scale, enhancement, (0, 0) if shift is None else shift)
    assert gt is not None, "HR given, HR returned"
    return {"gt": gt.contiguous(), "lr": lr.contiguous()}


def mirrored_window(hr: Tensor, box: Box, scale: int) -> Tensor:
    """Cut a box with all the margin that its bicubic LR image, enhanced or not, depends on.

    Beyond the borders of the image the margin is mirrored as the bicubic does it, so windows are of one size.

    Args:
        hr: (3, H, W); sides that are no multiples of ``scale`` lose their far end.
        box: In LR pixels.
        scale: HR pixels per LR pixel.

    Returns:
        (3, (box.height + 2 * REACH) * scale, (box.width + 2 * REACH) * scale).
    """
    wanted = Box(box.top - REACH, box.left - REACH, box.height + 2 * REACH, box.width + 2 * REACH)
    there = box.grown(REACH, *lr_size(hr, None, scale))
    inner, region = there.within(wanted), there.of(hr, scale)
    right, bottom = wanted.width - inner.left - inner.width, wanted.height - inner.top - inner.height
    missing = [n * scale for n in (inner.left, right, inner.top, bottom)]
    return (mirror_pad(region, *missing) if any(missing) else region).contiguous()


def collate(cuts: Sequence[Cut]) -> Batch:
    """Stack cuts of the same parts and types, in most data sets all of a batch; ``number`` keeps their places."""
    alike: defaultdict[Any, list[int]] = defaultdict(list)
    for number, cut in enumerate(cuts):
        alike[tuple((key, part.dtype) for key, part in cut.items())].append(number)
    return [
        {"number": torch.tensor(numbers), **default_collate([cuts[n] for n in numbers])} for numbers in alike.values()
    ]


@dataclass(frozen=True)
class Finish:
    """Makes samples from cuts: LR images, shifts, orientation, alterations of the LR images, in this order.

    Attributes:
        scale: Super-resolution factor.
        enhancement: Filter of the HR images, or None.
        noise: See `degrade_lr`; likewise ``gain`` and ``invert``.
    """

    scale: int
    enhancement: Enhancement | None
    noise: float
    gain: float
    invert: bool

    def __call__(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return HR (b, 3, H, W) and LR (b, 3, h, w) of a batch, float32, on the device."""
        finished = [self._stack(cuts, device) for cuts in batch]
        if len(finished) == 1:
            return finished[0]
        # Numbers stay on the CPU: the device is not waited for.
        order = torch.cat([cuts["number"] for cuts in batch]).argsort().tolist()
        joined = (torch.cat(images).unbind() for images in zip(*finished, strict=True))
        gt, lr = (torch.stack([images[n] for n in order]) for images in joined)
        return gt, lr

    def _stack(self, cuts: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        here = {key: part.to(device, non_blocking=True) for key, part in cuts.items() if key not in _OF_PLACES}
        shifts = cuts["shift"].tolist() if "shift" in cuts else None
        gt, lr = self._of_windows(here["window"], shifts) if "window" in here else (here["gt"], here["lr"])
        poses = cuts["pose"].tolist()
        gt, lr = (to_float(_posed(images, poses)) for images in (gt, lr))
        return gt, alter_lr(lr, noise=self.noise, gain=self.gain, invert=self.invert, white=here.get("white"))

    def _of_windows(self, windows: Tensor, shifts: list[Shift] | None) -> tuple[Tensor, Tensor]:
        if self.enhancement is not None:
            windows = enhance(windows, self.enhancement)
        at_once = _AT_ONCE if windows.device.type == "cpu" else len(windows)
        lr = torch.cat([downsample(some, self.scale) for some in windows.split(at_once)])
        gt = _without_margin(windows, REACH * self.scale) if shifts is None else self._shifted(windows, shifts)
        return gt, _without_margin(lr, REACH)

    def _shifted(self, windows: Tensor, shifts: list[Shift]) -> Tensor:
        height, width = (side // self.scale - 2 * REACH for side in windows.shape[-2:])
        inner, pairs = Box(REACH, REACH, height, width), zip(windows, shifts, strict=True)
        return torch.stack([shifted(window, inner, self.scale, shift) for window, shift in pairs])


def turned(image: Tensor, flip: bool, quarter_turns: int) -> Tensor:
    """Flip (..., h, w) horizontally, then turn it counter-clockwise by multiples of 90 degrees; contiguous."""
    if flip:
        image = image.flip(-1)
    return torch.rot90(image, quarter_turns, (-2, -1)).contiguous()


def _posed(images: Tensor, poses: list[list[int]]) -> Tensor:
    return torch.stack([turned(image, flip == 1, turns) for image, (flip, turns) in zip(images, poses, strict=True)])


def _without_margin(images: Tensor, margin: int) -> Tensor:
    return images[..., margin:-margin, margin:-margin]
