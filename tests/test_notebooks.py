"""The notebooks run from the first cell to the last, on settings that are tiny here."""

import io
import json

import matplotlib.pyplot as plt
import pytest
import readme
import tiny
import torch

NOTEBOOKS = {file.stem: json.loads(file.read_text()) for file in (readme.ROOT / "docs" / "notebooks").glob("*.ipynb")}
TOY = {"ITERATIONS": 5, "POINTS": 200, "SIGMAS": [0.2, 2.0], "SIGMA": 2.0, "INPUTS": 3, "SAMPLES": 10}
PHOTOGRAPH = {"ITERATIONS": 2, "SIZE": 32, "N": 2, "TEMPERATURES": [0.0, 1.0]}


def cells(name, kind="code"):
    return [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """A function that runs a notebook in an empty folder and returns its names and, as bytes, its pictures."""
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")

    def run(name, settings):
        names = {}
        for cell in cells(name):
            exec(compile(source(cell), f"{name}.ipynb", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert settings.keys() <= names.keys()
                names |= settings
        pictures = []
        for number in plt.get_fignums():
            plt.figure(number).savefig(picture := io.BytesIO(), dpi=40)
            pictures.append(picture.getvalue())
        return names, pictures

    yield run
    plt.close("all")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_committed_without_outputs_and_has_one_cell_of_settings(name):
    assert NOTEBOOKS[name]["nbformat"] == 4 and len({cell["id"] for cell in NOTEBOOKS[name]["cells"]}) > 10
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(name))
    assert [cell["metadata"].get("tags") for cell in cells(name)].count(["parameters"]) == 1
    assert source(cells(name, "markdown")[0]).startswith("# ")
    # The site has no scripts for formulas: they are plain text.
    assert not any("$" in source(cell) for cell in cells(name, "markdown"))


def test_exploding_inverse(execute, capsys):
    shown, pictures = execute("exploding_inverse", TOY)
    assert len(set(pictures)) == 4
    told = capsys.readouterr().out
    assert "affine: In the worst case" in told and "spline: In the worst case" in told
    # ε = 0.0001 in four couplings, less what ActNorms and 1×1 convolutions are: little, so early in training.
    assert max(shown["bounds"]) < 3 and shown["allowed"](shown["audit"](shown["flows"]["affine"], 12)) > 14
    assert all(len(trace) == 13 and trace[0] == pytest.approx(1, abs=0.3) for trace in shown["traces"].values())


@pytest.mark.parametrize("model", [None, "flow.safetensors"])
def test_one_photograph(execute, capsys, model):
    if model is not None:
        tiny.built(tiny.options(), 0.01).save(model)
    shown, pictures = execute("one_photograph", PHOTOGRAPH | {"MODEL": model})
    assert len(set(pictures)) == 6
    assert shown["samples"].shape == (2, 3, 32, 32) and shown["spread"].shape == (32, 32)
    torch.testing.assert_close(shown["again"], shown["hr"], rtol=0, atol=1e-5)
    told = capsys.readouterr().out
    assert ("parameters" in told) == (model is None) and "In the worst case this model can amplify" in told
