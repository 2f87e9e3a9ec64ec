"""Checkpoints through faults: damage, kills, full disks; and which of them are kept."""

import errno
import itertools
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import tiny
import torch
from training_runs import assert_same_end, average_at, folder_of, saved_at, weights_at

from robustflow.evaluation.evaluator import Evaluator
from robustflow.models import weights
from robustflow.models.weights import WeightsError
from robustflow.options.load import OptionsError, load
from robustflow.training import checkpoint, engine
from robustflow.training.checkpoint import CheckpointError
from robustflow.training.loop import train
from robustflow.utils import checksums, files

pytestmark = pytest.mark.long

EVERY = {"save_checkpoint_freq": 1}
TWO = {"niter": 2, "ema": 0.5, "val_freq": 100}


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert train(tiny.training_options(folder, train=TWO, logger=EVERY))
    return folder


@pytest.fixture
def two(run_of_two, make_options, tmp_path):
    """Options of a run of two iterations that is done, each with a checkpoint: a copy for each test."""
    shutil.copytree(run_of_two, tmp_path, dirs_exist_ok=True)
    return make_options(train=TWO, logger=EVERY)


def iterations_of(options):
    return sorted(int(file.stem) for file in (folder_of(options) / "training_state").iterdir())


def flip_a_byte(file):
    contents = bytearray(file.read_bytes())
    contents[-9] ^= 1
    file.write_bytes(contents)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def remove(file):
    file.unlink()


# Damage


@pytest.mark.parametrize("kind", [checkpoint.state_file, checkpoint.weights_file])
@pytest.mark.parametrize("damage", [flip_a_byte, truncate, remove])
def test_the_checkpoint_before_a_damaged_one_is_used(two, make_options, caplog, kind, damage):
    if (kind, damage) == (checkpoint.state_file, remove):
        pytest.skip("without a state there is no checkpoint")
    options = two
    whole = {name: tensor.clone() for name, tensor in weights_at(options, 2).items()}
    file = kind(folder_of(options), 2)
    damage(file)
    assert train(make_options(train={"niter": 2, "ema": 0.5}, path={"resume_state": "auto"}, logger=EVERY))
    before = checkpoint.state_file(folder_of(options), 1)
    assert f"{file}: {'missing' if damage is remove else 'damaged'}" in caplog.text
    assert f"The checkpoint before is used: {before}" in caplog.text
    assert f"resumed {before} at iteration 1" in caplog.text
    assert len(list(folder_of(options).glob("superseded_*"))) == 1
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights_at(options, 2).items())


def test_a_damaged_checkpoint_without_checksums(two):
    options = two
    for file in (folder_of(options) / "checksums").iterdir():
        file.unlink()
    state = checkpoint.state_file(folder_of(options), 2)
    assert checkpoint.find(folder_of(options), "auto") == state
    truncate(state)
    assert checkpoint.find(folder_of(options), "auto") == checkpoint.state_file(folder_of(options), 1)
    truncate(checkpoint.weights_file(folder_of(options), 1))
    with pytest.raises(CheckpointError, match=r"(?s)00000002\.state: damaged.*00000001_G.*damaged.*train anew"):
        checkpoint.find(folder_of(options), "auto")


@pytest.mark.parametrize("damage", [bytes.upper, lambda text: bytes(len(text)), lambda text: text[:80], lambda _: b""])
def test_a_checkpoint_whose_checksums_are_damaged(two, damage):
    file, state = checksums.place(folder_of(two), 2), checkpoint.state_file(folder_of(two), 2)
    file.write_bytes(damage(file.read_bytes()))
    assert checkpoint.find(folder_of(two), "auto") == checkpoint.state_file(folder_of(two), 1)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.find(folder_of(two), str(state))


