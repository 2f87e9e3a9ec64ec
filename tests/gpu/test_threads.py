"""Samples that threads measure at the same time beside a GPU against the same measured one after the other."""

import pytest
import tiny
from evaluation_fixtures import read_pictures

from robustflow.evaluation.evaluator import Evaluator
from robustflow.models import data_sets


@pytest.mark.parametrize("model", ["FS-NCSR", "LLFlow"])
def test_figures_and_pictures_are_the_same(device, tmp_path, monkeypatch, model):
    options = tiny.evaluation_options(tmp_path, model, heats=(0.9,), n_sample=6)
    network = tiny.built(options, 0.05).to(device)
    items = data_sets.evaluation_set(options, options.datasets["test_clean"])
    found = []
    for at_once in (1, 4):
        monkeypatch.setattr(Evaluator, "_at_once", lambda self, pixels, at_once=at_once: at_once)
        folder = tmp_path / str(at_once)
        summary, records = Evaluator(network, options.val, folder).evaluate("set", items)
        rows, heats = [record.rows for record in records], [record.heats for record in records]
        found.append((summary, rows, heats, read_pictures(folder)))
    assert found[0][-1]
    assert found[0] == found[1]
