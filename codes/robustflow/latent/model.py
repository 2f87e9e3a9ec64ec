"""A trained flow, opened for its applications, and the images given to it."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robustflow.data.bicubic import downsample
from robustflow.data.images import list_images, read_headers, read_image, to_float, to_uint8
from robustflow.data.sources.base import require_file_name
from robustflow.data.sources.folders import unique_names
from robustflow.evaluation.metrics.lr_psnr import lr_psnr
from robustflow.latent.space import LatentSpace
from robustflow.models import FlowModel, SuperResolution
from robustflow.models.loading import load_model
from robustflow.options.schema import RunOptions
from robustflow.utils.errors import UserError, for_all

log = logging.getLogger(__name__)

_BOX = re.compile(r"\d+(,\d+){3}")
# A mask's pixels that are brighter than this are masked, of 255.
_WHITE = 127


@dataclass(frozen=True)
class Model:
    """A trained flow, and what its applications ask of it.

    Attributes:
        flow: In eval mode, on its device; super-resolution, for what makes the LR image itself.
    """

    flow: FlowModel

    @property
    def options(self) -> RunOptions:
        """Of its run, completed from the weights."""
        return self.flow.options

    @property
    def file(self) -> Path:
        """Its weights."""
        return self.flow.file

    @property
    def scale(self) -> int:
        """Super-resolution factor."""
        return self.flow.scale

    @property
    def device(self) -> torch.device:
        """Where the flow is."""
        return self.flow.device

    @property
    def makes_lr(self) -> bool:
        """Whether the condition of an image is its own downsampled image."""
        return isinstance(self.flow, SuperResolution)

    def require_lr(self, what: str) -> None:
        """Raise UserError, saying what is not possible, unless LR images can be made."""
        if not self.makes_lr:
            raise UserError(
                f"{what}: expected a super-resolution flow (model: SRFlow, NCSR or FS-NCSR), got {self.file}, whose "
                "inputs are not downsampled images; choose other options or weights"
            )

    def lr_of(self, image: Tensor) -> Tensor:
        """LR image (1, 3, h, w), in [0, 1], on the device, of an HR image (3, H, W) as read.

        Of all of the image: h is H / scale, rounded up, where data sets cut what is left over. UserError for models of
        another kind.
        """
        self.require_lr("downsampling")
        return to_float(downsample(image, self.scale))[None].to(self.device)

    def small(self, image: Tensor) -> Tensor:
        """LR image (3, h, w), uint8, of an image (3, H, W) of 8 bits, or of what it is when it is written so."""
        return downsample(to_uint8(image).cpu(), self.scale)

    def lr_psnr(self, image: Tensor, lr: Tensor) -> float | None:
        """LR-PSNR in dB of an image (3, H, W), written with 8 bits, to an LR image (3, h, w) as read.

        inf if they are equal, None if the image is not finite.
        """
        if not image.isfinite().all():
            return None
        return lr_psnr(to_uint8(image).cpu(), to_uint8(lr).cpu(), self.scale)

    def batch(self, image: Tensor) -> Tensor:
        """An image (3, H, W) as read: (1, 3, H, W), in [0, 1], on the device."""
        return to_float(image)[None].to(self.device)

    def space(self, lr: Tensor, size: tuple[int, int] | None = None) -> LatentSpace:
        """Latents of images of a size given an LR image (1, 3, h, w); see `LatentSpace`."""
        return LatentSpace(self.flow, lr, size)

    def space_of(self, image: Tensor) -> LatentSpace:
        """Latents given the LR image of an HR image (3, H, W) as read."""
        return self.space(self.lr_of(image), size_of(image))


def opened(options: RunOptions) -> Model:
    """Open the model that options name. UserError if it is no flow."""
    flow = load_model(options)
    if not isinstance(flow, FlowModel):
        raise UserError(
            f"{flow.file}: expected a flow (model: SRFlow, NCSR, FS-NCSR …), got another model; choose other "
            "options or weights"
        )
    log.info("%s: %s", flow.options.name, flow.file)
    return Model(flow)


def size_of(image: Tensor) -> tuple[int, int]:
    """Height and width."""
    return image.shape[-2], image.shape[-1]


def require_there(path: Path, flag: str) -> None:
    """Raise UserError unless a path exists."""
    if not path.exists():
        raise UserError(f"{flag} {path}: expected an image or a folder of images, got nothing there")


def inputs(path: Path, flag: str = "--input") -> dict[str, Path]:
    """Image files by name: one file, or all of a folder. UserError if there are none, or some cannot be read."""
    require_there(path, flag)
    found = [path] if path.is_file() else list_images(path)
    names = unique_names([file.relative_to(path) if path.is_dir() else Path(file.name) for file in found])
    for_all(names, require_file_name)
    read_headers(found)
    return dict(zip(names, found, strict=True))


def read_one(path: Path, flag: str) -> Tensor:
    """An image (3, h, w) as read. UserError if the path is a folder or nothing is there."""
    if not path.is_file():
        raise UserError(
            f"{flag} {path}: expected an image file, got {'a folder' if path.is_dir() else 'nothing there'}"
        )
    return read_image(path)


def require_size(image: Tensor, size: tuple[int, int], flag: str, why: str) -> None:
    """Raise UserError unless an image has a height and width."""
    if size_of(image) != size:
        raise UserError(
            f"{flag}: expected {size[1]} x {size[0]} pixels (width x height), {why}, got {image.shape[-1]} x "
            f"{image.shape[-2]}; crop or resize it"
        )


def read_mask(text: str, size: tuple[int, int]) -> Tensor:
    """A mask (H, W), boolean: of an image file whose bright pixels are True, or of a box LEFT,TOP,WIDTH,HEIGHT.

    UserError if it does not fit an image of this size.
    """
    if _BOX.fullmatch(text) is not None:
        return _boxed(text, size)
    require_mask(text)
    path = Path(text)
    image = to_uint8(read_image(path))
    require_size(image, size, f"--mask {path}", "as --input has")
    mask = image.float().mean(0) > _WHITE
    if not mask.any():
        log.warning("%s: no pixel is white: nothing is masked", path)
    elif mask.all():
        log.warning("%s: all pixels are white (as transparent ones are): everything is masked", path)
    return mask


def require_mask(text: str) -> None:
    """Raise UserError unless a mask is a box or a file."""
    if _BOX.fullmatch(text) is None and not Path(text).is_file():
        raise UserError(
            f"--mask {text}: expected an image file, or a box LEFT,TOP,WIDTH,HEIGHT in pixels, as 10,20,64,64, got "
            f"{'a folder' if Path(text).is_dir() else 'neither'}"
        )


def _boxed(text: str, size: tuple[int, int]) -> Tensor:
    left, top, width, height = map(int, text.split(","))
    if width == 0 or height == 0 or left + width > size[1] or top + height > size[0]:
        raise UserError(
            f"--mask {text}: expected LEFT,TOP,WIDTH,HEIGHT in pixels, within the {size[1]} x {size[0]} pixels of "
            "--input"
        )
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask
