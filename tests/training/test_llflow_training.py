"""LLFlow through the same training and evaluation as super-resolution."""

import csv
import json

import pytest
import tiny
import torch

from robustflow.commands import compare, ood
from robustflow.commands import evaluate as testing
from robustflow.data.images import read_image, write_png
from robustflow.options import load as options_load
from robustflow.report import pages
from robustflow.training import engine as training


def pairs(root, low="low", normal="high", names=("1", "22"), size=(24, 36)):
    generator = torch.Generator().manual_seed(0)
    for kind, brightness in ((normal, 1.0), (low, 0.1)):
        for name in names:
            write_png(root / kind / f"{name}.png", brightness * torch.rand(3, *size, generator=generator))


def run_options(root, datasets, **changes):
    sections = {"train": {"niter": 2, "ood_patches": 10, "micro_batch": 1}, "val": {"heats": (0.0, 0.9)}}
    options = tiny.training_options(root, "low", "LLFlow", datasets=datasets, **tiny.merged(sections, changes))
    assert not list(options.contradictions(options))
    return options


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("llflow")


@pytest.fixture(scope="module")
def options(place):
    """Options of a model that has been trained, for two iterations."""
    pairs(place)
    folders = {"mode": "folder", "dataroot_GT": str(place / "high"), "dataroot_LQ": str(place / "low")}
    datasets = {
        "train": {**folders, "GT_size": 16, "batch_size": 2},
        "val": {**folders, "GT_size": 16, "n_crops": 2},
        "test": {**folders, "lr_gain": 0.5},
    }
    options = run_options(place, datasets)
    assert training.run(options) == 0
    return options


@pytest.fixture(scope="module")
def results(options, place):
    testing.evaluate(options, None, place / "results" / "low")
    return place / "results" / "low"


def test_check(options, capsys):
    assert training.run(options, check=True) == 0
    assert "resume and validation are right" in capsys.readouterr().out


