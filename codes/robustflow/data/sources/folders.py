"""Images from folders: HR alone, HR and LR in pairs, LR alone, or patches that were cut beforehand."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from robustflow.data.images import list_images, read_headers, read_image, say_once
from robustflow.data.sources.base import LazyImage, Pairs, register_source
from robustflow.data.sources.pairs import PairBy, pair_files
from robustflow.options.schema import DatasetOptions
from robustflow.options.values import PathText
from robustflow.registry import DATASETS
from robustflow.utils.errors import UserError, enumerate_some, for_all

FilePair = tuple[Path | None, Path | None]  # HR, LR
PAIRING = ("pair_by", "filename_tmpl")  # options that find files and do not alter them


def _template(value: str) -> str:
    if value.count("{}") != 1:
        raise ValueError("expected one {} in it, for the name of the HR file without its suffix")
    return value


class PairingOptions(DatasetOptions):
    """How LR files belong to HR files."""

    pair_by: PairBy = Field(
        "stem",
        description="How LR files belong to HR files: stem: by name, marks of published sets (x4, _LR, ...) aside; "
        "number: by the last number in the name; order: the n-th with the n-th.",
    )
    filename_tmpl: Annotated[str, AfterValidator(_template)] | None = Field(
        None,
        description="Name of an LR file, {} standing for that of its HR file, as in BasicSR: '{}x4'; null: any.",
    )

    def faults(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield (option, message) if what is said of pairs differs."""
        if self.filename_tmpl is not None and self.pair_by != "stem":
            yield "filename_tmpl", f"expected none beside pair_by: {self.pair_by}"


