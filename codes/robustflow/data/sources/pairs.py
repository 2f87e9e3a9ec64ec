"""Which LR image belongs to which HR image, by the names that files have in published sets.

Equal names pair first, as a mark that both files carry belongs to the name; what is left is then compared without
marks, letter case and the like. A name that two files could have is never guessed.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from natsort import natsorted

from robustflow.data.images import list_images, say_once
from robustflow.utils.errors import UserError, enumerate_some

PairBy = Literal["stem", "number", "order"]
Files = Mapping[str, Path]  # by their paths below a folder, without suffix
Simplify = Callable[[str], str]  # makes of such a path what is compared

_GAP = r"[_\-. ]"
_AFTER_NO_LETTER = r"(?<![^\W\d_])"
_HR_WORDS = r"HR|GT(mod\d+)?|high|normal|target"
_LR_WORDS = "LR(BI|BD|DN|bic(ubic)?)?|LQ|low|input"


def pair_files(
    gt: Path,
    lq: Path,
    scale: int,
    pair_by: PairBy = "stem",
    filename_tmpl: str | None = None,
    find: Callable[[Path], Sequence[Path]] = list_images,
) -> list[tuple[Path, Path]]:
    """Pair the files of two folders, or of one that holds both.

    Args:
        gt: Folder of the HR images.
        lq: Folder of the LR images.
        scale: Super-resolution factor: marks with another number are none.
        pair_by: stem: by names that are equal, or are so but for the marks of published sets, ways of writing Unicode,
            letter case, zeros in front of numbers and folders named like a mark. number: by the last number of each
            name. order: the n-th with the n-th, in natural order.
        filename_tmpl: Name of an LR file, ``{}`` standing for that of its HR file, as in BasicSR; None: as above.
        find: Lists the images in a folder and those below it.

    Returns:
        (HR, LR), in the order of the HR files.

    Raises:
        UserError: naming files without a partner and what there is instead, or files that one name could mean.
    """
    hr, lr = _by_stem(gt, find(gt)), _by_stem(lq, find(lq))
    hr_marks, lr_marks = _Marks(scale, _HR_WORDS, "mod(crop)?"), _Marks(scale, _LR_WORDS, "bic(ubic)?")
    if gt.resolve() == lq.resolve():
        hr, lr = _divide(hr, hr_marks, lr_marks)
    lr = _of_scale(lq, lr, scale)
    if pair_by == "order":
        return _in_order(gt, hr, lq, lr)
    rounds: list[tuple[Simplify, Simplify]]
    if filename_tmpl is not None:
        rounds = [(_after(key, partial(_fill, filename_tmpl)), key) for key in (str, _plain)]
    elif pair_by == "number":
        rounds = [(_after(_number, hr_marks.remove), _after(_number, lr_marks.remove))]
    else:
        rounds = [(key, key) for key in (str, _compose, _plain)]
        rounds += [(_after(key, hr_marks.remove), _after(key, lr_marks.remove)) for key in (_plain, _unpad)]
    partners = _partners(gt, hr, lq, lr, rounds)
    return [(file, lr[partners[stem]]) for stem, file in hr.items()]


def _by_stem(folder: Path, images: Sequence[Path]) -> Files:
    """Images by their paths below a folder, without suffix; UserError if two share one."""
    files: dict[str, Path] = {}
    for file in images:
        stem = file.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise UserError(f"{file}: expected one image named '{stem}', got {files[stem]} as well")
        files[stem] = file
    return files


def _partners(gt: Path, hr: Files, lq: Path, lr: Files, rounds: Sequence[tuple[Simplify, Simplify]]) -> dict[str, str]:
    """LR stem of each HR stem: in every round, those of the ones left whose keys are equal, and no other's."""
    partners: dict[str, str] = {}
    alone, left = list(hr), list(lr)
    for of_hr, of_lr in rounds:
        large, small = _by_key(alone, of_hr), _by_key(left, of_lr)
        found = {large[key][0]: small[key][0] for key in large if len(large[key]) == len(small.get(key, ())) == 1}
        partners |= found
        taken = set(found.values())
        alone, left = [stem for stem in alone if stem not in found], [stem for stem in left if stem not in taken]
    _require_distinct(hr, _by_key(alone, rounds[-1][0]), _by_key(left, rounds[-1][1]))
    _require_distinct(lr, _by_key(left, rounds[-1][1]), _by_key(alone, rounds[-1][0]))
    _require_none_left(gt, [hr[stem] for stem in alone], lq, [lr[stem] for stem in left])
    return partners


