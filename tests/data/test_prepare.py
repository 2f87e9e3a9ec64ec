import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from several import holding
from torch.utils.data import DataLoader

from robustflow.commands import prepare
from robustflow.data import build_evaluation, build_training, collate, preparation
from robustflow.data.bicubic import downsample
from robustflow.data.images import read_image, write_png
from robustflow.data.sources import prepared
from robustflow.data.sources.prepared import INDEX, open_prepared
from robustflow.registry import DATASETS
from robustflow.utils import files, locks
from robustflow.utils.errors import UserError


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=random, dtype=torch.uint8)


def deep_picture(file: Path, height: int, width: int) -> None:
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 65536, (height, width, 3)).astype(np.uint16))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Folder of images of several sizes, one of them in a sub-folder, one of 16 bits."""
    for number, size in enumerate([(40, 36), (21, 50), (64, 33)]):
        write_png(tmp_path / "hr" / f"{number + 8}.png", picture(*size, number))
    write_png(tmp_path / "hr" / "sub" / "b.v2.png", picture(30, 30, 9))
    deep_picture(tmp_path / "hr" / "deep.png", 37, 41)
    return tmp_path / "hr"


def made(source: Path, name: str = "made", workers: int = 0) -> Path:
    preparation.prepare_images(source, source.parent / name, workers)
    return source.parent / name


def found_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each file: an unchanged one was not written again."""
    found = {file: file.stat() for file in folder.rglob("*") if file.is_file()}
    return {file.relative_to(folder).as_posix(): (s.st_ino, s.st_mtime_ns) for file, s in found.items()}


def options(mode: str, gt: Path | None, lq: Path | None = None, **values: object):
    roots = {"dataroot_GT": gt, "dataroot_LQ": lq}
    return DATASETS.parse({"mode": mode, **{key: str(root) for key, root in roots.items() if root}, **values})


def assert_same_items(ours, folders) -> None:
    assert [item.name for item in ours] == [item.name for item in folders]
    for a, b in zip(ours, folders, strict=True):
        assert a.lr.equal(b.lr)
        assert b.gt is None if a.gt is None else a.gt.equal(b.gt)


@pytest.mark.parametrize("enhance", [False, "unit"])
def test_crops_and_items_are_those_of_the_folder(source: Path, enhance: object):
    values = {"GT_size": 20, "use_flip": True, "use_rot": True, "hr_shift": 2, "lr_noise": 0.1, "enhance": enhance}
    ours, folders = options("prepared", made(source), **values), options("folder", source, **values)
    crops, expected = (build_training(each, 4, seed=3) for each in (ours, folders))
    batch = next(iter(DataLoader(crops.raw, 12, sampler=range(12), num_workers=2, collate_fn=collate)))
    gt, lr = crops.assemble(batch, torch.device("cpu"))
    for i in range(12):
        assert gt[i].equal(expected[i]["gt"])
        assert lr[i].equal(expected[i]["lr"])
    assert_same_items(build_evaluation(ours, 4), build_evaluation(folders, 4))
    whole = [
        options(mode, root, n_crops=9, GT_size=8) for mode, root in (("prepared", made(source)), ("folder", source))
    ]
    assert_same_items(*(build_evaluation(each, 2) for each in whole))