class PairedOptions(PairingOptions):
    """How LR files are found for HR files."""

    dataroot_LQ: PathText | None = Field(None, description="Folder of LR images.")

    def faults(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield (option, message) if what is said of pairs has nothing to pair, or differs."""
        yield from super().faults(key)
        for option in PAIRING:
            if getattr(self, option) != type(self).model_fields[option].default and self.dataroot_LQ is None:
                yield option, "expected dataroot_LQ beside it: it says how LR files are found"


class FolderOptions(PairedOptions):
    """Image files, sub-folders included."""

    mode: Literal["folder"]
    dataroot_GT: PathText | None = Field(
        None, description="Folder of HR images; alone: LR images are made from them, see downsampling."
    )
    dataroot_LQ: PathText | None = Field(
        None, description="Folder of LR images, paired with the HR ones by name; alone: test without ground truth."
    )

    def faults(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield (option, message) if the folders given cannot serve."""
        yield from super().faults(key)
        altering = self.altering_hr
        if self.dataroot_GT is not None:
            if self.dataroot_LQ is not None and altering is not None:
                message = f"expected none beside {altering} of HR images: LR images are made from what it makes"
                yield "dataroot_LQ", message
        elif self.dataroot_LQ is None:
            yield "dataroot_GT", "expected dataroot_GT, dataroot_LQ or both"
        elif key == "train":
            yield "dataroot_GT", "expected a folder of HR images: training needs them"
        elif altering is not None:
            yield altering, "expected dataroot_GT beside it: HR images are what it alters"


class ImageFolderOptions(FolderOptions):
    """Image files, sub-folders included: mode `folder` by its published name."""

    mode: Literal["LRHR_IMG"]  # type: ignore[assignment]


class PatchFolderOptions(PairedOptions):
    """Folders of patches that were cut beforehand, all of one size and used whole; GT_size is that size."""

    mode: Literal["LRHR_IMG_nocrop"]
    dataroot_GT: PathText = Field(description="Folder of HR patches, all GT_size x GT_size pixels.")
    dataroot_LQ: PathText | None = Field(
        None, description="Folder of LR patches, paired with the HR ones by name; null: made, see downsampling."
    )

    def faults(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield (option, message) for crops and shifts of what is used whole."""
        yield from super().faults(key)
        if self.n_crops is not None:
            yield "n_crops", "expected none: patches are used whole"
        if key == "train" and self.hr_shift != 0:
            message = "expected 0: patches are used whole, and have no pixels beside them to shift to"
            yield "hr_shift", f"{message}; take random crops of larger images with mode LRHR_IMG"


@register_source("LRHR_IMG", ImageFolderOptions)
@register_source("folder", FolderOptions)
def open_folders(dataroot_GT: str | None, dataroot_LQ: str | None, scale: int, **pairing: Any) -> Pairs:
    """Open HR images, LR images or pairs of them, and check all names and, from their headers, sizes.

    One of the folders is needed; ``pairing`` as `pair_files` takes it. UserError naming folders and files, if one
    cannot be used or has no partner.
    """
    return open_files(*find_pairs(list_images, dataroot_GT, dataroot_LQ, scale, **pairing), scale)


@DATASETS.register("LRHR_IMG_nocrop", PatchFolderOptions)
def open_patches(
    dataroot_GT: str,
    dataroot_LQ: str | None,
    scale: int,
    GT_size: int | None = None,
    pair_by: PairBy = "stem",
    filename_tmpl: str | None = None,
    **_shared: Any,
) -> Pairs:
    """Open patches that were cut beforehand, all of one size; folders as of mode `folder`.

    UserError, too, naming files of another size than ``GT_size``, or than the first, which need not be square.
    """
    source = open_folders(dataroot_GT, dataroot_LQ, scale, pair_by=pair_by, filename_tmpl=filename_tmpl)
    patches = [hr for hr, _ in source.pairs if hr is not None]
    size = patches[0].size if GT_size is None else (GT_size, GT_size)

    def require_size(patch: LazyImage) -> None:
        if patch.size != size:
            raise UserError(
                f"{patch.place}: expected a patch of {size[1]} x {size[0]} pixels (width x height; "
                f"{'as the first' if GT_size is None else 'GT_size'}), got {patch.size[1]} x {patch.size[0]}; cut the "
                "patches to one size, or take random crops with mode LRHR_IMG"
            )

    for_all(patches, require_size)
    return source


def open_inputs(path: str | Path, scale: int) -> Pairs:
    """Open LR images without ground truth: a folder of them or a single file."""
    path = Path(path)
    if path.is_file():
        return open_files([(None, path)], [path.stem], scale)
    return open_folders(None, str(path), scale)


def open_files(files: Sequence[FilePair], names: Sequence[str], scale: int) -> Pairs:
    """Open HR and LR files by name. UserError naming those that cannot be used or do not fit; only headers are read."""
    headers = read_headers([file for pair in files for file in pair if file is not None])
    pictures: dict[Path | None, LazyImage | None] = {None: None}
    for file, header in headers.items():
        pictures[file] = LazyImage(file, header.size, partial(read_image, file))
    source = Pairs([(pictures[gt], pictures[lq]) for gt, lq in files], names, scale)
    # Tools that make LR images often lose profiles.
    both = [(gt, lq) for gt, lq in files if gt is not None and lq is not None]
    unequal = [gt for gt, lq in both if headers[gt].converted != headers[lq].converted]
    if unequal:
        say_once(
            f"in {len(unequal)} of {len(both)} pairs one image alone has a colour profile other than sRGB, so that "
            f"colours differ: {enumerate_some(unequal)}; convert those images to sRGB"
        )
    return source


def find_pairs(
    find: Callable[[Path], Sequence[Path]], dataroot_GT: str | None, dataroot_LQ: str | None, scale: int, **pairing: Any
) -> tuple[list[FilePair], list[str]]:
    """HR and LR files of images, and their names, of what ``find`` finds below each folder; see `open_folders`."""
    gt, lq = (None if root is None else Path(root) for root in (dataroot_GT, dataroot_LQ))
    if gt is not None and lq is not None:
        pairs = pair_files(gt, lq, scale, find=find, **pairing)
        return [*pairs], name_images([hr.relative_to(gt) for hr, _ in pairs])
    root = lq if gt is None else gt
    if root is None:
        raise UserError("expected dataroot_GT, dataroot_LQ or both, got neither")
    alone = find(root)
    files: list[FilePair] = [(None, file) if gt is None else (file, None) for file in alone]
    return files, name_images([file.relative_to(root) for file in alone])


def name_images(relative: Sequence[Path]) -> list[str]:
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
