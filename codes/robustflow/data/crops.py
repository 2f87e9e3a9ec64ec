"""How pairs are cropped: the LR image of a crop equals the crop of the LR image, at the cost of the crop alone.

Training crops go two ways. A loader process decodes an image and crops a window of its pixels, uint8 as in the file: a
quarter of the bytes of what training needs. LR images are made of all windows of a batch at once, by the device.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from robustflow.data.bicubic import Kernel, downsample, mirror_crop, reach
from robustflow.data.degradations import Degradation, degrade_hr
from robustflow.data.images import to_float
from robustflow.utils.errors import UserError

Shift = tuple[int, int]  # (down, right) of an HR crop against its LR crop, HR pixels, at most the scale
RawCrop = dict[str, Tensor]
Batch = list[dict[str, Tensor]]
_OF_PLACES = ("number", "pose", "shift")  # parts that say where pixels go: not for the device
_AT_ONCE = 4  # windows whose float64 copies a CPU's cache holds


@dataclass(frozen=True)
class Box:
    """A rectangle, in LR pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: Tensor, factor: int = 1) -> Tensor:
        """Crop an image (..., h, w) with ``factor`` pixels per unit."""
        rows = slice(self.top * factor, (self.top + self.height) * factor)
        return image[..., rows, self.left * factor : (self.left + self.width) * factor]

    def grow(self, margin: int, height: int, width: int) -> "Box":
        """Return this box with a margin on all sides, as far as an image of (height, width) reaches."""
        top, left = max(self.top - margin, 0), max(self.left - margin, 0)
        bottom = min(self.top + self.height + margin, height)
        right = min(self.left + self.width + margin, width)
        return Box(top, left, bottom - top, right - left)

    def within(self, outer: "Box") -> "Box":
        """Return this box in the coordinates of ``outer``."""
        return Box(self.top - outer.top, self.left - outer.left, self.height, self.width)


def lr_size(hr: Tensor | None, lr: Tensor | None, scale: int) -> tuple[int, int]:
    """Height and width of the LR image of a pair, given or to be made."""
    if lr is not None:
        return lr.shape[-2], lr.shape[-1]
    assert hr is not None, "a source gives HR, LR or both"
    return hr.shape[-2] // scale, hr.shape[-1] // scale


def crop_shifted(image: Tensor, box: Box, scale: int, shift: Shift) -> Tensor:
    """Crop an HR image (..., H, W) to a box (in LR pixels), away from its place by a shift in HR pixels.

    Beyond the borders pixels are mirrored as the downsampling does it.

    Returns:
        (..., box.height * scale, box.width * scale).
    """
    top, left = box.top * scale + shift[0], box.left * scale + shift[1]
    return mirror_crop(image, top, left, box.height * scale, box.width * scale)


def turn(image: Tensor, flip: bool, quarter_turns: int) -> Tensor:
    """Flip (..., h, w) horizontally, then turn it counter-clockwise by multiples of 90 degrees; contiguous."""
    if flip:
        image = image.flip(-1)
    return torch.rot90(image, quarter_turns, (-2, -1)).contiguous()