def test_pairs_are_those_of_the_folders(source: Path):
    for file in source.rglob("*.png"):
        image = read_image(file)
        height, width = (n // 4 * 4 for n in image.shape[1:])
        marked = source.parent / "lr" / file.relative_to(source).with_name(f"{file.stem}x4.png")
        write_png(marked, downsample(image[:, :height, :width], 4))
    gt, lq = made(source), made(source.parent / "lr", "made_lr")
    for ours, folders in (((gt, lq), (source, source.parent / "lr")), ((None, lq), (None, source.parent / "lr"))):
        assert_same_items(
            build_evaluation(options("prepared", *ours), 4), build_evaluation(options("folder", *folders), 4)
        )
    write_png(source.parent / "lr" / "9x4.png", picture(5, 13))
    made(source.parent / "lr", "made_lr")
    with pytest.raises(
        UserError, match=r"9x4\.npy: expected 12 x 5 pixels .* 1/4 of .*9\.npy with 50 x 21, got 13 x 5"
    ):
        open_prepared(str(gt), str(lq), 4)
    (lq / INDEX).write_text((lq / INDEX).read_text().replace("sub/b.v2x4", "sub/c"))
    (lq / "sub/b.v2x4.npy").rename(lq / "sub/c.npy")
    with pytest.raises(UserError, match="expected partners"):
        open_prepared(str(gt), str(lq), 4)


def test_options_are_checked_as_those_of_folders():
    parsed = options("prepared", None, Path("x"))
    ((path, message),) = parsed.contradictions(SimpleNamespace(datasets={"train": parsed}))
    assert path == "datasets.train.dataroot_GT"
    assert "training needs" in message


def test_only_used_pixels_are_read(source: Path, monkeypatch: pytest.MonkeyPatch):
    image = open_prepared(str(made(source)), None, 4).pair(0)[0]
    assert image.shape == (3, 40, 36)
    assert image.untyped_storage().nbytes() == 40 * 36 * 3
    write_png(source / "8.png", picture(40, 36, 77))
    made(source)
    assert not image.equal(read_image(source / "8.png")), "a file that is in use is replaced, not changed"


def test_processes_write_the_same(source: Path):
    alone, several = made(source, "alone"), made(source, "several", workers=2)
    assert (
        found_in(alone).keys()
        == found_in(several).keys()
        == {INDEX, *(f"{n}.npy" for n in ("8", "9", "10", "deep", "sub/b.v2"))}
    )
    for name in found_in(alone):
        assert (alone / name).read_bytes() == (several / name).read_bytes()
    index = json.loads((alone / INDEX).read_text())
    assert (index["version"], index["complete"], index["origin"]) == (1, True, str(source))
    assert index["images"][0] == {
        "image": "8.png",
        "image_bytes": (source / "8.png").stat().st_size,
        "image_modified": (source / "8.png").stat().st_mtime_ns,
        "height": 40,
        "width": 36,
        "dtype": "uint8",
        "file_bytes": (alone / "8.npy").stat().st_size,
    }
    assert np.load(alone / "8.npy").shape == (40, 36, 3)


def test_what_is_current_stays(source: Path):
    folder = made(source)
    before = found_in(folder)
    write_png(source / "9.png", picture(22, 50, 70))
    write_png(source / "new.png", picture(30, 30, 71))
    (source / "10.png").rename(source / "10.PNG")
    (source / "sub" / "b.v2.png").unlink()
    (folder / "deep.npy").write_bytes((folder / "deep.npy").read_bytes()[:-1])
    for name in (".8.npy.abcd1234", "sub/.b.v2.npy.abcd1234", f".{INDEX}.abcd1234"):
        (folder / name).touch()
    made(source)
    after = found_in(folder)
    assert after.keys() == {INDEX, "8.npy", "9.npy", "10.npy", "deep.npy", "new.npy"}
    assert [name for name in after if after[name] == before.get(name)] == ["8.npy"]
    assert_same_items(*(build_evaluation(options(m, r), 4) for m, r in (("prepared", folder), ("folder", source))))


def test_changed_images_are_noticed(source: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("WARNING", logger="robustflow")
    folder = made(source)
    open_prepared(str(folder), None, 4)
    assert caplog.text == ""
    write_png(source / "9.png", picture(22, 50, 70))
    (source / "deep.png").unlink()
    open_prepared(str(folder), None, 4)
    assert "2 of 5 images are not those that were prepared, the first 9.png; run robustflow prepare" in caplog.text
    caplog.clear()
    source.rename(source.parent / "elsewhere")
    open_prepared(str(folder), None, 4)
    assert caplog.text == ""


def test_interrupted_and_run_again(source: Path, monkeypatch: pytest.MonkeyPatch):
    decoded, target = [], source.parent / "made"

    def read_three(file: Path) -> torch.Tensor:
        if len(decoded) == 3:
            raise KeyboardInterrupt
        decoded.append(file.name)
        return read_image(file)

    monkeypatch.setattr(preparation, "read_image", read_three)
    assert prepare.main([str(source), str(target), "--workers", "0"]) == 130
    with pytest.raises(UserError, match=r"interrupted; run robustflow prepare .*hr .*made again"):
        open_prepared(str(target), None, 4)
    before = found_in(target)
    monkeypatch.setattr(preparation, "read_image", read_image)
    made(source)
    assert [found_in(target)[name] for name in before if name != INDEX] == [before[n] for n in before if n != INDEX]
    assert len(open_prepared(str(target), None, 4)) == 5


@pytest.mark.parametrize("nth", range(3))
def test_interrupted_at_an_index_removes_what_is_stale(source: Path, monkeypatch: pytest.MonkeyPatch, nth: int):
    folder, left = made(source), [True] * nth
    (source / "9.png").unlink()
    (source / "sub" / "b.v2.png").unlink()
    write_png(source / "8.png", picture(22, 50, 70))
    write = preparation._write_index

    def interrupted_after(*values) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        write(*values)

    monkeypatch.setattr(preparation, "_write_index", interrupted_after)
    prepare.main([str(source), str(folder), "--workers", "0"])
    monkeypatch.undo()
    made(source)
    assert found_in(folder).keys() == {INDEX, "8.npy", "10.npy", "deep.npy"}


def test_files_of_others_stay(source: Path):
    folder = made(source)
    for name in ("mine.npy", ".mine.txt.abcd1234"):
        (folder / name).touch()
    (source / "9.png").unlink()
    made(source)
    assert found_in(folder).keys() == {
        *(INDEX, "8.npy", "10.npy", "deep.npy", "sub/b.v2.npy", "mine.npy", ".mine.txt.abcd1234")
    }


def test_killed_and_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(12):
        write_png(tmp_path / "hr" / f"{number:02d}.png", picture(16, 16, number))
    slow = "import time; from robustflow.commands import prepare; from robustflow.data import preparation as p; "
    slow += "p._PERIOD = 0; read = p.read_image; "
    slow += "p.read_image = lambda f: (time.sleep(0.2), read(f))[1]; prepare.main(['hr', 'made', '--workers', '1'])"
    process = subprocess.Popen([sys.executable, "-c", slow], cwd=tmp_path, start_new_session=True)
    while len(list((tmp_path / "made").glob("*.npy"))) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = found_in(tmp_path / "made")
    made(tmp_path / "hr")
    kept = [name for name, value in found_in(tmp_path / "made").items() if before.get(name) == value]
    assert 2 <= len(kept) < 12
    assert len(open_prepared(str(tmp_path / "made"), None, 4)) == 12


def damaged(folder: Path, case: str) -> None:
    index, first = folder / INDEX, folder / "8.npy"
    text = index.read_text()
    changes = {
        "no index": index.unlink,
        "no JSON": lambda: index.write_text(text[:-9]),
        "another file": lambda: index.write_text("[1]"),
        "another version": lambda: index.write_text(text.replace('"version": 1', '"version": 2')),
        "a number missing": lambda: index.write_text(text.replace('"height": 40', '"height": null')),
        "more pixels than bytes": lambda: index.write_text(text.replace('"height": 40', '"height": 400000000000000')),
        "a path that leads out": lambda: index.write_text(text.replace("8.png", "../8.png")),
        "no image file": first.unlink,
        "truncated": lambda: first.write_bytes(first.read_bytes()[:-1]),
        "no images": lambda: index.write_text(json.dumps({**json.loads(text), "images": []})),
    }
    changes[case]()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "no index",
            r"index\.json: expected the index of prepared images, got nothing there; write them with robustflow",
        ),
        ("no JSON", r"index\.json: damaged .* delete its folder and prepare"),
        ("another file", r"index\.json: expected the index that robustflow prepare writes, got another file"),
        ("another version", "expected version 1 of the index, got 2"),
        ("a number missing", r"index\.json: damaged"),
        ("more pixels than bytes", "'8.png' of 36 x 400000000000000 pixels in 4448 bytes"),
        ("a path that leads out", r"expected images below the folder, .* got '\.\./8\.png'"),
        ("no image file", r"8\.npy: expected a file of 4448 bytes, found none; run robustflow prepare .* again"),
        ("truncated", r"8\.npy: expected a file of 4448 bytes"),
        ("no images", "expected prepared images, found none"),
    ],
)
def test_damaged_folders_are_named(source: Path, case: str, message: str):
    folder = made(source)
    damaged(folder, case)
    with pytest.raises(UserError, match=message):
        open_prepared(str(folder), None, 4)


