"""How many calls of ours lie between a command and the spline's formula: a reader follows them by hand."""

import runpy
import sys
import traceback
from pathlib import Path

import pytest

from robustflow.bijections.elementwise.rational_quadratic import RationalQuadratic

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


def run(command, places, patch):
    """Run a command; the calls of ours that lead to the map's last evaluation and to its last inversion."""
    found = {}

    def watch(name):
        function = getattr(RationalQuadratic, name)

        def watched(*arguments):
            frames = traceback.extract_stack()[:-1]
            # Not those of an environment inside the checkout.
            ours = (f"{ROOT}/codes/", f"{ROOT}/{command}")
            found[name] = [f.name for f in frames if f.filename.startswith(ours)] + [name]
            return function(*arguments)

        patch.setattr(RationalQuadratic, name, staticmethod(watched))

    watch("evaluate"), watch("invert")
    patch.chdir(ROOT)
    patch.setattr(sys, "argv", [command, "-opt", "confs/demo.yml", "--override", OVERRIDE + places])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(f"{ROOT}/{command}", run_name="__main__")
    assert ended.value.code == 0
    return list(found.values())


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Those of training a model, and of testing it."""
    place = tmp_path_factory.mktemp("runs")
    places = f"|path.experiments={place / 'experiments'}|path.results={place / 'results'}"
    found = {}
    for command in ("train.py", "test.py"):
        with pytest.MonkeyPatch.context() as patch:
            found[command] = run(command, places, patch)
    return found


@pytest.mark.parametrize(("command", "limit"), [("train.py", 15), ("test.py", 16)])
def test_calls_from_a_command_to_the_formula(command, limit, calls):
    assert calls[command] and all(len(each) <= limit for each in calls[command]), calls[command]
