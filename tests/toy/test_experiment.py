import json
import math
from pathlib import Path

import pytest
import torch

from robustflow.commands import test, train
from robustflow.options.load import dump, load, load_any
from robustflow.options.toy import ToyOptions
from robustflow.toy import engine
from robustflow.toy.measure import measure
from robustflow.toy.run import build, draw_held_out, perform
from robustflow.toy.run import train as train_flow
from robustflow.utils.yaml_tree import OptionsError

CONF = Path(__file__).parents[2] / "confs" / "toy2d.yml"
COUPLINGS = {"affine", "affine_bounded", "rq_spline", "exp_affine", "inverse_affine", "soft_affine"}
TINY = {
    "data.n_points": 500,
    "network_G.hidden_channels": 8,
    "network_G.hidden_layers": 1,
    "train.batch_size": 50,
    "train.niter": 20,
    "train.seeds": "[0, 3]",
    "val.sigma_ood": "[1, 5]",
    "val.n_held_out": 200,
    "val.n_conditions": 5,
    "val.n_sample": 10,
    "n_workers": 0,
}

PLUGIN = """
from typing import Literal

from robustflow.bijections.base import Elementwise
from robustflow.registry import ELEMENTWISE, Options


class ShiftOptions(Options):
    type: Literal["toy_shift"] = "toy_shift"


@ELEMENTWISE.register("toy_shift", ShiftOptions)
class Shift(Elementwise):
    num_params = 1

    def forward(self, x, params):
        return x + params[:, 0], 0 * x

    def inverse(self, y, params):
        return y - params[:, 0], 0 * y
"""


def tiny(folder, **more):
    values = {**TINY, "path.results": folder, **more}
    return load_any(CONF, "|".join(f"{key}={value}" for key, value in values.items()))


def test_experiment_writes_figures_and_every_seed(tmp_path, capsys):
    assert train.run_toy(tiny(tmp_path)) == 0
    folder = tmp_path / "toy2d"
    written = {"figure.png", "layers.png", "summary.md", "summary.json", "options.yml"}
    assert {file.name for file in folder.iterdir()} == written
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("figure.png", "layers.png"))
    text = (folder / "summary.md").read_text()
    assert capsys.readouterr().out == text
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")]
    for coupling in COUPLINGS:
        for seed in "03":
            assert sum(cells[0].strip() == coupling and cells[1].strip() == seed for cells in rows) == 3
    assert text.count("**median**") == 3 * len(COUPLINGS)
    assert load_any(folder / "options.yml").couplings.keys() == COUPLINGS


