"""What a metric is: one class, registered in a file of its own, which every table, plot and page then shows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from robustflow.data.bicubic import Kernel, downsample
from robustflow.data.images import clamp, to_uint8
from robustflow.evaluation.metrics.images import scale_to_mean_of
from robustflow.models.protocol import Protocol
from robustflow.registry import METRICS
from robustflow.utils import memory

if TYPE_CHECKING:
    import pandas as pd

    from robustflow.evaluation.metrics.perceptual import Perceptual

T = TypeVar("T")
Better = Literal["low", "high"] | None
# Tables of robustness and fidelity; plots against the temperature, and of the best of n samples; differences between
# runs; captions of pictures; validations in the course of training; and whether the image that is worst in it is shown
# first.
Place = Literal["robustness", "fidelity", "curves", "best", "differences", "captions", "training", "worst"]
Places = tuple[Place, ...]
Need = Literal["ground truth", "backbone"]
Values = Mapping[str, float | int | bool | None]
# The smallest and the largest value that there can be; None: there is no such limit.
Limits = tuple[float | None, float | None]


class Column(NamedTuple):
    """How a figure is shown.

    Attributes:
        key: Its name in metrics.json, or of samples in metrics.csv.
        label: Its heading.
        better: Which direction is better; None where neither is.
        unit: "dB", or "" for none.
        places: Where it is shown, besides the list of all figures.
        bar: What it shall reach; smaller figures are marked. None: any will do.
        limits: What it can be; its intervals are cut to that.
    """

    key: str
    label: str
    better: Better = None
    unit: str = ""
    places: Places = ()
    bar: float | None = None
    limits: Limits = (None, None)


class _Keeping:
    """What is made of it for one metric or several, and kept as long as it is."""

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of it; made once (by threads at the same time perhaps twice)."""
        kept: dict[Hashable, T] = self.__dict__.setdefault("_kept", {})
        if key not in kept:
            kept[key] = make()
        return kept[key]


@dataclass(frozen=True)
class Target(_Keeping):
    """What the samples of an image are measured against.

    Attributes:
        lr: Input, uint8 (3, h, w), cut likewise.
        upsampled: Input at the size of the samples, (3, H, W), floating, in [0, 1], on the device of the samples.
        gt: Ground truth, uint8 (3, H, W), cut, see ``multiple``, or None.
        scale: H / h.
        crop: HR pixels left out along each border.
        multiple: Sides that are measured are multiples of this, HR pixels.
        truncate: Samples are rounded down to 8 bits.
        against_input: LR-PSNR is against the input even if there is a ground truth.
        perceptual: The backbone, or None.
        kernel: What samples and ground truth are downsampled with: what the input was made with.

    Raises:
        ValueError: An image is of another type.
    """

    lr: Tensor
    upsampled: Tensor
    gt: Tensor | None
    scale: int = 4
    crop: int = 0
    multiple: int = 1
    truncate: bool = False
    against_input: bool = False
    perceptual: "Perceptual | None" = None
    kernel: Kernel = "bicubic"

    def __post_init__(self) -> None:
        """Refuse images in another range than metrics take, by their type."""
        for name, image in (("lr", self.lr), ("gt", self.gt)):
            if image is not None and image.dtype != torch.uint8:
                raise ValueError(
                    f"expected {name} as uint8, (3, h, w), got {image.dtype}: of images in [0, 1] robustflow.data."
                    "images.to_uint8 makes such"
                )
        if not self.upsampled.is_floating_point():
            raise ValueError(
                f"expected upsampled (3, H, W) floating, in [0, 1], got {self.upsampled.dtype}: divide by 255"
            )

    @cached_property
    def lr_of_gt(self) -> Tensor | None:
        """Ground truth, downsampled: uint8 (3, h, w)."""
        return None if self.gt is None else downsample(self.gt, self.scale, self.kernel)

    def meets(self, needs: Iterable[Need]) -> bool:
        """Whether what a metric needs is there."""
        present = {"ground truth": self.gt is not None, "backbone": self.perceptual is not None}
        return all(present[need] for need in needs)

    def cut(self, samples: Tensor) -> Tensor:
        """What is measured of samples (..., H, W)."""
        return cut(samples, self.multiple)

    def quantize(self, sample: Tensor) -> Tensor:
        """A sample (3, H, W) as an 8-bit image, cut, on the CPU: clamped first, Inf to 1, -Inf and NaN to 0."""
        return to_uint8(self.cut(sample).cpu(), truncate=self.truncate, mark=False)

    def brighten(self, sample: Tensor) -> Tensor:
        """The same, at the brightness of the ground truth: clamped to [0, 1] first, rounded once, at the end."""
        assert self.gt is not None
        image = scale_to_mean_of(clamp(self.cut(sample).cpu()), self.gt.to(sample.dtype) / 255)
        return to_uint8(image, truncate=self.truncate)


class Sample(_Keeping):
    """One sample in the forms that metrics take; each is made once.

    Attributes:
        raw: (3, H, W), floating, not clamped, possibly not finite.
    """

    def __init__(self, raw: Tensor, target: Target) -> None:
        self.raw, self._target = raw, target

    @cached_property
    def finite(self) -> bool:
        """Whether every value is finite."""
        return all(bool(self.raw[..., rows, :].isfinite().all()) for rows in memory.bands_of(self.raw))

    @cached_property
    def image(self) -> Tensor:
        """8-bit image, (3, H, W), cut, see `Target.cut`."""
        return self._target.quantize(self.raw)

    @cached_property
    def small(self) -> Tensor:
        """8-bit image, downsampled: (3, h, w)."""
        return downsample(self.image, self._target.scale, self._target.kernel)

    @cached_property
    def brightened(self) -> Tensor:
        """8-bit image at the brightness of the ground truth, (3, H, W)."""
        return self._target.brighten(self.raw)


