"""Evaluations go on where they were, and measure what has changed."""

import json
import shutil
from pathlib import Path

import pytest

from robustflow.commands import evaluate as engine
from robustflow.evaluation import records
from robustflow.evaluation.sampling import draw_samples
from robustflow.models import SuperResolution, weights

pytestmark = pytest.mark.usefixtures("no_page")


def contents(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.suffix in (".json", ".csv", ".png")}


def counted(monkeypatch):
    """A list that grows by one with every image that is sampled."""
    drawn = []

    def draw(*arguments, **settings):
        drawn.append(settings["name"])
        return draw_samples(*arguments, **settings)

    monkeypatch.setattr("robustflow.evaluation.evaluator.draw_samples", draw)
    return drawn


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(run, tmp_path, monkeypatch):
    run()
    expected = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    drawn = counted(monkeypatch)

    likelihood, calls = SuperResolution.likelihood, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return likelihood(self, *arguments)

    monkeypatch.setattr(SuperResolution, "likelihood", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(drawn) == 3
    run()
    # The third image, whose record was missing, and the fourth.
    assert len(drawn) == 5
    assert contents(tmp_path / "out") == expected
    run()
    assert len(drawn) == 5


def test_what_a_record_depends_on_makes_it_anew(run, tmp_path, monkeypatch):
    drawn = counted(monkeypatch)
    run(n_sample=1, heats=(0.9,))
    assert len(drawn) == 4
    run(n_sample=1, heats=(0.9,), sample_batch=3)
    assert len(drawn) == 4
    run(n_sample=2, heats=(0.9,))
    assert len(drawn) == 8
    next((tmp_path / "out" / "test_clean").glob("*_01.png")).unlink()
    run(n_sample=2, heats=(0.9,))
    assert len(drawn) == 9
    record = next((tmp_path / "out" / "records").rglob("*.json"))
    record.write_text(record.read_text()[:50])
    run(n_sample=2, heats=(0.9,))
    assert len(drawn) == 10


def test_pictures_of_another_evaluation_do_not_stay(run, tmp_path):
    run(seed=1)
    expected = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    run(seed=0, n_sample=3)
    run(seed=1, save_images=False)
    assert not list((tmp_path / "out").rglob("*.png"))
    run(seed=1)
    assert contents(tmp_path / "out") == expected


def test_a_folder_of_pictures_is_listed_once(run, tmp_path, monkeypatch):
    """Not once per image: of 5,000 images that would be hundreds of millions of names."""
    run(seed=1)
    listed, glob = [], Path.glob
    monkeypatch.setattr(Path, "glob", lambda place, *given: listed.append(place) or glob(place, *given))
    run(seed=0)
    assert listed.count(tmp_path / "out" / "test_clean") == 1


def test_another_data_set_makes_nothing_anew(make_options, make_model, tmp_path, monkeypatch):
    drawn = counted(monkeypatch)
    one = {"mode": "bundled", "split": "test", "GT_size": 16, "n_crops": 2}
    for datasets, n_drawn in (({"test_a": one}, 2), ({"test_a": one, "test_b": {**one, "lr_gain": 2.0}}, 4)):
        options = make_options(datasets=datasets)
        weights.save(tmp_path / "experiments/tiny/models/00000005_G.safetensors", make_model(options), options, 5)
        engine.evaluate(options, None, tmp_path / "out")
        assert len(drawn) == n_drawn


def test_records_read_back(run, tmp_path):
    run()
    file = next((tmp_path / "out" / "records" / "test_clean").glob("*.json"))
    values = json.loads(file.read_text())
    record = records.read(tmp_path / "out", "test_clean", file.stem, values["fingerprint"])
    assert record.size == (16, 16)
    assert sum(record.latents["counts"]) == 3 * 16 * 16
    assert [row["sample"] for row in record.rows] == [0, 1, 0, 1]
    assert record.heats["0"]["diversity_sigma"] == pytest.approx(0, abs=1e-3)
    assert record.heats["0.9"]["diversity_sigma"] > 0.1
    records.write(tmp_path / "again", record)
    assert (tmp_path / "again" / "records" / "test_clean" / file.name).read_bytes() == file.read_bytes()
    assert records.read(tmp_path / "out", "test_clean", file.stem, "other") is None
