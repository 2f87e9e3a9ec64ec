"""Deterministic models beside a flow: tested by the same command, joined in one table, gallery and figure."""

import csv
import json
import re

import pytest
import tiny
import torch
from PIL import Image

from robustflow.commands import compare, study
from robustflow.commands import test as command
from robustflow.interop import published
from robustflow.options.load import dump

HEATS = ("0.3", "0.6", "0.9")
NUMBERS = {"conv_first": "0", "trunk_conv": "1.sub.1", "upconv1": "3", "upconv2": "6", "HRconv": "8", "conv_last": "10"}


def esrgan_names(state):
    """Names of the first ESRGAN's layers, of a 4x RRDB of one block."""
    found = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        block = re.sub(r"RRDB_trunk\.(\d+)\.(RDB\d\.conv\d)", r"1.sub.\1.\2.0", layer)
        found[f"model.{NUMBERS.get(layer, block)}.{kind}"] = tensor
    return found


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A folder with results of bicubic, an ESRGAN and a flow."""
    folder = tmp_path_factory.mktemp("comparators")
    runs = {
        "bicubic": tiny.evaluation_options(folder, "bicubic"),
        "esrgan": tiny.evaluation_options(folder, "RRDB"),
        "flow": tiny.evaluation_options(folder, heats=tuple(map(float, HEATS))),
    }
    torch.save(esrgan_names(published.write_back(tiny.built(runs["esrgan"], 0.05).network)), folder / "esrgan.pth")
    tiny.built(runs["flow"], 0.05).save(folder / "flow.safetensors")
    weights = {"bicubic": [], "esrgan": ["esrgan.pth"], "flow": ["flow.safetensors"]}
    for name, options in runs.items():
        (folder / f"{name}.yml").write_text(dump(options.model_copy(update={"name": name})))
        more = [text for file in weights[name] for text in ("--weights", str(folder / file))]
        assert command.main(["-opt", str(folder / f"{name}.yml"), "--quiet", *more]) == 0
    return folder


def call(tested, output, *names):
    return compare.main([*(str(tested / "results" / name) for name in names), "--output", str(output)])


def read(folder, name):
    return json.loads((folder / "results" / name / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["bicubic", "esrgan"])
def test_one_image_per_input_is_measured(tested, name):
    metrics = read(tested, name)
    for dataset in metrics["datasets"].values():
        assert list(dataset["heats"]) == ["0"]
        assert dataset["heats"]["0"]["n_samples"] == dataset["n_images"]
        assert dataset["heats"]["0"]["psnr"] > 5
        assert dataset["heats"]["0"]["lr_psnr_std"] is dataset["bits_per_dim"] is dataset["ood_mean"] is None
    assert metrics["protocol"]["bits_per_dim"].startswith("not computed")
    page = (tested / "results" / name / "report.html").read_text()
    assert "one image per input" in page
    assert "τ = 0" not in page


def test_an_esrgan_of_the_first_layout_has_its_own_residual(tested):
    assert "residual: first_conv" in (tested / "results" / "esrgan" / "options.yml").read_text()


@pytest.mark.parametrize("order", [("bicubic", "esrgan", "flow"), ("flow", "bicubic", "esrgan")])
def test_all_stand_in_one_table_and_figure(tested, tmp_path, capsys, order):
    assert call(tested, tmp_path, *order) == 0
    printed = capsys.readouterr().out.splitlines()[2:]
    one_set = [("–", "bicubic"), ("–", "esrgan"), *((heat, "flow") for heat in HEATS)]
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [(row["heat"], row["model"]) for row in rows] == one_set * 2
    assert len(printed) == len(rows)
    assert (rows[0]["lr_psnr_std"], rows[0]["bits_per_dim"]) == ("", "")
    assert "" not in (rows[2]["lr_psnr_std"], rows[2]["bits_per_dim"])
    level = read(tested, "bicubic")["datasets"]["test_clean"]["heats"]["0"]["psnr"]
    assert f"bicubic: {level:.4g} throughout" in (tmp_path / "report.html").read_text()
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height > 200
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.width > 5 * 192
    assert "one image each of bicubic, esrgan" in (tmp_path / "summary.md").read_text()


def test_differences_are_to_each_temperature(tested, tmp_path):
    call(tested, tmp_path, "bicubic", "esrgan", "flow")
    text = (tmp_path / "summary.md").read_text().split("## Differences to bicubic")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if "test_clean" in line]
    assert rows == [["test_clean", "–", "esrgan"], *(["test_clean", heat, "flow"] for heat in HEATS)]


def test_deterministic_models_alone(tested, tmp_path):
    assert call(tested, tmp_path, "bicubic", "esrgan") == 0
    assert "one image each" in (tmp_path / "summary.md").read_text()


def test_a_deterministic_model_is_not_studied(tested, caplog):
    assert study.main(["temperature", "-opt", str(tested / "bicubic.yml")]) == 2
    assert "one image per input" in caplog.text