def test_a_damaged_checkpoint_that_is_named(make_options):
    options = make_options(train={"niter": 1})
    assert train(options)
    state = checkpoint.state_file(folder_of(options), 1)
    flip_a_byte(checkpoint.weights_file(folder_of(options), 1))
    named = make_options("other", path={"resume_state": str(state)})
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(state))}: damaged checkpoint \(.*00000001_G.*SHA-256"):
        train(named)
    assert not folder_of(named).exists()


def test_damaged_weights_are_not_tested_silently(make_options, caplog):
    options = make_options(train={"niter": 2}, logger=EVERY)
    assert train(options)
    first, second = (checkpoint.weights_file(folder_of(options), number) for number in (1, 2))
    assert weights.locate_for_test(options) == second
    flip_a_byte(second)
    assert weights.locate_for_test(options) == first
    assert f"{second}: damaged, its SHA-256 is not the one noted in checksums; it is passed over" in caplog.text
    with pytest.raises(WeightsError, match=r"damaged.*or delete that checksum if the change was meant"):
        weights.locate(str(second))
    checksums.place(folder_of(options), 2).unlink()
    assert weights.locate(str(second)) == second


def test_what_is_passed_over_is_said_once(two, make_options, caplog):
    newest = checkpoint.ema_file(folder_of(two), 2)
    flip_a_byte(newest)
    assert train(make_options("next", train={"niter": 1}, path={"pretrain_model_G": str(folder_of(two))}))
    assert [name in caplog.text for name in (f"{newest}: damaged", "loaded network")] == [True, True]
    assert caplog.text.count("it is passed over") == 1
    others = [file for file in (folder_of(two) / "models").iterdir() if file != newest]
    for file in others:
        flip_a_byte(file)
    caplog.clear()
    with pytest.raises(WeightsError, match="an experiment folder with models"):
        weights.locate_for_test(two)
    assert caplog.text.count("it is passed over") == len(others) + 1


# What is kept


def test_all_are_kept_by_default(make_options):
    options = make_options(logger=EVERY)
    assert train(options)
    assert iterations_of(options) == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def bits(monkeypatch):
    """Make validations measure the given bits per dimension, one after the other."""
    evaluate = Evaluator.evaluate

    def measuring(*values):
        left = list(values)

        def measured(self, *arguments, **keywords):
            summary, found = evaluate(self, *arguments, **keywords)
            return {**summary, "bits_per_dim": left.pop(0)}, found

        monkeypatch.setattr(Evaluator, "evaluate", measured)

    return measuring


@pytest.mark.parametrize(
    ("logger", "values", "kept"),
    [
        ({"keep_last": 1}, (5, 4, 3, 2, 1, 0), [6]),
        ({"keep_last": 2}, (5, 1, 3, 2, 4, 6), [2, 5, 6]),
        ({"keep_last": 2, "keep_every": 3}, (1, 2, float("inf"), 0, 3, 3), [3, 4, 5, 6]),
        ({"keep_last": 9}, (1, 1, 1, 1, 1, 1), [1, 2, 3, 4, 5, 6]),
    ],
    ids=str,
)
def test_newest_best_and_regular_ones_are_kept(make_options, bits, caplog, logger, values, kept):
    bits(*values)
    options = make_options(train={"val_freq": 1, "ema": 0.5}, logger={**EVERY, **logger})
    assert train(options)
    assert iterations_of(options) == kept
    for folder in ("models", "checksums"):
        assert sorted({int(file.name[:8]) for file in (folder_of(options) / folder).iterdir()}) == kept
    best = min(range(6), key=lambda index: values[index])
    assert saved_at(options, 6)["best"] == (best + 1, values[best])
    assert f"best validation with a checkpoint: iteration {best + 1}" in caplog.text


def test_the_best_outlives_a_resumed_run(make_options, bits, interrupt):
    settings = {"train": {"val_freq": 1}, "logger": {**EVERY, "keep_last": 1}}
    bits(3, 1, 2, 4, 5, 6)
    interrupt(3)
    assert not train(make_options(**settings))
    assert iterations_of(make_options()) == [2, 3]
    interrupt(None)
    assert train(make_options(path={"resume_state": "auto"}, **settings))
    assert iterations_of(make_options()) == [2, 6]


def test_nothing_is_removed_while_the_newest_is_damaged(make_options):
    options = make_options(logger=EVERY)
    assert train(options)
    flip_a_byte(checkpoint.state_file(folder_of(options), 6))
    keep = options.logger.model_copy(update={"keep_last": 1})
    checkpoint.prune(folder_of(options), keep, None)
    assert iterations_of(options) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        ("{keep_every: 5000}", r"logger\.keep_every: expected logger\.keep_last beside it"),
        (
            "{keep_last: 1, keep_every: 7}",
            r"logger\.keep_every: expected a multiple of .* = 5000, got 7",
        ),
        ("{keep_last: 0}", r"logger\.keep_last"),
    ],
)
def test_what_would_have_no_effect(tmp_path, logger, message):
    (tmp_path / "run.yml").write_text(f"name: x\nmodel: SRFlow\nlogger: {logger}\n")
    with pytest.raises(OptionsError, match=message):
        load(tmp_path / "run.yml")


# Random states


def test_all_generators_are_restored():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item(), np.random.randn()

    np.random.randn()
    states = checkpoint.capture_generators()
    expected = draw()
    checkpoint.restore_generators(states)
    assert draw() == expected


def test_a_run_leaves_the_global_generator_alone(make_options, interrupt):
    interrupt(3)
    train(make_options("parts"))
    interrupt(None)
    train(make_options("parts", path={"resume_state": "auto"}))
    train(make_options("whole"))
    states = [saved_at(make_options(name), 6)["random"]["torch"] for name in ("parts", "whole")]
    assert torch.equal(*states)