class Metric(ABC):
    """A figure, or a few, of samples. A subclass registers under its name with METRICS and takes no options.

    Attributes:
        name: That it is registered under; the key of its values unless ``keys`` says otherwise.
        label: Heading.
        better: Which direction is better.
        unit: "dB", or "".
        limits: What it can be; its intervals are cut to that.
        protocol: How it is measured, one line.
        places: Where it is shown.
        needs: Without these its values are None.
        usual: Measured for every model; if not, for those whose `Protocol.adds` names it.
        finite_too: All samples count, as published; figures of the finite ones alone are given, too, as ``*_finite``.
    """

    name: str
    label: str
    better: Better = None
    unit: str = ""
    limits: Limits = (None, None)
    protocol: str = ""
    places: Places
    needs: tuple[Need, ...] = ()
    usual: bool = True
    finite_too: bool = True

    @property
    def columns(self) -> tuple[Column, ...]:
        """How its figures are shown; those of a sample and those of a data set may be the same."""
        return (Column(self.name, self.label, self.better, self.unit, self.places, limits=self.limits),)

    def describe(self) -> dict[str, Any]:
        """How it is measured, by the keys of its figures, for protocols."""
        return {self.name: self.protocol} if self.protocol else {}

    @abstractmethod
    def summarize(self, frame: "pd.DataFrame") -> dict[str, Any]:
        """Figures of a data set at one temperature, of its frame, see `frames`."""


class SampleMetric(Metric):
    """A metric of each sample."""

    places: Places = ("fidelity", "curves", "best", "differences", "captions", "training")

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of a sample's values."""
        return (self.name,)

    @abstractmethod
    def of_sample(self, sample: Sample, target: Target) -> float | Values | None:
        """The value of a sample, or the values by name; None where it has none, such as in too small an image.

        On GPUs several samples are measured at the same time, by threads.
        """

    def measure(self, sample: Sample, target: Target) -> Values:
        """Values of a sample by name; None without what the metric needs."""
        if not target.meets(self.needs):
            return dict.fromkeys(self.keys)
        found = self.of_sample(sample, target)
        return found if isinstance(found, Mapping) else {self.name: found}

    def summarize(self, frame: "pd.DataFrame") -> dict[str, Any]:
        """Means over the samples that have the value."""
        return {key: mean(frame[key]) for key in self.keys}


class FullReference(SampleMetric):
    """A metric of an 8-bit sample and the ground truth.

    Attributes:
        brightened: Of the sample at the ground truth's brightness.
    """

    needs = ("ground truth",)
    brightened: bool = False

    @staticmethod
    @abstractmethod
    def compare(image: Tensor, reference: Tensor, crop: int) -> float | None:
        """Likeness of two images (c, H, W) in 0..255, less ``crop`` pixels along each border."""

    @staticmethod
    def view(image: Tensor) -> Tensor:
        """What is compared of a uint8 image (3, H, W)."""
        return image

    def of_sample(self, sample: Sample, target: Target) -> float | None:
        """The likeness."""
        assert target.gt is not None
        image, gt = sample.brightened if self.brightened else sample.image, target.gt
        seen = sample.keep((self.view, self.brightened), lambda: self.view(image))
        return self.compare(seen, target.keep(self.view, lambda: self.view(gt)), target.crop)


class SetMetric(Metric):
    """A metric of all samples of an image at one temperature.

    Attributes:
        each: ``of_samples`` gives a value for each sample, which it computes together.
        least: Of fewer samples drawn it says nothing: None.
    """

    places: Places = ("fidelity", "curves", "differences", "training")
    each: bool = False
    least: int = 1

    @abstractmethod
    def of_samples(self, samples: Tensor, target: Target) -> float | Sequence[float] | None:
        """The value of samples (n, 3, H, W), floating, not clamped; a sequence of n if ``each`` is set.

        Those that were not finite are clamped, see `clamp`.
        """

    def measure(self, samples: Tensor, target: Target) -> float | Sequence[float] | None:
        """The same; None without what the metric needs."""
        return self.of_samples(samples, target) if target.meets(self.needs) else None

    def summarize(self, frame: "pd.DataFrame") -> dict[str, Any]:
        """Mean over samples, or over images if the samples of an image have one value."""
        return {self.name: mean(frame[self.name] if self.each else first_of_image(frame, self.name))}


def stack(samples: Tensor, target: Target, *, brighten: bool = False) -> Tensor:
    """8-bit images of samples (n, 3, H, W), at the ground truth's brightness if asked to, on the CPU."""
    return torch.stack([target.brighten(one) if brighten else target.quantize(one) for one in samples])


def cut(image: Tensor, multiple: int) -> Tensor:
    """An image (..., H, W) less the rows and columns beyond the last multiple; a side shorter than one stays."""
    height, width = (side - side % multiple or side for side in image.shape[-2:])
    return image[..., :height, :width]


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist, NaN and None being none; None if no value does."""
    known = [value for value in values if value is not None and value == value]
    return float(sum(known) / len(known)) if known else None


def first_of_image(frame: "pd.DataFrame", key: str) -> "pd.Series":
    """What all rows of an image have in common, by image, in the order of the frame."""
    return frame.drop_duplicates("image").set_index("image")[key]


def choose(protocol: Protocol | None = None) -> list[Metric]:
    """The metrics of a protocol, in the order of tables; of all protocols if None."""
    found: list[Metric] = []
    for name, cls in METRICS.entries().items():
        metric: Metric = cls()
        metric.name = name
        if protocol is None or ((metric.usual or name in protocol.adds) and name not in protocol.omits):
            found.append(metric)
    return found