def test_figures_of_both_schemes(results):
    metrics = json.loads((results / "metrics.json").read_text())
    dataset, protocol = metrics["datasets"]["test"], metrics["protocol"]
    assert dataset["bits_per_dim"] is not None
    assert dataset["ood_mean"] is not None
    assert (dataset["heats"]["0"]["n_samples"], dataset["heats"]["0.9"]["n_samples"]) == (2, 4)
    assert not any(key.startswith("lr_psnr") for key in dataset["heats"]["0"])
    assert not {"lr_psnr", "lr_psnr_reference"} & protocol.keys()
    assert not any("LR" in str(text) for key, text in protocol.items() if key != "datasets")
    assert dataset["means"]["0.9"]["n_averaged"] == 2
    for figures in (*dataset["heats"].values(), *dataset["means"].values()):
        assert all(figures[key] is not None for key in ("psnr", "psnr_gtmean", "ssim_grey", "ssim_gtmean"))
    with (results / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert all(float(row["psnr_gtmean"]) > 0 and "lr_psnr" not in row for row in rows)


def test_the_mean_is_written(results):
    mean = read_image(results / "test" / "1_t0.9_mean.png").float()
    samples = [read_image(results / "test" / f"1_t0.9_{k:02d}.png").float() for k in range(2)]
    assert mean.shape == (3, 24, 36)
    # Samples are clamped when they are written, one by one.
    inside = [(sample > 0) & (sample < 255) for sample in samples]
    difference = (mean - sum(samples) / 2).abs()
    assert difference[inside[0] & inside[1]].max() <= 1


def test_a_finished_evaluation_is_not_done_again(options, results, monkeypatch):
    before = (results / "metrics.json").read_bytes()
    monkeypatch.setattr("robustflow.evaluation.evaluator.draw_samples", None)
    testing.evaluate(options, None, results)
    assert (results / "metrics.json").read_bytes() == before


def test_the_report_shows_both_schemes_and_speaks_of_inputs(results):
    page = pages.write(results).read_text()
    for label in ("scheme 1, τ = 0", "scheme 2, mean of 2, τ = 0.9", "std of samples", "0.9, mean of 2"):
        assert label in page
    assert "low-resolution" not in page
    assert "LR-PSNR" not in page


def test_comparison_has_rows_of_the_mean(results, place, capsys):
    assert compare.main([str(results), str(results), "--output", str(place / "both")]) == 0
    assert capsys.readouterr().out.count("0.9, mean of 2") == 2
    text = (place / "both" / "summary.md").read_text()
    assert "scheme 2" in text
    assert "LR-PSNR" not in text
    assert (place / "both" / "gallery.png").is_file()
    page = (place / "both" / "report.html").read_text()
    assert "low-resolution" not in page
    assert "furthest from" not in page


def test_patches_are_ranked(options, results, place, capsys):
    (place / "run.yml").write_text(options_load.dump(options))
    assert ood.main(["rank", "-opt", str(place / "run.yml"), "--patch", "10"]) == 0
    found = json.loads((results / "ood.json").read_text())
    assert found["datasets"]["test"]["n_patches"] == 2 * 2 * 3
    assert "LR" not in found["protocol"]["lr"]
    assert ood.main(["rank", "-opt", str(place / "run.yml"), "--input", str(place / "low")]) == 0
    assert json.loads((results / "input" / "ood.json").read_text())["patches"]
    assert ood.main(["rank", "-opt", str(place / "run.yml"), "--input", str(place), "--enhance", "unit"]) == 2
    both = [str(results), str(results / "input")]
    assert ood.main(["plot", *both, "--pooled", "--output", str(place / "ood.png")]) == 0
    assert (place / "ood.png").is_file()


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (400, 600), (101, 333)], ids=str)
def test_brightens_a_photo_of_any_size(options, place, size):
    photo = place / f"photo_{size[0]}.png"
    write_png(photo, 0.1 * torch.rand(3, *size))
    once = options.model_copy(update={"val": options.val.model_copy(update={"n_sample": 1})})
    testing.evaluate(once, str(photo), place / "out")
    for kind in ("t0_00", "t0.9_00", "t0.9_mean"):
        assert read_image(place / "out" / "input" / f"{photo.stem}_{kind}.png").shape[1:] == size
    assert (place / "out" / "report.html").is_file()


# Folders of LOL


@pytest.fixture
def lol(tmp_path):
    for part in ("our485", "eval15"):
        pairs(tmp_path / "LOL" / part)
    sets = {"mode": "LoL", "root": str(tmp_path / "LOL")}
    datasets = {"train": {**sets, "GT_size": 16, "batch_size": 2}, "test_lol": {**sets, "split": "test"}}
    return run_options(tmp_path, datasets, train={"niter": 2, "ood_patches": 0})


def test_lol_trains_and_tests(lol, tmp_path):
    assert training.run(lol) == 0
    assert testing.run(lol, None, str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "test_lol" / "22_t0_00.png").is_file()


def misname(file):
    file.rename(file.with_name("23.png"))


def resize(file):
    write_png(file, torch.rand(3, 24, 30))


def cut_off(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (misname, "our485/high: expected partners in"),
        (resize, "our485/low/22.png: expected 36 x 24 pixels"),
        (cut_off, "our485/low/22.png: expected a complete PNG"),
    ],
    ids=["misnamed", "of another size", "truncated"],
)
def test_a_pair_that_does_not_fit_is_named_before_training(lol, tmp_path, caplog, spoil, message):
    spoil(tmp_path / "LOL" / "our485" / "low" / "22.png")
    assert training.run(lol) == 2
    assert message in caplog.text
    assert not (tmp_path / "experiments").exists()


def test_without_inputs_nothing_is_trained(lol, tmp_path, caplog):
    train = {"mode": "bundled", "GT_size": 16}
    assert training.run(run_options(tmp_path, {"train": train})) == 2
    assert "expected an input image" in caplog.text
    assert not (tmp_path / "experiments").exists()
