"""Layer traces: what is counted, which layer is named, which files are written."""

import json
import math

import numpy as np
import pytest
import torch

from robustflow import models
from robustflow.commands import evaluate as engine
from robustflow.diagnostics.trace import trace
from robustflow.diagnostics.trace.trace import LayerTrace
from robustflow.models import weights
from robustflow.options.load import load

TINY = {
    "device": "cpu",
    "network_G.nf": 8,
    "network_G.nb": 1,
    "network_G.gc": 4,
    "network_G.flow.K": 2,
    "network_G.flow.S": "[0, 1]",
    "network_G.flow.hidden_channels": 8,
    "datasets.val.n_crops": 2,
    "datasets.val.GT_size": 16,
    "datasets.test_held_out.n_crops": 2,
    "datasets.test_held_out.GT_size": 16,
    "datasets.test_gain.n_crops": 3,
    "datasets.test_gain.GT_size": 16,
    "datasets.test_gain.lr_gain": 1000,
    "datasets.test_text": "null",
    "datasets.test_enhanced": "null",
    "datasets.test_noise": "null",
    "datasets.test_inverted": "null",
    "val.heats": "[0.3, 0.9]",
    "val.n_sample": 2,
}
GAIN = "LR gain 2"


def seen(value, log_slopes, log_growth=0.0):
    growth = torch.full((len(value),), log_growth, dtype=torch.float64)
    return value, torch.as_tensor(log_slopes, dtype=torch.float64), growth


def layer_trace(*largest):
    return LayerTrace(max_abs=list(largest))


