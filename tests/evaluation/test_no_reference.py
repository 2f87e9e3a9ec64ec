"""NIQE, BRISQUE and PIQE: a plug-in on a library that may be missing, here a stand-in or, where installed, itself."""

import hashlib
import importlib
import json
import logging
import sys

import pytest
import torch

from robustflow.commands import evaluate
from robustflow.data.images import to_uint8
from robustflow.evaluation.metrics import Sample, Target, choose
from robustflow.models import weights
from robustflow.options.load import load

PLUGIN = "robustflow.evaluation.metrics.no_reference"
LIBRARY = """
import torch


def create_metric(name, device):
    assert device == torch.device("cpu")
    return lambda images: (images.sum(), float("nan"))[name == "piqe"] if images.min() >= 0 else 1 / 0
"""
ABOUT = "Metadata-Version: 2.4\nName: pyiqa\nVersion: 9.8.7\nLicense-Expression: PolyForm-Noncommercial-1.0.0\n"
EXAMPLE = """
name: tiny
model: SRFlow
device: cpu
plugins: [robustflow.evaluation.metrics.no_reference]
datasets: {test_a: {mode: bundled, split: test, GT_size: 16, n_crops: 1}}
network_G: {nf: 8, nb: 1, gc: 4, flow: {K: 1, L: 2, hidden_channels: 8}}
path: {experiments: experiments, results: results}
val: {heats: [0.5], n_sample: 2}
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The plug-in, registered for this test alone; torch's hub cache is an empty folder."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "pyiqa").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, PLUGIN, raising=False)
    return importlib.import_module(PLUGIN)


@pytest.fixture
def absent(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "site" / "pyiqa-9.8.7.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "pyiqa.py").write_text(LIBRARY)
    (tmp_path / "site" / "pyiqa-9.8.7.dist-info" / "METADATA").write_text(ABOUT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "pyiqa", raising=False)
    yield
    sys.modules.pop("pyiqa", None)


def put_parameters(tmp_path):
    for name in ("niqe_matlab_params.mat", "brisque_matlab.mat"):
        (tmp_path / "hub" / "pyiqa" / name).write_bytes(b"parameters")


def named(name):
    return next(metric for metric in choose() if metric.name == name)


def measure(name, image):
    return named(name).measure(Sample(image, target := Target(to_uint8(image), image, None)), target)[name]


def run(tmp_path, monkeypatch, make_model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yml").write_text(EXAMPLE)
    options = load(tmp_path / "run.yml")
    weights.save(tmp_path / "experiments/tiny/models/00000005_G.safetensors", make_model(options), options, 5)
    evaluate.evaluate(options, None, tmp_path / "out")
    return json.loads((tmp_path / "out" / "metrics.json").read_text())


def test_off_unless_asked_for():
    assert not {"niqe", "brisque", "piqe"} & {metric.name for metric in choose()}


def test_without_the_library_it_says_how_to_install_it(plugin, absent, tmp_path, monkeypatch, make_model, caplog):
    caplog.set_level(logging.INFO)
    metrics = run(tmp_path, monkeypatch, make_model)
    told = "not computed: pyiqa is not installed, run: pip install 'robustflow[iqa]'"
    for name in ("niqe", "brisque", "piqe"):
        assert metrics["protocol"][name] == told
        assert metrics["datasets"]["test_a"]["heats"]["0.5"][name] is None
        assert f"{name}: {told}" in caplog.text
    assert "not computed: pyiqa is not installed" in (tmp_path / "out" / "report.html").read_text()


def test_without_parameters_nothing_is_downloaded(plugin, stand_in):
    for name in ("niqe", "brisque"):
        assert named(name).describe()[name] == "not computed: its parameters are missing, run 'robustflow fetch iqa'"
        assert measure(name, torch.ones(3, 192, 96)) is None
    assert "pyiqa 9.8.7 (PolyForm-Noncommercial-1.0.0), piqe, uint8" in named("piqe").describe()["piqe"]


def test_it_is_measured_and_described(plugin, stand_in, tmp_path, monkeypatch, make_model):
    put_parameters(tmp_path)
    metrics = run(tmp_path, monkeypatch, make_model)
    described = metrics["protocol"]["brisque"]
    assert described.startswith("pyiqa 9.8.7 (PolyForm-Noncommercial-1.0.0), brisque_matlab, uint8, whole image")
    digest = hashlib.sha256(b"parameters").hexdigest()
    assert f"parameters brisque_matlab.mat (CC BY-NC-SA 4.0), sha256 {digest}" in described
    heats = metrics["datasets"]["test_a"]["heats"]["0.5"]
    assert heats["brisque"] > 0
    assert (heats["niqe"], heats["piqe"]) == (None, None)  # too small, and not a number
    assert "BRISQUE" in (tmp_path / "out" / "report.html").read_text()


def test_values_are_of_8_bit_images_and_none_of_small_ones(plugin, stand_in, tmp_path):
    put_parameters(tmp_path)
    assert measure("niqe", torch.full((3, 192, 96), 1.4)) == pytest.approx(3 * 192 * 96)
    assert measure("niqe", torch.ones(3, 191, 191)) is None
    assert measure("brisque", torch.ones(3, 16, 16)) == 3 * 16 * 16
    assert measure("brisque", torch.ones(3, 15, 40)) is None


def test_the_library_itself(plugin):
    pytest.importorskip("pyiqa")
    from skimage import data

    clean = torch.from_numpy(data.astronaut()).permute(2, 0, 1).double() / 255
    blurred = torch.nn.functional.avg_pool2d(clean[None], 9, 1, 4)[0]
    assert 0 < measure("piqe", clean) < measure("piqe", blurred) < 100
    assert measure("piqe", torch.full((3, 64, 64), 0.5)) == 100
