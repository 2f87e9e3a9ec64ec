"""Images from folders: HR alone, HR and LR in pairs, or LR alone."""

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from robustflow.data.images import image_size, list_images, read_image
from robustflow.data.source import Source, register_source
from robustflow.errors import UserError
from robustflow.options.schema import DatasetOptions
from robustflow.options.values import PathText

Files = tuple[Path | None, Path | None]
_SHOWN = 5  # file names in a message


class FolderOptions(DatasetOptions):
    """Image files, sub-folders included."""

    mode: Literal["folder"]
    dataroot_GT: PathText | None = Field(
        None, description="Folder of HR images; alone: LR images are made from them by bicubic downsampling."
    )
    dataroot_LQ: PathText | None = Field(
        None, description="Folder of LR images, paired with the HR ones by name; alone: test without ground truth."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) if the folders given cannot serve."""
        key = next((key for key, dataset in root.datasets.items() if dataset is self), "*")
        if self.dataroot_GT is not None:
            if self.dataroot_LQ is not None and self.enhance is not False:
                yield f"datasets.{key}.dataroot_LQ", "expected none beside enhance: LR images of enhanced ones are made"
            return
        if self.dataroot_LQ is None:
            yield f"datasets.{key}.dataroot_GT", "expected dataroot_GT, dataroot_LQ or both"
        elif key == "train":
            yield f"datasets.{key}.dataroot_GT", "expected a folder of HR images: training needs them"
        elif self.enhance is not False:
            yield f"datasets.{key}.enhance", "expected dataroot_GT beside it: HR images are what is enhanced"


class FileSource(Source):
    """Images read from files each time they are asked for.

    Args:
        files: HR and LR file of each image, one of them possibly None.
        names: One per image, unique.
        scale: Super-resolution factor.

    Raises:
        UserError: naming both files, if the sizes of a pair do not fit; only headers are read.
    """

    def __init__(self, files: Sequence[Files], names: Sequence[str], scale: int) -> None:
        self._files = list(files)
        self._scale = scale
        self.names = list(names)
        self._sizes = [self._checked_size(*pair) for pair in self._files]

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the HR image, or of the LR one times scale, from the file's header."""
        return self._sizes[index]

    def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        """HR (3, H, W) and LR (3, H // scale, W // scale), or None: uint8 or float32 in [0, 1]."""
        gt, lq = self._files[index]
        return None if gt is None else read_image(gt), None if lq is None else read_image(lq)

    def _checked_size(self, gt: Path | None, lq: Path | None) -> tuple[int, int]:
        if gt is None:
            assert lq is not None, "an image has at least one file"
            height, width = image_size(lq)
            return height * self._scale, width * self._scale
        hr = image_size(gt)
        if lq is not None:
            _check_sizes(gt, hr, lq, image_size(lq), self._scale)
        return hr


@register_source("folder", FolderOptions)
def open_folders(dataroot_GT: str | None, dataroot_LQ: str | None, scale: int) -> FileSource:
    """Open HR images, LR images or pairs of them, and check all names and sizes.

    Args:
        dataroot_GT: Folder of HR images, or None.
        dataroot_LQ: Folder of LR images, or None; one of the two is needed.
        scale: Super-resolution factor.

    Raises:
        UserError: naming the folders and files, if one cannot be used or has no partner.
    """
    if dataroot_GT is None and dataroot_LQ is None:
        raise UserError("expected dataroot_GT, dataroot_LQ or both, got neither")
    if dataroot_GT is not None and dataroot_LQ is not None:
        pairs = pair_files(Path(dataroot_GT), Path(dataroot_LQ), scale)
        names = unique_names([gt.relative_to(dataroot_GT) for gt, _ in pairs])
        return FileSource(pairs, names, scale)
    folder = Path(str(dataroot_LQ if dataroot_GT is None else dataroot_GT))
    found = list_images(folder)
    files: list[Files] = [(None, file) if dataroot_GT is None else (file, None) for file in found]
    return FileSource(files, unique_names([file.relative_to(folder) for file in found]), scale)