def test_a_file_damaged_since_is_named(source: Path):
    file = made(source) / "8.npy"
    opened = open_prepared(str(file.parent), None, 4)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"8\.npy: expected a file of 4448 bytes, got: mmap length"):
        opened.pair(0)
    file.unlink()
    with pytest.raises(UserError, match=r"8\.npy: expected a file of 4448 bytes, got: .*No such file"):
        opened.pair(0)


def test_random_damage_of_the_index_is_answered(source: Path):
    folder, random = made(source), np.random.default_rng(0)
    whole = (folder / INDEX).read_bytes()
    for _ in range(200):
        changed = bytearray(whole)
        for place in random.integers(len(whole), size=random.integers(1, 4)):
            changed[place] = random.integers(256)
        (folder / INDEX).write_bytes(changed)
        with contextlib.suppress(UserError):
            open_prepared(str(folder), None, 4).pair(0)


def test_mistakes_are_answered(source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def answer(destination: Path, origin: Path = source) -> str:
        caplog.clear()
        assert prepare.main([str(origin), str(destination), "--workers", "0"]) == 2
        return caplog.text

    assert "expected a folder of images, got nothing there" in answer(source.parent / "made", source / "none")
    assert "got one with other files" in answer(source)
    assert "got a file" in answer(source / "8.png")
    assert "Not a directory" in answer(source / "8.png" / "made")
    write_png(source / "sub_b.v2.png", picture(8, 8))
    assert "distinct names" in answer(source.parent / "made")
    data = (source / "8.png").read_bytes()
    (source / "sub_b.v2.png").write_bytes(data[:900] + data[-16:])  # its end is there: found when it is decoded
    (source / "sub" / "b.v2.png").unlink()
    assert "sub_b.v2.png: expected a complete" in answer(source.parent / "made")
    assert len(prepared.read_index(source.parent / "made").images) == 4
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda place: SimpleNamespace(free=2**20))
    read = preparation.read_headers
    monkeypatch.setattr(
        preparation, "read_headers", lambda files: {f: replace(h, size=(40960, 32768)) for f, h in read(files).items()}
    )
    assert "expected 30 GiB of free space for 5 decoded images, got 0.000977" in answer(source.parent / "other")
    assert not (source.parent / "other").exists()


