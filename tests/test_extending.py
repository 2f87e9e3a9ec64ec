"""What a third party can add, each in one file, as the documentation shows it: trained, tested and compared."""

import csv
import json
import re
import sys

import pytest
import readme

from robustflow.commands import compare, evaluate
from robustflow.models import data_sets
from robustflow.models.loading import load, load_model
from robustflow.options import load as options_load
from robustflow.training import engine

BLOCKS = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", readme.EXTENDING, re.DOTALL)
RUN = """
name: mine
model: {{type: residual, noise_std: 0.01}}
device: cpu
plugins: [{plugins}]
datasets:
  train: {{mode: bundled, split: train, GT_size: 16, batch_size: 2, degrade: [{{type: fog, density: 0.3}}]}}
  val: {{mode: bundled, split: test, GT_size: 16, n_crops: 1}}
  test_fog: {{mode: bundled, split: test, GT_size: 16, n_crops: 2, degrade: [{{type: fog, density: 0.5}}]}}
network_G: {{encoder: thin, nf: 8, flow: {{K: 1, L: 2, hidden_channels: 8, coupling: {{type: shift, limit: 0.5}}}}}}
train: {{niter: 2, ood_patches: 0}}
val: {{heats: [0.9], n_sample: 2}}
"""


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Options of a run that uses one of each, in files beside it."""
    monkeypatch.chdir(tmp_path)
    # As of a command that is installed.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    for name, code in BLOCKS:
        (tmp_path / f"mine_{name}.py").write_text(code)
    (tmp_path / "run.yml").write_text(RUN.format(plugins=", ".join(f"mine_{name}" for name, _ in BLOCKS)))
    return options_load.load("run.yml")


def test_each_is_short():
    assert [name for name, _ in BLOCKS] == ["my_maps", "my_fog", "my_metrics", "my_encoder", "my_model"]
    assert all(len([line for line in code.splitlines() if line]) <= 25 for _, code in BLOCKS)


def test_one_of_each_in_a_run(options, tmp_path):
    assert engine.run(options) == 0
    model = load_model(options)
    assert (type(model).__name__, type(model.encoder).__name__) == ("Residual", "Thin")
    assert type(model.flow.levels[0].steps[0].coupling.elementwise).__name__ == "Shift"
    assert type(load(tmp_path / "experiments/mine", device="cpu")) is type(model)
    fogs = [dataset.degrade[0].density for key, dataset in options.datasets.items() if key != "val"]
    assert fogs == [0.3, 0.5]
    assert "mae_t0.9 " in (tmp_path / "experiments/mine/train.log").read_text()
    clean = options.datasets["test_fog"].model_copy(update={"degrade": ()})
    foggy, clear = (data_sets.evaluation_set(options, each)[0].lr for each in (options.datasets["test_fog"], clean))
    assert foggy.double().mean() > clear.double().mean()

    assert evaluate.run(options, None, None) == 0
    place = tmp_path / "results/mine"
    of_heat = json.loads((place / "metrics.json").read_text())["datasets"]["test_fog"]["heats"]["0.9"]
    with (place / "metrics.csv").open(newline="") as file:
        values = [float(row["mae"]) for row in csv.DictReader(file)]
    assert of_heat["mae"] == pytest.approx(sum(values) / len(values))
    assert "MAE" in (place / "report.html").read_text()
    assert compare.main([str(place), str(place), "--output", str(tmp_path / "both")]) == 0
    for end in ("md", "csv", "tex"):
        assert re.search("mae", (tmp_path / "both" / f"summary.{end}").read_text(), re.IGNORECASE)