def open_inputs(path: str | Path, scale: int) -> FileSource:
    """Open LR images without ground truth: a folder of them or a single file."""
    path = Path(path)
    if path.is_file():
        return FileSource([(None, path)], [path.stem], scale)
    return open_folders(None, str(path), scale)


def pair_files(gt: Path, lq: Path, scale: int) -> list[tuple[Path, Path]]:
    """Pair the HR and LR images of two folders by their paths below them, suffixes aside; never by their order.

    Beside equal names, the marks of common benchmarks match: ``0801`` and ``0801x4``, ``img_1_HR`` and ``img_1_LR``,
    ``img_1_SRF_4_HR`` and ``img_1_SRF_4_LR``.

    Returns:
        (HR, LR), in natural order of the HR names.

    Raises:
        UserError: naming files without a partner, or two with the same name.
    """
    return pair_by_stem(gt, _by_stem(gt), lq, _by_stem(lq), scale)


def pair_by_stem(gt: Path, hr: dict[str, Path], lq: Path, lr: dict[str, Path], scale: int) -> list[tuple[Path, Path]]:
    """Pair files by their stems, see `pair_files`."""
    # Equal names first: a mark that both files carry belongs to the name.
    equal = hr.keys() & lr.keys()
    hr = _without_marks(hr, equal, r"(_SRF_\d+)?_(HR|GT)$")
    lr = _without_marks(lr, equal, rf"(_SRF_{scale})?_(LR|LQ)$|[_-]?x{scale}$")
    _require_partners(gt, hr, lq, lr)
    _require_partners(lq, lr, gt, hr)
    return [(file, lr[stem]) for stem, file in hr.items()]


def unique_names(relative: Sequence[Path]) -> list[str]:
    """Name images by their paths without suffix, `/` written `_`.

    An image's name seeds its samples, so it must not depend on other files: two of one name are a UserError.
    """
    files: dict[str, Path] = {}
    for path in relative:
        name = path.with_suffix("").as_posix().replace("/", "_")
        if name in files:
            raise UserError(f"expected images of distinct names, got {files[name]} and {path}; rename one")
        files[name] = path
    return list(files)


def _by_stem(folder: Path) -> dict[str, Path]:
    """Files of a folder by their paths below it, without suffix."""
    return _keyed((file.relative_to(folder).with_suffix("").as_posix(), file) for file in list_images(folder))


def _without_marks(files: dict[str, Path], kept: Set[str], marks: str) -> dict[str, Path]:
    """Files by stem, those outside ``kept`` without the marks that benchmarks append."""
    mark = re.compile(marks, re.IGNORECASE)
    return _keyed((stem if stem in kept else mark.sub("", stem), file) for stem, file in files.items())


def _keyed(items: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for stem, file in items:
        if stem in files:
            raise UserError(f"{file}: expected one image named '{stem}', got {files[stem]} as well")
        files[stem] = file
    return files


def _require_partners(folder: Path, files: dict[str, Path], other: Path, partners: dict[str, Path]) -> None:
    missing = [str(file.relative_to(folder)) for stem, file in files.items() if stem not in partners]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (" ..." if len(missing) > _SHOWN else "")
        raise UserError(f"{folder}: expected partners in {other} by name, found none for {len(missing)}: {shown}")


def _check_sizes(gt: Path, hr: tuple[int, int], lq: Path, lr: tuple[int, int], scale: int) -> None:
    if (hr[0] // scale, hr[1] // scale) != lr:
        raise UserError(
            f"{lq}: expected {hr[1] // scale} x {hr[0] // scale} pixels (width x height), 1/{scale} of {gt} with "
            f"{hr[1]} x {hr[0]}, got {lr[1]} x {lr[0]}{_other_scale(hr, lr)}"
        )


def _other_scale(hr: tuple[int, int], lr: tuple[int, int]) -> str:
    """The scale that would fit, if one does."""
    fits = [scale for scale in range(1, 17) if (hr[0] // scale, hr[1] // scale) == lr]
    return f"; scale: {fits[0]} would fit" if fits else ""
