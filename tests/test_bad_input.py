"""What a user or a stranger's file can get wrong: a message and exit status 2, no traceback, nothing written or run."""

import contextlib
import errno
import hashlib
import io
import logging
import os
import pickle
import random
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bad_inputs import CORPUS
from spoiling import TEST, TRAIN, Code, make_folder, save_weights

from robustflow import cli, models
from robustflow.data import images
from robustflow.data.sources import lists
from robustflow.interop import published
from robustflow.models import weights
from robustflow.options import load as options_load
from robustflow.utils import devices
from robustflow.utils.answer import answer
from robustflow.utils.errors import RunFailed, UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    make_folder(folder)
    return folder


@pytest.fixture
def here(template, tmp_path, monkeypatch):
    """A working folder of its own, in which all is right."""
    shutil.copytree(template, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    lists._load.cache_clear()
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    """What lies in a folder, by path: a digest of files, the target of links, the kind of the rest."""
    found = {}
    for root, folders, files in os.walk(os.fsencode(folder)):
        for path in (os.path.join(root, name) for name in (*folders, *files)):
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path):
                found[path] = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            else:
                found[path] = "folder" if os.path.isdir(path) else "other"
    return found


def call(monkeypatch, command: str, *arguments: str) -> tuple[int, str]:
    """Run a command's entry point in this process; exit status and stderr. Whatever is no answer is raised."""
    root, stderr = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            if command in cli.COMMANDS:
                status = cli.main([command, *arguments])
            else:
                status = runpy.run_path(str(ROOT / command), run_name="__main__")
        except SystemExit as leaving:
            status = leaving.code
    return status, stderr.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("bad", CORPUS, ids=lambda bad: bad.name)
def test_mistakes_are_answered(bad, here, monkeypatch):
    bad.spoil()
    before, start = contents(here), time.perf_counter()
    status, stderr = call(monkeypatch, *bad.command)
    assert time.perf_counter() - start < 10
    assert status == 2, stderr
    assert bad.message in stderr
    assert "Traceback" not in stderr
    assert contents(here) == before


def test_the_corpus_is_large():
    assert len(CORPUS) == len({bad.name for bad in CORPUS}) >= 60


def test_what_is_right_is_done(here, monkeypatch):
    for command in (TRAIN, TEST):
        status, stderr = call(monkeypatch, *command)
        assert status == 0, stderr
        assert "Traceback" not in stderr
        assert "datasets." not in stderr


