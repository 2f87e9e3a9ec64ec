"""`--check`: everything is tried, nothing is left behind, estimates are near the truth."""

import errno
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from robustflow.options import load as options_load
from robustflow.training import check, engine
from robustflow.training.loop import train
from robustflow.utils.errors import UserError

pytestmark = pytest.mark.long


def test_a_right_run_is_reported_and_leaves_nothing(make_options, tmp_path, capsys):
    options = make_options(train={"niter": 100, "val_freq": 30})
    assert engine.run(options, check=True) == 0
    printed = capsys.readouterr().out
    assert "options, data, 5 steps, save, resume and validation are right" in printed
    assert "images      train 10, val 2" in printed
    assert re.search(r"validation  [\d.e-]+ s, 4 times", printed)
    assert re.search(r"\(100 iterations\)", printed)
    assert re.search(r"\(34 checkpoints\)", printed)
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    ("logger", "kept"),
    [({}, 200), ({"keep_last": 3}, 4), ({"keep_last": 3, "keep_every": 30}, 24), ({"keep_last": 500}, 200)],
)
def test_checkpoints_that_will_be_kept(make_options, logger, kept):
    options = make_options(train={"niter": 600}, logger={"save_checkpoint_freq": 3, **logger})
    assert check.count_checkpoints(options) == kept


def test_mistakes_come_out_as_in_training(make_options, caplog, tmp_path):
    options = make_options(network_G={"train_RRDB_delay": 0.5})
    assert engine.run(options, check=True) == 2
    assert "the encoder would be frozen with random weights" in caplog.text
    assert not (tmp_path / "experiments").exists()


def test_folders_that_cannot_be_written_to(make_options, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda place, how: place != tmp_path.resolve())
    with pytest.raises(UserError, match=r"expected a folder that can be written to, got .*; set path\.experiments"):
        check.check(make_options())


def test_test_sets_are_opened_too(make_options):
    options = make_options()
    wrong = type(options.datasets["val"]).model_validate({"mode": "bundled", "split": "test", "GT_size": 4096})
    options = options.model_copy(update={"datasets": {**options.datasets, "test_large": wrong}})
    with pytest.raises(UserError, match="expected at least 4096 x 4096"):
        check.check(options)


def test_the_memory_estimate_is_near_the_peak_of_the_run(make_options, tmp_path):
    """Both in processes of their own, less what they take before they train."""
    file = tmp_path / "options.yml"
    flow = {"K": 1, "L": 2, "S": (0, 1), "hidden_channels": 64}
    options = make_options(network_G={"nf": 16, "flow": flow}, train={"niter": 3, "val_freq": 3}, val={"n_sample": 1})
    datasets = {key: of.model_copy(update={"GT_size": 288}) for key, of in options.datasets.items()}
    options_load.save(options.model_copy(update={"datasets": datasets}), file)
    beginning = (
        "from robustflow.utils import memory; from robustflow.options.load import load\n"
        "from robustflow.training.check import check; from robustflow.training.loop import train\n"
        f"options = load({str(file)!r}); before = memory.peak() / 2**30\n"
    )

    def taken(code):
        arguments = [sys.executable, "-c", beginning + code]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=True)
        return float(done.stdout.split()[-1])

    whole = taken("train(options); print(memory.peak() / 2**30 - before)")
    estimated = taken("import re; print(float(re.search(r'memory +([0-9.]+) GiB', check(options))[1]) - before)")
    assert whole > 0.3
    assert estimated == pytest.approx(whole, rel=0.3)
    assert Path(tmp_path / "experiments" / "tiny").is_dir()


def test_what_is_said_of_a_failure_is_not_of_files_that_are_gone(make_options, caplog, spoil):
    spoil(2)
    assert engine.run(make_options(), check=True) == 1
    assert "error: iteration 2: loss nan" in caplog.text
    answer = caplog.text[caplog.text.index("error: ") :]
    assert "/tmp" not in answer
    assert "--resume" not in answer


def test_no_room_to_try_it_in(make_options, monkeypatch, tmp_path, caplog):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert engine.run(make_options(), check=True) == 2
    assert (
        f"error: {tmp_path}: expected room to try the run in, got: no space left on device; set TMPDIR" in caplog.text
    )


def test_other_weights_and_a_checkpoint_to_resume(make_options, tmp_path):
    assert "are right" in check.check(make_options(path={"model_path": str(tmp_path / "nowhere.safetensors")}))
    with pytest.raises(UserError, match="no such file"):
        check.check(make_options(path={"resume_state": str(tmp_path / "1.state")}))
    assert train(make_options(train={"niter": 2}))
    delayed = {"network_G": {"train_RRDB_delay": 0.5}, "path": {"resume_state": "auto"}}
    assert "are right" in check.check(make_options(train={"niter": 50}, **delayed))


def test_interrupted(make_options, interrupt):
    interrupt(3)
    assert engine.run(make_options(), check=True) == 130


def test_without_validation(make_options):
    options = make_options()
    options = options.model_copy(update={"datasets": {"train": options.datasets["train"]}})
    assert "5 steps, save and resume are right" in check.check(options)
