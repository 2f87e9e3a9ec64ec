"""A metric of a third party: one class in one file outside the package, shown in everything that shows metrics."""

import csv
import json
import re
import sys

import pytest
import readme
import torch

from robustflow.commands import compare as comparison
from robustflow.commands import evaluate
from robustflow.data.images import to_uint8
from robustflow.evaluation.metrics import Sample, Target, choose
from robustflow.models import weights
from robustflow.options.load import load
from robustflow.registry import METRICS
from robustflow.report import compare, tables
from robustflow.report.results import read

NO_PAGE = pytest.mark.usefixtures("no_page")
# The documentation's own, and one of sets of samples.
SOURCE = next(
    block for block in re.findall(r"```python\n(.*?)```", readme.EXTENDING, re.DOTALL) if "@METRICS.register" in block
)
MORE = """
from robustflow.evaluation.metrics import SetMetric


@METRICS.register("extreme")
class Extreme(SetMetric):
    label, better = "extreme value", "low"

    def of_samples(self, samples, target):
        return samples.abs().max().item()
"""
EXAMPLE = """
name: tiny
model: SRFlow
device: cpu
plugins: [{module}]
datasets: {{test_a: {{mode: bundled, split: test, GT_size: 16, n_crops: 2}}}}
network_G: {{nf: 8, nb: 1, gc: 4, flow: {{K: 1, L: 2, hidden_channels: 8}}}}
path: {{experiments: experiments, results: results}}
val: {{heats: [0.5, 0.9], n_sample: 2}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, make_model, request):
    """A results folder of a run whose options name the plugin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = f"my_metrics_{request.node.name}"
    (tmp_path / f"{module}.py").write_text(SOURCE + MORE)
    (tmp_path / "run.yml").write_text(EXAMPLE.format(module=module))
    options = load(tmp_path / "run.yml")
    weights.save(tmp_path / "experiments/tiny/models/00000005_G.safetensors", make_model(options), options, 5)
    evaluate.evaluate(options, None, tmp_path / "out")
    return tmp_path / "out"


def test_it_is_in_every_file_of_the_results(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    of_heat = metrics["datasets"]["test_a"]["heats"]["0.9"]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["heat"] == "0.9"]
    assert of_heat["mae"] == pytest.approx(sum(float(row["mae"]) for row in rows) / len(rows))
    assert len(of_heat["best_of_n"]["mae"]) == 2
    assert of_heat["extreme"] == pytest.approx((float(rows[0]["extreme"]) + float(rows[2]["extreme"])) / 2)
    page = (folder / "report.html").read_text()
    for shown in ("MAE ↓", "extreme value", "Best MAE of n samples", "MAE against τ"):
        assert shown.split(" ↓")[0] in page
    assert "mean |sample - ground truth|, RGB, uint8" in page
    assert "MAE" in tables.table(metrics)


def test_it_is_in_a_comparison_where_the_plugin_is_not(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "experiments")
    sys.path.remove(str(tmp_path))
    for module in [name for name in sys.modules if name.startswith("my_metrics")]:
        monkeypatch.delitem(sys.modules, module)
    for name in ("mae", "extreme"):
        METRICS._entries.pop(name)
    assert comparison.main([str(folder), str(folder), "--output", str(tmp_path / "both")]) == 0
    markdown, table, latex = ((tmp_path / "both" / f"summary.{end}").read_text() for end in ("md", "csv", "tex"))
    assert "|   MAE |" in markdown.splitlines()[4]
    assert "Δ MAE" in markdown
    assert {"mae", "extreme"} <= set(table.splitlines()[0].split(","))
    assert "MAE" in latex.splitlines()[2]
    assert "MAE" in (tmp_path / "both" / "report.html").read_text()


@NO_PAGE
def test_a_run_without_it_can_be_compared(folder, tmp_path):
    for name in ("mae", "extreme"):
        METRICS._entries.pop(name)
    evaluate.evaluate(load(tmp_path / "run.yml"), None, tmp_path / "without")
    runs = [read(tmp_path / "without"), read(folder)]
    compare.check_protocols(runs)
    header, _, first, second, *_ = compare.table(runs, "markdown").splitlines()
    place = [cell.strip() for cell in header.split("|")].index("MAE")
    assert first.split("|")[place].strip() == "–"
    assert float(second.split("|")[place]) > 0


@NO_PAGE
def test_records_without_it_are_made_anew(folder, tmp_path):
    file = next((folder / "records").rglob("*.json"))
    expected, record = file.read_bytes(), json.loads(file.read_text())
    for row in record["rows"]:
        del row["mae"]
    file.write_text(json.dumps(record))
    evaluate.evaluate(load(tmp_path / "run.yml"), None, folder)
    assert file.read_bytes() == expected


def test_all_metrics_say_what_they_are():
    for metric in choose():
        assert metric.label
        assert metric.better in ("high", "low", None)
        assert all(column.label for column in metric.columns)


@NO_PAGE
def test_what_a_metric_needs_is_asked_for(folder):
    mae = next(metric for metric in choose() if metric.name == "mae")
    image = torch.rand(3, 4, 4)
    assert mae.measure(Sample(image, target := Target(to_uint8(image), image, None)), target) == {"mae": None}