def test_a_layer_trace_counts_what_it_sees():
    found = LayerTrace()
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3)]
    slopes = [math.log(10) * torch.randn(2, 500, generator=generator) for _ in range(3)]
    for value, log_slopes in zip(values, slopes, strict=True):
        found.max_abs.append(0.0)
        found.add(*seen(value, log_slopes, math.log(10)))
    assert found.max_abs == pytest.approx([float(value.abs().max()) for value in values])
    expected = np.mean([value.double().flatten(1).var(1).numpy() for value in values])
    assert found.variance == pytest.approx(expected)
    logs = (torch.cat(slopes).double() / math.log(10)).flatten().numpy()
    assert found.smallest_slope == pytest.approx(10 ** -logs.max())
    assert found.quantiles() == pytest.approx(np.quantile(logs, np.array(trace.PERCENTS) / 100), abs=0.03)
    assert found.quantiles()[0] == pytest.approx(logs.min())
    assert found.log_growths == pytest.approx([1.0] * 6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_infinite(bad):
    found = LayerTrace(max_abs=[0.0])
    value = torch.zeros(2, 1, 2, 2)
    value[1, 0, 0, 0] = bad
    found.add(*seen(value, [bad], bad))
    assert found.max_abs == [math.inf]
    assert found.variance == math.inf
    assert found.smallest_slope == (math.inf if bad < 0 else 0)
    assert found.log_growths == [-math.inf if bad < 0 else math.inf] * 2


def test_the_first_layer_is_that_of_most_inputs():
    reference = [layer_trace(1, 2), layer_trace(1, 2), layer_trace(4, 1)]
    found = [layer_trace(1, 201, 1, 199), layer_trace(500, 1, 300, 1), layer_trace(math.nan, math.inf, 1, 1)]
    compared = trace.find_explosion(found, reference, ["a", "b", "c"])
    assert list(compared.values()) == [3, "b", 2, math.inf, "c"]
    none = trace.find_explosion(reference, reference, ["a", "b", "c"])
    assert list(none.values()) == [0, None, 0, 1.0, "a"]


@pytest.fixture
def make(tmp_path):
    """Options of a tiny model, and its weights changed by a function and saved."""

    def made(change, **more):
        values = {**TINY, "path.experiments": tmp_path / "experiments", "path.results": tmp_path / "results", **more}
        options = load("confs/demo.yml", "|".join(f"{key}={value}" for key, value in values.items()))
        torch.manual_seed(0)
        model = models.build(options)
        change(model.network)
        weights.save(tmp_path / "experiments/demo/models/00000001_G.safetensors", model, options, 1)
        return options

    return made


def test_growths_of_a_kind_are_those_of_all_its_layers():
    growths = [1.0, -1.0, 2.0, 0.5], [9.0, 9.0, 9.0, 9.0], [0.5, 3.0, 0.25, math.nan]
    slopes = (-1.0, 2.0), (0.0, 7.0), (-5.0, 1.0)
    found = [LayerTrace(log_growths=own, log_slopes=of) for own, of in zip(growths, slopes, strict=True)]
    of_kind = trace.sum_by_kind(found, ["coupling", "injector", "coupling"])
    assert list(of_kind) == ["coupling", "injector"]
    # 1.5, 2, 2.25 and infinity, the upper median.
    expected = {"log10_growth_median": 2.25, "log10_growth_max": math.inf, "log10_inverse_slope_max": 2.0}
    assert of_kind["coupling"] == expected


def test_the_planted_layer_is_named(make, tmp_path, capsys):
    """Every map is the identity but one injector's, whose scale follows the condition."""

    def plant(network):
        head = network.levels[0].steps[0].injector.network.get_submodule("head")
        torch.nn.init.normal_(head.weight, std=1.0)

    assert engine.run(make(plant), None, None, trace=True) == 0
    folder = tmp_path / "results" / "demo" / "trace"
    assert {file.name for file in folder.iterdir()} == {"trace.json", "trace.md", "trace.png", "growth.png"}
    report = json.loads((folder / "trace.json").read_text())
    assert report["reference"] == "validation"
    assert list(report["datasets"]) == ["validation", "held-out photographs", GAIN]
    names = [layer["name"] for layer in report["layers"]]
    entry = report["datasets"][GAIN]
    assert entry["first_exploding_layer"] == "level 1 step 1 injector"
    assert entry["exploding_images"] == entry["first_exploding_images"] == entry["n_images"] == 3
    place = names.index("level 1 step 1 injector")
    assert entry["smallest_slope"][place] == pytest.approx(1e-4, rel=0.01)
    assert entry["smallest_slope"][place - 1] > 0.5
    assert entry["by_kind"]["injector"]["log10_inverse_slope_max"] == pytest.approx(4, abs=0.01)
    assert report["datasets"]["held-out photographs"]["first_exploding_layer"] is None
    assert report["temperature"] == 0.9
    pairs = list(zip(entry["log10_growth_median"], entry["log10_growth_max"], strict=True))
    assert all(middle <= most for middle, most in pairs) and any(middle < most for middle, most in pairs)

    printed = capsys.readouterr().out
    assert printed.strip() == (folder / "trace.md").read_text().strip()
    assert f"{GAIN}: explodes for 3 of 3 inputs, first in level 1 step 1 injector (3 of them)" in printed
    assert "held-out photographs: no layer explodes (at most" in printed
    assert "no bound for split prior" in printed


def test_a_split_prior_that_follows_the_input_is_named_and_its_bound_helps(make, tmp_path):
    def plant(network):
        # Shifts that follow the condition move the channels that stay, and these set the log-std.
        head = network.levels[1].steps[0].injector.network.get_submodule("head")
        torch.nn.init.normal_(head.weight[-len(head.weight) // 4 :], std=0.3)
        torch.nn.init.normal_(network.levels[0].split_prior.network.weight, std=0.2)

    def first(**more):
        assert engine.run(make(plant, **{"network_G.flow.coupling": "rq_spline", **more}), None, None, trace=True) == 0
        report = json.loads((tmp_path / "results" / "demo" / "trace" / "trace.json").read_text())
        return report["datasets"][GAIN]["first_exploding_layer"], report["bound"]

    layer, bound = first()
    assert bound["log10_factor"] is None
    assert bound["unbounded"] == ["split prior"]
    bounded_layer, bounded = first(**{"network_G.flow.split.max_log_scale": 2})
    assert bounded["log10_factor"] == pytest.approx(bound["log10_factor_of_bounded_layers"] + 2 / math.log(10))
    assert (layer, bounded_layer) == ("level 1 split prior", None)


def test_a_model_without_layers_is_an_error(make, caplog):
    assert engine.run(make(lambda network: None, model="RRDB"), None, None, trace=True) != 0
    assert "--trace: expected a flow, got model RRDB" in caplog.text


def test_own_images_without_a_validation_set(make, tmp_path):
    from robustflow.data.images import write_png

    write_png(tmp_path / "photos" / "a.png", torch.rand(3, 5, 7))
    options = make(lambda network: None, **{"datasets.val": "null"})
    assert engine.run(options, str(tmp_path / "photos"), str(tmp_path / "out"), trace=True) == 0
    report = json.loads((tmp_path / "out" / "trace" / "trace.json").read_text())
    assert report["reference"] == "input"
    assert list(report["datasets"]) == ["input"]
