import json
from functools import partial

import pytest
import tiny

from robustflow.commands import evaluate as engine
from robustflow.models import weights


@pytest.fixture
def make_options(tmp_path):
    """Make the options of a tiny model and its test sets, see `tiny.evaluation_options`."""
    return partial(tiny.evaluation_options, tmp_path)


@pytest.fixture
def make_model():
    """Make the model of options, with random weights."""

    def make(options):
        return tiny.built(options, 0.05)

    return make


@pytest.fixture
def run(make_options, make_model, tmp_path):
    """Save a tiny model, test it, and return what metrics.json holds."""

    def evaluate(input_path=None, model="FS-NCSR", **val):
        options = make_options(model, **val)
        model = make_model(options)
        weights.save(tmp_path / "experiments" / "tiny" / "models" / "00000005_G.safetensors", model, options, 5)
        engine.evaluate(options, input_path, tmp_path / "out")
        return standard_json((tmp_path / "out" / "metrics.json").read_text())

    return evaluate


@pytest.fixture
def no_page(monkeypatch):
    """Leave out report.html, whose figures take two thirds of a tiny evaluation."""
    monkeypatch.setattr(engine.pages, "write", lambda folder: folder)


def read_pictures(folder):
    """PNGs in a folder and its sub-folders, by their places in it."""
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.png")}


def standard_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no standard JSON")

    return json.loads(text, parse_constant=refuse)
