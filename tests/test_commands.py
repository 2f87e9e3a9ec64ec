"""The commands as a user calls them: in processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import robustflow
from robustflow.commands import test as testing
from robustflow.data.images import read_image, write_png

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
TINY = {
    "device": "cpu",
    "network_G.nf": 8,
    "network_G.nb": 1,
    "network_G.gc": 4,
    "network_G.flow.K": 1,
    "network_G.flow.S": "[0, 1]",
    "network_G.flow.hidden_channels": 8,
    "datasets.train.GT_size": 16,
    "datasets.train.batch_size": 2,
    "datasets.val.n_crops": 2,
    "datasets.val.GT_size": 16,
    "datasets.test_held_out.n_crops": 2,
    "datasets.test_held_out.GT_size": 16,
    "datasets.test_text": "null",
    "datasets.test_enhanced": "null",
    "datasets.test_noise": "null",
    "datasets.test_gain": "null",
    "datasets.test_inverted.n_crops": 1,
    "train.niter": 3,
    "train.ood_patches": 10,
    "train.val_freq": 2,
    "train.warmup_iter": 0,
    "val.n_sample": 2,
    "logger.print_freq": 1,
    "logger.save_checkpoint_freq": 2,
}


def overrides(folder, **more):
    places = {"path.experiments": folder / "experiments", "path.results": folder / "results"}
    return "|".join(f"{key}={value}" for key, value in {**TINY, **places, **more}.items())


def command(script, *arguments):
    return [sys.executable, script, "-opt", "confs/demo.yml", *map(str, arguments)]


def environment():
    # One thread each: tiny networks are slower with more.
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def call(script, *arguments):
    """Run a script to its end; no failure may show a traceback."""
    done = subprocess.run(
        command(script, *arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a finished training run."""
    folder = tmp_path_factory.mktemp("trained")
    done = call("train.py", "--override", overrides(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_training_leaves_checkpoints_and_logs(trained):
    folder = trained / "experiments" / "demo"
    assert [file.name for file in sorted((folder / "models").iterdir())] == [
        "00000002_G.safetensors",
        "00000003_G.ood.safetensors",
        "00000003_G.safetensors",
    ]
    assert [file.name for file in sorted((folder / "training_state").iterdir())] == ["00000002.state", "00000003.state"]
    assert "iteration 3: val" in (folder / "train.log").read_text()
    assert (folder / "options.yml").is_file()
    assert list((folder / "tensorboard").iterdir())


def test_testing_takes_the_newest_weights(trained):
    done = call("test.py", "--override", overrides(trained))
    assert done.returncode == 0, done.stderr
    metrics = json.loads((trained / "results" / "demo" / "metrics.json").read_text())
    assert metrics["weights"].endswith("00000003_G.safetensors")
    assert {name: data_set["n_images"] for name, data_set in metrics["datasets"].items()} == {
        "held-out photographs": 2,
        "inverted LR": 1,
    }
    assert "held-out photographs" in done.stdout
    assert "%PixelErr" in done.stdout
    assert "report.html" in done.stderr


def test_own_images_of_any_size_come_out_four_times_as_large(trained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    for name, size in (("dot", (1, 1)), ("strip", (3, 5))):
        write_png(tmp_path / "in" / f"{name}.png", torch.rand(3, *size, generator=torch.Generator().manual_seed(0)))
    weights = trained / "experiments" / "demo"
    places = ("--weights", weights, "--input", tmp_path / "in", "--output", tmp_path / "out")
    words = command("test.py", *places, "--override", overrides(tmp_path), "--quiet")[1:]
    # As a user does who calls main; a process of its own is the test before.
    assert testing.main(words[1:]) == 0
    told = capfd.readouterr()
    assert "%PixelErr" in told.out
    assert "report.html" not in told.err
    assert read_image(tmp_path / "out" / "input" / "dot_t0.9_01.png").shape == (3, 4, 4)
    assert read_image(tmp_path / "out" / "input" / "strip_t0.9_01.png").shape == (3, 12, 20)
    (metrics,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["datasets"].values()
    assert metrics["heats"]["0.9"]["psnr"] is None


def start_and_interrupt(number, folder):
    """Start a long training run, send the signal to all its processes as a terminal does, and wait for its end."""
    more = {"train.niter": 100_000, "train.val_freq": 100_000, "datasets.train.n_workers": 2}
    with open(folder / "stderr", "w+") as stderr:
        process = subprocess.Popen(
            command("train.py", "--override", overrides(folder, **more)),
            cwd=ROOT,
            env=environment(),
            stderr=stderr,
            start_new_session=True,
        )
        try:
            wait_for(folder / "experiments" / "demo" / "train.log", "iteration 3/", process)
            os.killpg(process.pid, number)
            status = process.wait(timeout=60)
        finally:
            if process.poll() is None:
                process.kill()
        stderr.seek(0)
        return status, stderr.read()


def wait_for(file, text, process):
    deadline = time.monotonic() + 90
    while not (file.is_file() and text in file.read_text()):
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, f"no '{text}' in {file}"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_is_saved_and_goes_on(tmp_path, number):
    status, stderr = start_and_interrupt(number, tmp_path)
    assert "Traceback" not in stderr, stderr
    assert status == 130, stderr
    experiment = tmp_path / "experiments" / "demo"
    saved = max(int(file.stem) for file in (experiment / "training_state").iterdir())
    assert f"interrupted: saved iteration {saved}; go on with --resume auto" in stderr
    assert (experiment / "models" / f"{saved:08d}_G.safetensors").is_file()
    if number == signal.SIGINT:
        resume(tmp_path, saved)


def resume(folder, saved):
    """Go on for two iterations; what the first run wrote stays."""
    experiment = folder / "experiments" / "demo"
    before = (experiment / "train.log").read_text()
    more = {"train.niter": saved + 2, "train.val_freq": saved + 2}
    done = call("train.py", "--resume", "auto", "--override", overrides(folder, **more))
    assert done.returncode == 0, done.stderr
    assert f"at iteration {saved}" in done.stderr
    log = (experiment / "train.log").read_text()
    assert log.startswith(before)
    done_after = re.findall(r" iteration (\d+)/(\d+): ", log[len(before) :])
    assert done_after[0] == (str(saved + 1), str(saved + 2))
    assert (experiment / "models" / f"{saved + 2:08d}_G.safetensors").is_file()


NOT_INSTALLED = """
import importlib.metadata, runpy, sys

def version(name):
    if name == "robustflow":
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)

installed, importlib.metadata.version = importlib.metadata.version, version
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [path for path in sys.path if not path.endswith("codes")]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "mistakes"),
    [
        ("train.py", ["nowhere.state"]),
        ("test.py", ["experiments/demo: expected a .safetensors or .pth file, ", "train first, or correct path."]),
    ],
)
def test_a_checkout_runs_without_installation_from_anywhere(tmp_path, script, mistakes):
    words = [str(ROOT / script), "-opt", str(ROOT / "confs" / "demo.yml")]
    resumed = ["--resume", "nowhere.state"] if script == "train.py" else []
    environment_without = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", NOT_INSTALLED, *words, *resumed, "--override", overrides(tmp_path)],
        cwd=tmp_path,
        env=environment_without,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for text in mistakes:
        assert text in done.stderr
    assert not (tmp_path / "results").exists()


def test_the_version_is_that_of_the_package():
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", robustflow.__version__)