@dataclass(frozen=True)
class Cropping:
    """How the pairs of a data set are cropped, and LR images made that are missing.

    HR sides that are no multiples of the scale lose their far end first.

    Attributes:
        scale: Super-resolution factor.
        kernel: What LR images are made with, see `downsample`.
        degradations: What HR images suffer first, each with a ``reach``; LR images are then made from the result, even
            if they are given.
    """

    scale: int
    kernel: Kernel = "bicubic"
    degradations: tuple[Degradation, ...] = ()

    @property
    def margin(self) -> int:
        """LR pixels around a crop that it depends on, shifted or not."""
        reaches = [degradation.reach for degradation in self.degradations if degradation.reach is not None]
        assert len(reaches) == len(self.degradations), "without a reach: degraded before anything is cropped"
        return math.ceil(max(1, reach(self.kernel)) + sum(reaches) / self.scale)

    def crop_hr(self, hr: Tensor, box: Box, shift: Shift = (0, 0)) -> Tensor:
        """Crop a degraded HR image (3, H, W): (3, box.height * scale, box.width * scale), dtype as given.

        Args:
            hr: uint8 or floating.
            box: Where the LR crop is.
            shift: See `Shift`; mirrored beyond the borders, see `crop_shifted`.
        """
        region, inner = self._degraded_region(hr, box)
        return crop_shifted(region, inner, self.scale, shift)

    def crop_lr(self, hr: Tensor | None, lr: Tensor | None, box: Box) -> Tensor:
        """Crop an LR image (c, H // scale, W // scale), made from HR if need be: (c, box.height, box.width)."""
        if lr is not None and not self.degradations:
            return box.of(lr)
        assert hr is not None, "a source gives HR, LR or both; only HR can be degraded first"
        region, inner = self._degraded_region(hr, box)
        return inner.of(downsample(region, self.scale, self.kernel))

    def _degraded_region(self, hr: Tensor, box: Box) -> tuple[Tensor, Box]:
        """All HR pixels that a crop depends on, degraded, and the box in them."""
        # Seen from the box, the edges of the larger window are either the image's own or out of reach.
        window = box.grow(self.margin, *lr_size(hr, None, self.scale))
        return degrade_hr(self.degradations, window.of(hr, self.scale)), box.within(window)

    def crop_raw(self, hr: Tensor, lr: Tensor | None, box: Box, shift: Shift | None = None) -> RawCrop:
        """Crop what a training crop and its LR image are made from.

        Returns:
            ``window``, see `mirrored_window`, if the LR image is to be made from 8-bit pixels, where every way of
            computing it gives the same, and ``shift`` unless it is None; otherwise ``gt``, shifted, and ``lr``.
        """
        if hr.dtype == torch.uint8 and (lr is None or self.degradations):
            window = {"window": self.mirrored_window(hr, box)}
            return window if shift is None else {**window, "shift": torch.tensor(shift)}
        gt = self.crop_hr(hr, box, (0, 0) if shift is None else shift)
        return {"gt": gt.contiguous(), "lr": self.crop_lr(hr, lr, box).contiguous()}

    def mirrored_window(self, hr: Tensor, box: Box) -> Tensor:
        """Crop with all the margin that the LR image depends on.

        Beyond the borders of the image the margin is mirrored as the downsampling does it, so windows are of one size.

        Returns:
            (3, (box.height + 2 * margin) * scale, (box.width + 2 * margin) * scale).
        """
        margin = self.margin
        window = Box(box.top - margin, box.left - margin, box.height + 2 * margin, box.width + 2 * margin)
        whole = Box(0, 0, *lr_size(hr, None, self.scale)).of(hr, self.scale)
        return crop_shifted(whole, window, self.scale, (0, 0)).contiguous()

    def assemble(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make HR (b, 3, H, W) and LR (b, c, h, w) of a batch of raw crops, float32, on the device.

        LR images, shifts, then orientation: ``pose``, the flip and the quarter turns, is what each crop has beside what
        `crop_raw` gives.
        """
        made = [self._assemble_alike(crops, device) for crops in batch]
        if len(made) == 1:
            return made[0]
        # Numbers stay on the CPU: the device is not waited for.
        order = torch.cat([crops["number"] for crops in batch]).argsort().tolist()
        joined = (torch.cat(images).unbind() for images in zip(*made, strict=True))
        gt, lr = (torch.stack([images[n] for n in order]) for images in joined)
        return gt, lr

    def _assemble_alike(self, crops: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        here = {key: part.to(device, non_blocking=True) for key, part in crops.items() if key not in _OF_PLACES}
        shifts = crops["shift"].tolist() if "shift" in crops else None
        gt, lr = self._crop_windows(here["window"], shifts) if "window" in here else (here["gt"], here["lr"])
        poses = crops["pose"].tolist()
        gt, lr = (to_float(_turn_each(images, poses)) for images in (gt, lr))
        return gt, lr

    def _crop_windows(self, windows: Tensor, shifts: list[Shift] | None) -> tuple[Tensor, Tensor]:
        windows = degrade_hr(self.degradations, windows)
        at_once = _AT_ONCE if windows.device.type == "cpu" else len(windows)
        lr = torch.cat([downsample(some, self.scale, self.kernel) for some in windows.split(at_once)])
        height, width = (side - 2 * self.margin for side in lr.shape[-2:])
        inner = Box(self.margin, self.margin, height, width)
        if shifts is None:
            return inner.of(windows, self.scale), inner.of(lr)
        pairs = zip(windows, shifts, strict=True)
        return torch.stack([crop_shifted(window, inner, self.scale, shift) for window, shift in pairs]), inner.of(lr)


def collate(crops: Sequence[RawCrop]) -> Batch:
    """Stack raw crops of the same parts and types, in most data sets all of a batch; ``number`` keeps their places."""
    alike: defaultdict[Any, list[int]] = defaultdict(list)
    for number, crop in enumerate(crops):
        alike[tuple((key, part.dtype) for key, part in crop.items())].append(number)
    return [
        {"number": torch.tensor(numbers), **default_collate([crops[n] for n in numbers])} for numbers in alike.values()
    ]


def require_size(name: str, available: tuple[int, int], size: int, scale: int) -> None:
    """Raise UserError if crops of ``size`` do not fit into an HR image of ``available`` (height, width)."""
    height, width = (n // scale * scale for n in available)
    if min(height, width) < size:
        raise UserError(
            f"image '{name}': expected at least {size} x {size} HR pixels (GT_size; the scale for whole images), got "
            f"{width} x {height} (width x height, multiples of {scale}); lower GT_size or leave the image out"
        )


def require_multiple(size: int, scale: int) -> None:
    """Raise UserError if HR crops of ``size`` have no whole LR crops."""
    if size < scale or size % scale != 0:
        raise UserError(f"expected GT_size as a multiple of the scale {scale}, got {size}")


def _turn_each(images: Tensor, poses: list[list[int]]) -> Tensor:
    return torch.stack([turn(image, flip == 1, turns) for image, (flip, turns) in zip(images, poses, strict=True)])