@pytest.mark.parametrize("name", ["training data: cut off PNG", "weights: .pth that runs code"])
def test_mistakes_are_answered_in_a_process(name, here):
    (bad,) = (bad for bad in CORPUS if bad.name == name)
    bad.spoil()
    before = contents(here)
    script, *arguments = bad.command
    command = [sys.executable, "-B", str(ROOT / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert bad.message in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(here) == before


def test_folders_that_cannot_be_read(here, monkeypatch):
    def refuse(*_arguments, **_more):
        raise PermissionError(13, "Permission denied", "hr")

    monkeypatch.setattr(os, "scandir", refuse)
    status, stderr = call(monkeypatch, *TRAIN)
    assert status == 2
    assert "hr: expected a folder to read images from, got: permission denied" in stderr


# Warnings


def test_lr_images_by_another_filter(here, monkeypatch):
    lr = images.read_image("lr_test/1.png")
    images.write_png("lr_test/1.png", lr.roll(1, 2))
    status, stderr = call(monkeypatch, *TEST)
    assert status == 0, stderr
    assert "datasets.test_few: lr_test/1.png beside hr_test/1.png: not the bicubic LR image" in stderr


@pytest.mark.parametrize("command", [TRAIN, TEST], ids=["train", "test"])
def test_test_images_that_are_learnt(here, monkeypatch, command):
    shutil.copy("hr_test/1.png", "hr/other_name.png")
    status, stderr = call(monkeypatch, *command)
    assert status == 0, stderr
    assert "datasets.test_few: 1 of 2 files are training files, too: hr_test/1.png (hr/other_name.png)" in stderr


# Random damage


def damaged(data: bytes, dice: random.Random, reach: int) -> bytes:
    """A few bytes of the first ``reach`` or the last ones changed, taken out, or doubled."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        place = dice.randrange(min(reach, len(changed)))
        place = place if dice.random() < 0.7 else len(changed) - 1 - place
        length = dice.randrange(1, 20)
        kind = dice.randrange(4)
        if kind < 2:
            changed[place] = dice.randrange(256)
        elif kind == 2:
            del changed[place : place + length]
        else:
            changed[place:place] = changed[place : place + length]
    return bytes(changed)


def survived(read, files) -> int:
    """How many of the files are refused with a UserError; any other error is raised."""
    refused = 0
    for file in files:
        try:
            read(file)
        except UserError as error:
            assert str(error)
            refused += 1
    return refused


def each(file: str, data: bytes, n: int, reach: int = 10**9):
    """n damaged versions of a file, one after the other at the same place."""
    dice = random.Random(0)
    for _ in range(n):
        Path(file).write_bytes(damaged(data, dice, reach))
        yield file


def test_damaged_options(here):
    assert survived(options_load.load_any, each("x.yml", Path("run.yml").read_bytes(), 200)) > 100


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", ["png", "16.png", "jpg", "webp", "bmp", "tif"])
def test_damaged_images(here, suffix):
    name = f"x.{suffix}"
    if suffix == "16.png":
        images.cv2.imwrite(name, images.np.arange(192, dtype="uint16").reshape(8, 8, 3) * 300)
    else:
        images.Image.open("hr/0.png").save(name)
    data = Path(name).read_bytes()
    survived(images.read_header, each(name, data, 60))
    survived(images.read_image, each(name, data, 60))


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("layout", ["safetensors", "pth", "old pth"])
def test_damaged_weights(here, layout):
    options = options_load.load("run.yml")
    name = f"w.{layout.split()[-1]}"
    save_weights(Path(name), Path("run.yml"))
    if layout == "old pth":
        torch.save(torch.load(name, weights_only=True), name, _use_new_zipfile_serialization=False)

    def read(file):
        completed = weights.fit_options(options, Path(file))
        network = weights_network if completed == options else build(completed)
        weights.load(Path(file), network, completed, encoder_suffices=False)

    def build(options):
        return models.build(options)

    weights_network = build(options)
    assert survived(read, each(name, Path(name).read_bytes(), 70, reach=4000)) > 35


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_damaged_programs_are_not_run(here):
    torch.save({"x": Code()}, "evil.pth")
    programs = {
        "w.pth": Path("evil.pth").read_bytes(),
        "old.pth": pickle.dumps(Code()),
        "w.pkl": pickle.dumps([Code()]),
    }
    for name, data in programs.items():
        read = lists.load_arrays if name.endswith("pkl") else published.read
        survived(read, each(name, data, 60))
    assert not Path("code_was_run").exists()


# Exit statuses

NO_SHARED_MEMORY = """Caught RuntimeError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "storage.py", line 423, in _new_shared
RuntimeError: unable to allocate shared memory(shm)
"""


def test_an_error_in_a_loader_process_is_answered(here, monkeypatch):
    data = Path("hr/1.png").read_bytes()
    Path("hr/1.png").write_bytes(data[: len(data) // 2] + data[-16:])  # its end is there
    arguments = ("fit", "-opt", "run.yml", "--weights", "good.safetensors", "--n-patches", "10", "--patch", "16")
    status, stderr = call(monkeypatch, "ood", *arguments, "--override", "datasets.train.n_workers=1")
    assert status == 2
    assert "error: hr/1.png: expected a complete" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("mend it"), 2, "error: mend it"),
        (RunFailed("diverged"), 1, "error: diverged"),
        (OSError(28, "No space left on device", "x/y"), 2, "error: x/y: cannot be used: No space left on device"),
        (OSError(28, "No space left on device"), 2, "error: output: cannot be used: No space left on device"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), 2, "['/tmp']; set TMPDIR"),
        (OSError(errno.ESTALE, "Stale file handle", "x/y"), 2, "error: x/y: cannot be used: Stale file handle"),
        (RuntimeError("CUDA out of memory. Tried 3 GiB"), 1, "too little memory: CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 bytes"), 1, "lower the batch"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "), 1, "lower the batch"),
        (RuntimeError("DataLoader worker (pid 3) is killed: out of shared memory."), 1, "enlarge it"),
        (RuntimeError(NO_SHARED_MEMORY), 1, "memory: unable to allocate shared memory(shm)\n  Loader processes"),
        (MemoryError(), 1, "lower the batch"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_and_exit_statuses(error, status, message, caplog):
    def work():
        raise error

    assert answer(work, memory=lambda: "lower the batch") == status
    assert message in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_finds_no_room(unbuffered):
    code = "import sys; from robustflow.utils.answer import answer; sys.exit(answer(lambda: print('a table')))"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.returncode == 2
    message = "error: output: cannot be used: No space left on device; choose another place or make room\n"
    assert process.stderr == message


def test_output_that_nobody_reads():
    code = "from robustflow.utils.answer import answer; raise SystemExit(answer(lambda: print('a table')))"
    command = f"(sleep 0.2; '{sys.executable}' -c \"{code}\"; echo $? >&2) | true"
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    process = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert process.stderr == "0\n"


@pytest.mark.parametrize("error", [RuntimeError("a fault"), OSError(22, "Invalid argument"), ValueError("a fault")])
def test_faults_of_ours_are_raised(error):
    def work():
        raise error

    with pytest.raises(type(error)):
        answer(work)


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices.choose("cuda:1") == torch.device("cuda", 1)
    assert devices.choose("cuda") == torch.device("cuda")
    for name in ("cuda:2", "cuda:256", "cuda:99999999999"):
        with pytest.raises(UserError, match="expected cuda:0 to cuda:1, which are here; got cuda"):
            devices.choose(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="no CUDA device is here; got cuda"):
        devices.choose("cuda")
