"""`--check`: everything is tried, nothing is left behind, estimates are near the truth."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustflow.errors import UserError
from robustflow.options import load as options_load
from robustflow.training import check, engine


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
    assert check._estimate(options, 1.0, 1.0, 1).n_checkpoints == kept


def test_mistakes_come_out_as_in_training(make_options, caplog, tmp_path):
    options = make_options(network_G={"train_RRDB_delay": 0.5})
    assert engine.run(options, check=True) == 2
    assert "the encoder would be frozen with random weights" in caplog.text
    assert not (tmp_path / "experiments").exists()


def test_test_sets_are_opened_too(make_options):
    options = make_options()
    wrong = type(options.datasets["val"]).model_validate({"mode": "bundled", "split": "test", "GT_size": 4096})
    options = options.model_copy(update={"datasets": {**options.datasets, "test_large": wrong}})
    with pytest.raises(UserError, match="expected at least 4096 x 4096"):
        check.check(options)


def test_the_memory_estimate_is_near_the_peak_of_the_run(make_options, tmp_path):
    """Both in processes of their own: a peak counts what a process did before."""
    file = tmp_path / "options.yml"
    options_load.save(make_options(train={"niter": 12, "val_freq": 6}), file)
    loaded = f"from robustflow.options.load import load; options = load({str(file)!r})"

    def printed(code):
        done = subprocess.run(
            [sys.executable, "-c", f"{loaded}; {code}"], capture_output=True, text=True, timeout=120, check=True
        )
        return float(done.stdout.split()[-1])

    whole = printed(
        "from robustflow.training.trainer import train; train(options)"
        "; from robustflow import memory; print(memory.peak() / 2**30)"
    )
    found = "import re; print(re.search(r'memory +([0-9.]+) GiB', check(options))[1])"
    assert printed(f"from robustflow.training.check import check; {found}") == pytest.approx(whole, rel=0.3)
    assert Path(tmp_path / "experiments" / "tiny").is_dir()
