"""Systems that lack what Linux has: imitated, in a process of its own."""

import subprocess
import sys

import tiny
from training_runs import assert_equal, weights_at

from robustflow.options.load import save
from robustflow.training.loop import train

# Loader processes are started anew, and import this file, too.
AS_ON_WINDOWS = """
import multiprocessing, os, signal, sys

sys.modules["fcntl"] = sys.modules["resource"] = None
del os.fork, os.setpgrp, os.sched_getaffinity, signal.SIGHUP, signal.SIGALRM, signal.alarm
multiprocessing.set_start_method("spawn", force=True)

from robustflow.commands.train import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def test_a_run_is_the_same_on_windows(tmp_path):
    runs = [tiny.training_options(tmp_path, name, n_workers=1, train={"niter": 2}) for name in ("here", "there")]
    assert train(runs[0])
    save(runs[1], tmp_path / "there.yml")
    (tmp_path / "as_on_windows.py").write_text(AS_ON_WINDOWS)
    command = [sys.executable, str(tmp_path / "as_on_windows.py"), "-opt", str(tmp_path / "there.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "there: cannot be locked (this system has no such locks)" in done.stderr
    assert_equal(*(weights_at(run, 2) for run in runs))
    assert not list(tmp_path.glob("experiments/.*"))