@pytest.mark.forks
def test_one_at_a_time(source: Path, caplog: pytest.LogCaptureFixture):
    """Each removes what it takes for half of a file that a killed one left."""
    target = source.parent / "made"
    with holding(locks.beside(target), target):
        assert prepare.main([str(source), str(target), "--workers", "0"]) == 2
    assert "made: another run is writing there" in caplog.text
    assert not target.exists()


@pytest.mark.parametrize("place", [".", "..", "/"])
def test_folders_without_a_name_are_answered(source: Path, place: str, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.chdir(source)
    assert prepare.main([str(source), place, "--workers", "0"]) == 2
    assert f"error: {place}: expected a new or empty folder" in caplog.text


def test_full_disk_is_answered(source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    written = []

    def write_three(file: Path, data: bytes) -> None:
        if len(written) == 3 and file.suffix == ".npy":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        files.write_atomically(file, data)
        written.extend([file] if file.suffix == ".npy" else [])

    monkeypatch.setattr(preparation, "write_atomically", write_three)
    target = source.parent / "made"
    assert prepare.main([str(source), str(target), "--workers", "0"]) == 2
    assert "cannot be used: No space left on device; make room" in caplog.text
    monkeypatch.undo()
    before = found_in(target)
    made(source)
    assert len([name for name, value in found_in(target).items() if before.get(name) == value]) == 3


def test_links_out_of_the_folder_are_refused(source: Path):
    (source.parent / "elsewhere").mkdir()
    folder = made(source)
    for file in (folder / "sub").iterdir():
        file.unlink()
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to(source.parent / "elsewhere")
    with pytest.raises(UserError, match=r"leads to .*elsewhere"):
        made(source)
    assert not list((source.parent / "elsewhere").iterdir())
