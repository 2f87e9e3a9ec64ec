"""How many calls of ours lie between a command and the spline's formula: a reader follows them by hand."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETS = ("text", "enhanced", "noise", "gain", "inverted")
OVERRIDE = "|".join(
    [
        "network_G={nf: 8, nb: 1, gc: 4, flow: {K: 1, S: [0, 1], hidden_channels: 8, coupling: rq_spline}}",
        "train={niter: 2, val_freq: 2, ood_patches: 0}",
        "val={n_sample: 1, heats: [0.5]}",
        "datasets.train={GT_size: 16, batch_size: 2, n_workers: 0}",
        "datasets.val=null",
        "datasets.test_held_out={n_crops: 1, GT_size: 16}",
        *(f"datasets.test_{name}=null" for name in SETS),
    ]
)
# Runs a command; prints the calls of ours that lead to the map's last evaluation and to its last inversion.
PROGRAM = """
import runpy, sys, traceback
sys.path.insert(0, "codes")
from robustflow.bijections.elementwise.rational_quadratic import RationalQuadratic

found = {}

def watch(name):
    function = getattr(RationalQuadratic, name)

    def watched(*arguments):
        frames = traceback.extract_stack()[:-1]
        # Not those of an environment inside the checkout.
        ours = (f"{ROOT}/codes/", f"{ROOT}/{sys.argv[0]}")
        found[name] = [f.name for f in frames if f.filename.startswith(ours)] + [name]
        return function(*arguments)

    setattr(RationalQuadratic, name, staticmethod(watched))

ROOT = sys.argv[1]
watch("evaluate"), watch("invert")
sys.argv = sys.argv[2:]
try:
    runpy.run_path(f"{ROOT}/{sys.argv[0]}", run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
for calls in found.values():
    sys.stderr.write("calls: " + " > ".join(calls) + "\\n")
"""


def run(command, places):
    """The calls on each way from a command to the formula."""
    arguments = [str(ROOT), command, "-opt", "confs/demo.yml", "--override", OVERRIDE + places]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split(" > ") for line in done.stderr.splitlines() if line.startswith("calls: ")]


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Those of training a model, and of testing it."""
    place = tmp_path_factory.mktemp("runs")
    places = f"|path.experiments={place / 'experiments'}|path.results={place / 'results'}"
    return {command: run(command, places) for command in ("train.py", "test.py")}


@pytest.mark.parametrize(("command", "limit"), [("train.py", 15), ("test.py", 16)])
def test_calls_from_a_command_to_the_formula(command, limit, calls):
    assert calls[command] and all(len(each) <= limit for each in calls[command]), calls[command]