def test_same_seed_same_figures_in_processes_of_their_own_with_an_own_map(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy_maps.py").write_text(PLUGIN)
    left_out = dict.fromkeys((f"couplings.{name}" for name in COUPLINGS - {"affine"}), "null")
    own = {"plugins": "[toy_maps]", "couplings.shift": "toy_shift"}
    runs = {}
    for n_workers in (0, 2):
        more = {"n_workers": n_workers, "path.results": tmp_path / str(n_workers)}
        assert "| shift" in engine.experiment(tiny(tmp_path, **left_out, **own, **more))
        runs[n_workers] = json.loads((tmp_path / str(n_workers) / "toy2d" / "summary.json").read_text())["runs"]
        for run in runs[n_workers]:
            del run["seconds"]
    assert runs[0] == runs[2]
    assert runs[0][0]["levels"] != runs[0][1]["levels"]


@pytest.mark.parametrize(
    ("condition", "n", "lr"), [("noisy", 300, 5e-3), ("constant", 100, 1e-2), ("independent", 100, 1e-2)]
)
def test_training_approaches_the_exact_entropy(condition, n, lr, tmp_path):
    options = tiny(tmp_path, **{"data.condition": condition, "train.niter": n, "train.lr_G": lr})
    short = tiny(tmp_path, **{"data.condition": condition, "train.niter": 1})
    given = {None: draw_held_out(options)[None]}
    gaps = [
        [
            perform(o, given, "rq_spline", seed).levels[None].figures["bits_gap"]
            for seed in (0, 1)  # one alone may end a few hundredths away by rounding
        ]
        for o in (options, short)
    ]
    after, before = (sum(values) / len(values) for values in gaps)
    assert -0.05 < after < 0.5
    assert after < before


def test_figures_of_known_samples(tmp_path):
    """A flow that is the identity gives the latents themselves: every figure is known."""
    options = tiny(tmp_path, **{"val.n_conditions": 100, "val.n_sample": 100})
    flow = build(options, "rq_spline", 0).eval()
    given = draw_held_out(options)[5.0]
    measured = measure(flow, given, 100, torch.Generator().manual_seed(0))
    figures = measured.figures
    assert figures["spread"] == pytest.approx(1, abs=0.02)
    assert figures["true_spread"] == pytest.approx(0.2198, abs=2e-3)
    assert figures["spread_ratio"] == pytest.approx(figures["spread"] / figures["true_spread"])
    assert figures["outside"] == pytest.approx(1 - math.erf(1.5 / 2**0.5) ** 2, abs=0.02)
    assert figures["jump"] == pytest.approx(1, abs=0.05)
    # RMS of a mean of 100 standard normal pairs.
    assert figures["centre_error"] == pytest.approx((2 / 100) ** 0.5, rel=0.2)
    assert measured.layers[0] == "latent"
    assert measured.variances.shape == (13, 2)
    assert figures["max_abs"] == measured.samples.abs().max().item()
    bits = (math.log(2 * math.pi) + given.x.square().sum(1).mean().item() / 2) / (2 * math.log(2))
    assert figures["bits_per_dim"] == pytest.approx(bits, rel=1e-5)
    assert figures["bits_gap"] == pytest.approx(bits - given.bits_per_dim, rel=1e-5)
    with torch.no_grad():
        flow.layers[3].logs.fill_(-1.0)
    figures = measure(flow, given, 100, torch.Generator().manual_seed(0)).figures
    assert (figures["jump"], figures["jump_layer"]) == (pytest.approx(math.e**2, rel=1e-4), "ActNorm 2")


def test_one_iteration_is_one_update(tmp_path):
    flow = train_flow(tiny(tmp_path, **{"train.niter": 1}), "rq_spline", 0)
    assert flow.layers[0].initialized
    rate = 5e-4  # of Adam's first update, whatever the gradient
    assert flow.layers[2].network.layers[-1].bias.abs().max().item() == pytest.approx(rate, rel=1e-3)


def test_explosion_beyond_float_is_infinite_not_lost(tmp_path):
    options = tiny(tmp_path)
    flow = build(options, "affine", 0).eval()
    with torch.no_grad():
        for layer in list(flow.layers)[::3]:
            layer.logs.fill_(-60.0)
    figures = measure(flow, draw_held_out(options)[5.0], 10, torch.Generator().manual_seed(0)).figures
    assert figures["spread"] == figures["jump"] == figures["max_abs"] == math.inf
    assert figures["outside"] == 1


def test_unknown_keys_are_errors_with_the_nearest_name(tmp_path):
    with pytest.raises(OptionsError) as caught:
        tiny(tmp_path, **{"train.nitre": 5, "couplings.affine_bounded": "{type: affine, epz: 0.1}", "scale": 4})
    text = str(caught.value)
    assert "train.nitre: unknown key; did you mean 'niter'?" in text
    assert "couplings.affine_bounded.epz: unknown key; did you mean 'eps'?" in text
    assert "scale: unknown key; known here: name, model" in text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("val.sigma_figure", 4, "expected one of val.sigma_ood"),
        ("train.batch_size", 501, "expected at most data.n_points = 500"),
        ("val.n_conditions", 201, "expected at most val.n_held_out = 200"),
        ("couplings.affine", "afine", "did you mean 'affine'"),
        ("train.seeds", "[1, 1]", "expected values that differ"),
    ],
)
def test_contradictions(key, value, message, tmp_path):
    with pytest.raises(OptionsError, match=message):
        tiny(tmp_path, **{key: value})


def test_other_commands_say_that_train_does_it_all(caplog):
    with pytest.raises(SystemExit) as caught:
        test.main(["-opt", str(CONF)])
    assert caught.value.code == 2
    assert "model: expected an image model, got 'toy2d'" in caplog.text
    with pytest.raises(OptionsError):
        load(CONF)


def test_resolved_options_run_again(tmp_path):
    options = load_any(CONF)
    assert isinstance(options, ToyOptions)
    (tmp_path / "options.yml").write_text(dump(options))
    assert load_any(tmp_path / "options.yml") == options


def test_loss_that_is_not_finite_is_reported(tmp_path, caplog):
    assert train.run_toy(tiny(tmp_path, **{"train.lr_G": 1e30})) == 1
    assert "lower train.lr_G" in caplog.text