class _Marks:
    """What names of HR or of LR images have before or behind what both have in common.

    Args:
        scale: Number in marks.
        words: Marks of letters, a regular expression.
        behind: More of them, that stand behind only.
    """

    def __init__(self, scale: int, words: str, behind: str) -> None:
        # LR, bicLR, LR4 (RealSR), SRF_4; x4, x4m, x4w1 (DIV2K mild and wild), x1 (HR of DRealSR), 4x after a gap.
        numbered = rf"x{scale}([mwd]\d?)?|{'x1|' if 'HR' in words else ''}(?<![^\W_]){scale}x"
        word = rf"{_AFTER_NO_LETTER}({behind})?({words})(_?{scale})?|{_AFTER_NO_LETTER}({behind}|SRF_?{scale})"
        several = rf"({_GAP}*({word}|{numbered}))+"
        self._behind = re.compile(rf"{several}$", re.IGNORECASE)
        self._before = re.compile(rf"^(({words})(_?{scale}(?=\D))?|x{scale}(?=\D))({_GAP}+|(?=\d))", re.IGNORECASE)
        self._whole = re.compile(several, re.IGNORECASE)
        self._word = re.compile(rf"{_AFTER_NO_LETTER}({words})(_?{scale})?({_GAP}?x{scale})?$", re.IGNORECASE)

    def remove(self, stem: str) -> str:
        """A stem without its marks, and without folders that are named like a mark."""
        *folders, name = stem.split("/")
        folders = [folder for folder in folders if not self._whole.fullmatch(folder)]
        return "/".join([*folders, self._before.sub("", self._behind.sub("", name))])

    def has_word(self, stem: str) -> bool:
        """Whether a stem has a mark that no image of the other kind has."""
        name = PurePosixPath(stem).name
        return bool(self._word.search(name) or self._before.match(name))


def _divide(files: Files, hr_marks: _Marks, lr_marks: _Marks) -> tuple[Files, Files]:
    """HR and LR files of one folder: those with a mark of LR images, and others; all files twice if there are none."""
    marked = {stem: file for stem, file in files.items() if lr_marks.remove(stem) != stem}
    small = {stem: file for stem, file in marked.items() if not hr_marks.has_word(stem)}
    large = {stem: file for stem, file in files.items() if stem not in small}
    return (large, small) if large and small else (files, files)


def _of_scale(folder: Path, files: Files, scale: int) -> Files:
    """Files without those in folders of other scales, X2 beside X4."""
    scales = {stem: {int(n) for n in re.findall(r"(?:^|/)x(\d+)(?=/)", stem, re.IGNORECASE)} for stem in files}
    if not any(scale in found for found in scales.values()):
        return files
    kept = {stem: file for stem, file in files.items() if not scales[stem] or scale in scales[stem]}
    if len(kept) < len(files):
        say_once(f"{folder}: {len(files) - len(kept)} images left out, in folders of other scales than x{scale}")
    return kept


def _in_order(gt: Path, hr: Files, lq: Path, lr: Files) -> list[tuple[Path, Path]]:
    if len(hr) != len(lr):
        raise UserError(
            f"{lq}: expected {len(hr)} LR images, as many as HR images in {gt} (pair_by: order), got {len(lr)}"
        )
    return list(zip(hr.values(), natsorted(lr.values()), strict=True))


def _after(last: Simplify, first: Simplify) -> Simplify:
    return lambda stem: last(first(stem))


def _compose(stem: str) -> str:
    """Letters with marks as one character: file systems and archives write them in two ways."""
    return unicodedata.normalize("NFC", stem)


def _plain(stem: str) -> str:
    return _compose(stem).casefold()


def _unpad(stem: str) -> str:
    """Without zeros in front of numbers."""
    return re.sub(r"\d+", lambda found: str(int(found[0])), _plain(stem))


def _number(stem: str) -> str:
    """The folder, and the last number of the name."""
    path = PurePosixPath(_unpad(stem))
    numbers = re.findall(r"\d+", path.name)
    if not numbers:
        raise UserError(f"{stem}: expected a number in the name (pair_by: number), got none")
    return str(path.with_name(numbers[-1]))


def _fill(filename_tmpl: str, stem: str) -> str:
    path = PurePosixPath(stem)
    return (path.parent / filename_tmpl.replace("{}", path.name)).as_posix()


def _by_key(stems: Collection[str], key: Simplify) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stem in stems:
        found.setdefault(key(stem), []).append(stem)
    return found


def _require_distinct(files: Files, by_key: Mapping[str, list[str]], others: Collection[str]) -> None:
    for key, stems in by_key.items():
        if len(stems) > 1 and key in others:
            first, second, *_ = (files[stem] for stem in stems)
            raise UserError(f"{second}: expected one image named '{key}', got {first} as well{_ADVICE}")


_ADVICE = "; rename files, or say how names pair with filename_tmpl ('{}x4') or pair_by (number, order)"


def _require_none_left(gt: Path, hr: Sequence[Path], lq: Path, lr: Sequence[Path]) -> None:
    """Raise UserError if files have no partner, with those that could have been meant."""
    if not hr and not lr:
        return
    (folder, alone), (other, there) = ((gt, hr), (lq, lr)) if hr else ((lq, lr), (gt, hr))
    beside = f"those without one there are {enumerate_some(_below(other, there))}" if there else "all there have one"
    raise UserError(
        f"{folder}: expected partners in {other} by name, found none for {len(alone)}: "
        f"{enumerate_some(_below(folder, alone))}; {beside}{_ADVICE}"
    )


def _below(folder: Path, files: Sequence[Path]) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in files]
