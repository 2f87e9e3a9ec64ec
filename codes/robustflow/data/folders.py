"""Images from folders: HR alone, HR and LR in pairs, or LR alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from torch import Tensor

from robustflow.data.images import list_images, read_headers, read_image, say_once
from robustflow.data.pairs import PairBy, pair_by_stem
from robustflow.data.source import Source, register_source
from robustflow.options.schema import DatasetOptions
from robustflow.options.values import PathText
from robustflow.utils.errors import UserError, for_all, listed

Files = tuple[Path | None, Path | None]
PAIRING = ("pair_by", "filename_tmpl")  # options that find files and do not alter them


def _template(value: str) -> str:
    if value.count("{}") != 1:
        raise ValueError("expected one {} in it, for the name of the HR file without its suffix")
    return value


class PairedOptions(DatasetOptions):
    """How LR files are found for HR files."""

    dataroot_LQ: PathText | None = Field(None, description="Folder of LR images.")
    pair_by: PairBy = Field(
        "stem",
        description="How LR files belong to HR files: stem: by name, marks of published sets (x4, _LR, ...) aside; "
        "number: by the last number in the name; order: the n-th with the n-th.",
    )
    filename_tmpl: Annotated[str, AfterValidator(_template)] | None = Field(
        None,
        description="Name of an LR file, {} standing for that of its HR file, as in BasicSR: '{}x4'; null: any.",
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) if what is said of pairs has nothing to pair, or differs."""
        path = f"datasets.{key_of(self, root)}"
        if self.filename_tmpl is not None and self.pair_by != "stem":
            yield f"{path}.filename_tmpl", f"expected none beside pair_by: {self.pair_by}"
        for key, usual in zip(PAIRING, ("stem", None), strict=True):
            if getattr(self, key) != usual and self.dataroot_LQ is None:
                yield f"{path}.{key}", "expected dataroot_LQ beside it: it says how LR files are found"


def key_of(options: DatasetOptions, root: Any) -> str:
    """Key of a data set among those of a run."""
    return next((key for key, dataset in root.datasets.items() if dataset is options), "*")


class FolderOptions(PairedOptions):
    """Image files, sub-folders included."""

    mode: Literal["folder"]
    dataroot_GT: PathText | None = Field(
        None, description="Folder of HR images; alone: LR images are made from them, see downsampling."
    )
    dataroot_LQ: PathText | None = Field(
        None, description="Folder of LR images, paired with the HR ones by name; alone: test without ground truth."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) if the folders given cannot serve."""
        yield from super().contradictions(root)
        key = key_of(self, root)
        if self.dataroot_GT is not None:
            if self.dataroot_LQ is not None and self.altering_hr is not None:
                yield (
                    f"datasets.{key}.dataroot_LQ",
                    f"expected none beside {self.altering_hr} of HR images: LR images are made from what it makes",
                )
            return
        if self.dataroot_LQ is None:
            yield f"datasets.{key}.dataroot_GT", "expected dataroot_GT, dataroot_LQ or both"
        elif key == "train":
            yield f"datasets.{key}.dataroot_GT", "expected a folder of HR images: training needs them"
        elif self.altering_hr is not None:
            yield f"datasets.{key}.{self.altering_hr}", "expected dataroot_GT beside it: HR images are what it alters"


class FileSource(Source):
    """Images read from files each time they are asked for.

    Args:
        files: HR and LR file of each image, one of them possibly None.
        names: One per image, unique.
        scale: Super-resolution factor.

    Raises:
        UserError: naming files that cannot be used and pairs whose sizes do not fit, the first five and how many; only
            headers are read.
    """

    def __init__(self, files: Sequence[Files], names: Sequence[str], scale: int) -> None:
        self._files = list(files)
        self._scale = scale
        self.names = list(names)
        self._headers = read_headers([file for pair in self._files for file in pair if file is not None])
        self._sizes = for_all(self._files, self._checked_size)
        self._warn_of_colours()

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the HR image, or of the LR one times scale, from the file's header."""
        return self._sizes[index]

    def pair(self, index: int) -> tuple[Tensor | None, Tensor | None]:
        """HR (3, H, W) and LR (3, H // scale, W // scale), or None: uint8 or float32 in [0, 1]."""
        gt, lq = self._files[index]
        hr, lr = None if gt is None else read_image(gt), None if lq is None else read_image(lq)
        return covered(hr, lr, self._scale)

    def file(self, index: int) -> Path:
        """The HR file of an image, or its LR file where it has no other."""
        gt, lq = self._files[index]
        found = lq if gt is None else gt
        assert found is not None, "an image has at least one file"
        return found

    def _warn_of_colours(self) -> None:
        """Log a line for pairs of which one image alone has a profile: tools that make LR images often lose it."""
        pairs = [(gt, lq) for gt, lq in self._files if gt is not None and lq is not None]
        unequal = [gt for gt, lq in pairs if self._headers[gt].converted != self._headers[lq].converted]
        if unequal:
            say_once(
                f"in {len(unequal)} of {len(pairs)} pairs one image alone has a colour profile other than sRGB, so "
                f"that colours differ: {listed(unequal)}; convert those images to sRGB"
            )

    def _checked_size(self, files: Files) -> tuple[int, int]:
        gt, lq = files
        if gt is None:
            assert lq is not None, "an image has at least one file"
            height, width = self._headers[lq].size
            return height * self._scale, width * self._scale
        hr = self._headers[gt].size
        if lq is not None:
            require_sizes(gt, hr, lq, self._headers[lq].size, self._scale)
        return hr