# No room


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_full_disk_leaves_the_older_checkpoint(make_options, monkeypatch, caplog, nth):
    options = make_options(train={"niter": 2, "ema": 0.5, "val_freq": 100}, logger=EVERY)
    fsync, save, left = os.fsync, checkpoint.save, []

    def full(handle):
        if left and left.pop() == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    def saving(run):
        left[:] = ["full", *["room"] * (nth - 1)] if run.progress.iteration == 2 else []
        save(run)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(checkpoint, "save", saving)
    assert engine.run(options) != 0
    older = checkpoint.state_file(folder_of(options), 1)
    assert "cannot be written (No space left on device)" in caplog.text
    assert f"Iteration 2 is not saved. {older} is intact; go on with --resume auto." in caplog.text
    assert "Traceback" not in caplog.text
    assert checkpoint.find(folder_of(options), "auto") == older
    assert not list(folder_of(options).glob("*/00000002*"))
    monkeypatch.undo()
    assert train(make_options(train={"niter": 2, "ema": 0.5}, path={"resume_state": "auto"}, logger=EVERY))
    assert average_at(options, 2)


def test_a_place_that_is_no_folder(make_options, tmp_path, caplog):
    (tmp_path / "file").touch()
    options = make_options(path={"experiments": str(tmp_path / "file")})
    assert engine.run(options) != 0
    assert re.search(r"file/tiny.*: cannot be written \(Not a directory\)", caplog.text)


# Processes that are killed. They are forked from a server that has imported everything.


@pytest.fixture(scope="module")
def forks():
    context = multiprocessing.get_context("forkserver")
    # Adam imports the last of them, which takes longest.
    context.set_forkserver_preload(["robustflow.training.engine", "training_runs", "skimage.data", "torch._dynamo"])
    process = context.Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    return context


def run_in_fork(options, *, writes=0, seconds=0.0, limit=None, said=None):
    """Train; the process is killed at the n-th call that finishes a file or so long after, or may write small files."""
    torch.set_num_threads(1)
    os.dup2(os.open(said or os.devnull, os.O_WRONLY | os.O_CREAT), 2)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    calls = itertools.count(1)

    def counted(function):
        def call(*arguments):
            if next(calls) == writes:
                if seconds == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return function(*arguments)

        return call

    files.os.fsync, files.os.replace = counted(os.fsync), counted(os.replace)
    os._exit(engine.run(options))


def status_of(forks, *arguments, **keywords):
    """Exit status of a run in a process of its own."""
    process = forks.Process(target=run_in_fork, args=arguments, kwargs=keywords)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_run_killed_20_times_ends_as_if_it_never_was(make_options, forks):
    choice = random.Random(0)
    settings = {
        "train": {"niter": 60, "val_freq": 10, "ema": 0.9},
        "val": {"n_sample": 1},
        "logger": {"save_checkpoint_freq": 2, "keep_last": 2, "print_freq": 60},
    }
    began = time.monotonic()
    assert status_of(forks, make_options("whole", **settings)) == 0
    duration = time.monotonic() - began

    options = make_options("killed", path={"resume_state": "auto"}, **settings)
    reached, killed = [], 0
    for kill in range(20):
        # In the midst of writing, or up to three iterations later (the first run may have been slow: it compiles).
        later = choice.uniform(0, min(3 * duration / 60, 0.15)) if kill % 2 == 0 else 0.0
        status = status_of(forks, options, writes=choice.randint(2, 14), seconds=later)
        killed += status == -signal.SIGKILL
        state = checkpoint.find(folder_of(options), "auto")
        reached.append(0 if state is None else int(state.stem))
    assert reached == sorted(reached), "a kill loses nothing that was saved"
    assert killed == 20
    assert status_of(forks, options) == 0
    assert_same_end(make_options("whole"), make_options("killed"), 60)
    both = [average_at(make_options(name), 60) for name in ("whole", "killed")]
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())
    for key in ("best", "validated", "non_finite"):
        assert saved_at(make_options("whole"), 60)[key] == saved_at(options, 60)[key]
    for folder in ("models", "training_state", "checksums"):
        assert not list((folder_of(options) / folder).glob(".*"))


@pytest.mark.parametrize(
    ("limit", "file"),
    [
        (1_000, "options.yml"),
        (20_000, "models/00000003_G.safetensors"),
        (300_000, "training_state/00000003.state"),
        (1_000_000, "train.log"),
    ],
)
def test_files_that_become_too_large(make_options, forks, tmp_path, limit, file):
    options = make_options(train={"niter": 40, "val_freq": 100})
    (folder_of(options)).mkdir(parents=True)
    (folder_of(options) / "train.log").write_bytes(bytes(999_900 if file == "train.log" else 0))
    options = options.model_copy(update={"path": options.path.model_copy(update={"resume_state": "auto"})})
    assert status_of(forks, options, limit=limit, said=tmp_path / "said") in (1, 2)
    said = (tmp_path / "said").read_text()
    assert re.search(rf"error: .*/tiny/{file}: cannot be written \(File too large\)", said), said
    assert "Traceback" not in said, said


def test_tensorboard_files_that_become_too_large(make_options, forks, tmp_path):
    often = {"train": {"niter": 40, "val_freq": 1}, "logger": {"save_checkpoint_freq": 100, "print_freq": 100}}
    assert status_of(forks, make_options(**often), limit=12_000, said=tmp_path / "said") in (1, 2)
    said = (tmp_path / "said").read_text()
    assert re.search(r"error: .*/tiny/tensorboard: cannot be written \(File too large\)", said), said
    assert "Traceback" not in said, said