@register_source("folder", FolderOptions)
def open_folders(
    dataroot_GT: str | None,
    dataroot_LQ: str | None,
    scale: int,
    pair_by: PairBy = "stem",
    filename_tmpl: str | None = None,
) -> FileSource:
    """Open HR images, LR images or pairs of them, and check all names and sizes.

    Args:
        dataroot_GT: Folder of HR images, or None.
        dataroot_LQ: Folder of LR images, or None; one of the two is needed.
        scale: Super-resolution factor.
        pair_by: See `pairs.pair_by_stem`; likewise ``filename_tmpl``.
        filename_tmpl: See above.

    Raises:
        UserError: naming the folders and files, if one cannot be used or has no partner.
    """
    if dataroot_GT is None and dataroot_LQ is None:
        raise UserError("expected dataroot_GT, dataroot_LQ or both, got neither")
    if dataroot_GT is not None and dataroot_LQ is not None:
        pairs = pair_files(Path(dataroot_GT), Path(dataroot_LQ), scale, pair_by, filename_tmpl)
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


def pair_files(
    gt: Path, lq: Path, scale: int, pair_by: PairBy = "stem", filename_tmpl: str | None = None
) -> list[tuple[Path, Path]]:
    """Pair the HR and LR images of two folders by their paths below them, see `pairs.pair_by_stem`."""
    return pair_by_stem(gt, by_stem(gt), lq, by_stem(lq), scale, pair_by, filename_tmpl)


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


def by_stem(folder: Path) -> dict[str, Path]:
    """Images of a folder by their paths below it, without suffix; UserError if two share one."""
    files: dict[str, Path] = {}
    for file in list_images(folder):
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise UserError(f"{file}: expected one image named '{stem}', got {files[stem]} as well")
        files[stem] = file
    return files


def require_sizes(gt: Path, hr: tuple[int, int], lq: Path, lr: tuple[int, int], scale: int) -> None:
    """Raise UserError unless an LR image is as large as its HR image over the scale, rounded down or, by MATLAB, up."""
    if not _fits(hr, lr, scale):
        raise UserError(
            f"{lq}: expected {hr[1] // scale} x {hr[0] // scale} pixels (width x height), 1/{scale} of {gt} with "
            f"{hr[1]} x {hr[0]}, got {lr[1]} x {lr[0]}{_other_scale(hr, lr)}"
        )


def covered(hr: Tensor | None, lr: Tensor | None, scale: int) -> tuple[Tensor | None, Tensor | None]:
    """A pair without LR pixels that the HR image covers in part: those of sides that were rounded up."""
    if hr is None or lr is None:
        return hr, lr
    return hr, lr[..., : hr.shape[-2] // scale, : hr.shape[-1] // scale]


def _fits(hr: tuple[int, int], lr: tuple[int, int], scale: int) -> bool:
    down, up = (tuple(side // (sign * scale) * sign for side in hr) for sign in (1, -1))
    return lr in (down, up)


def _other_scale(hr: tuple[int, int], lr: tuple[int, int]) -> str:
    """The scale that would fit, if one does."""
    fits = [scale for scale in range(1, 17) if _fits(hr, lr, scale)]
    return f"; scale: {fits[0]} would fit" if fits else ""
