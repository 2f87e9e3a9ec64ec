import csv
import logging
import math
import shutil
import threading
from pathlib import Path

import pytest
import tiny
import torch
from evaluation_fixtures import read_pictures, standard_json

from robustflow.commands import evaluate as engine
from robustflow.data import evaluation_of_folder
from robustflow.data.bicubic import downsample
from robustflow.data.images import read_image, to_uint8, write_png
from robustflow.evaluation.evaluator import Evaluator
from robustflow.evaluation.frames import write_results
from robustflow.evaluation.metrics.images import psnr
from robustflow.evaluation.records import to_json
from robustflow.evaluation.sampling import draw_samples
from robustflow.flows import builder
from robustflow.models import SuperResolution, weights
from robustflow.models.base import Likelihood
from robustflow.report import tables
from robustflow.report.columns import cell
from robustflow.utils import cpus
from robustflow.utils.errors import UserError

NO_PAGE = pytest.mark.usefixtures("no_page")
ONE = {"test_clean": tiny.crops(split="test", n_crops=1)}
OF_DATA_SET = {"n_images", "bits_per_dim", "heats"}
OF_HEAT = {
    *("inf_pct", "infinite_pct", "nan_pct", "pixel_error_pct", "pixel_error_pixel_pct", "max_abs", "max_residual"),
    *("lr_psnr_min", "lr_psnr_std", "lr_psnr_mean", "psnr", "ssim", "n_samples", "n_finite"),
    *("lr_psnr_min_finite", "lr_psnr_std_finite", "lr_psnr_mean_finite", "psnr_finite", "ssim_finite", "lpips_finite"),
}
MEASURED = {
    *("lr_psnr", "lr_psnr_gt", "lr_psnr_lr", "psnr", "ssim", "psnr_y", "ssim_y", "spectral_distance", "lpips"),
    *("diversity_sigma", "diversity_score"),
}
OF_ROW = {
    *("dataset", "image", "heat", "sample", "bits_per_dim", "ood"),
    *("has_inf", "has_nan", "pixel_errors", "n_pixels", "max_abs", "max_residual"),
    *MEASURED,
    *(f"{key}_finite" for key in MEASURED),
}


def rows_of(folder: Path):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@NO_PAGE
def test_lr_psnr_uses_the_kernel_that_lr_images_were_made_with(run, tmp_path):
    crop = tiny.crops(split="test", n_crops=1, downsampling="bilinear")
    result = run(datasets={"test": crop}, heats=(0.9,), n_sample=1)
    assert result["protocol"]["datasets"]["test"]["downsampling"] == "bilinear"
    assert result["protocol"]["lr_psnr"].endswith("another downsampling, that in place of bicubic")
    (row,) = rows_of(tmp_path / "out")
    sample, gt = (read_image(tmp_path / "out" / "test" / f"{row['image']}_{end}.png") for end in ("t0.9_00", "gt"))
    expected = psnr(*(downsample(image, 4, "bilinear") for image in (sample, gt)))
    assert float(row["lr_psnr"]) == float(row["lr_psnr_gt"]) == pytest.approx(expected, rel=1e-9)


def test_metrics_rows_and_images(run, tmp_path):
    result = run()
    assert result["weights"].endswith("00000005_G.safetensors")
    assert list(result["datasets"]) == ["test_clean", "noise 0.2"]
    # As earlier results, which have no such keys: both can be compared.
    assert not {"degrade", "downsampling"} & set(result["protocol"]["datasets"]["test_clean"])
    for summary in result["datasets"].values():
        assert set(summary) >= OF_DATA_SET
        assert summary["n_images"] == 2
        assert math.isfinite(summary["bits_per_dim"])
        assert list(summary["heats"]) == ["0", "0.9"]
        for of_heat in summary["heats"].values():
            assert set(of_heat) >= OF_HEAT
            assert (of_heat["n_samples"], of_heat["inf_pct"], of_heat["max_residual"] > 0) == (4, 0, True)

    rows = rows_of(tmp_path / "out")
    assert set(rows[0]) == OF_ROW
    keys = [(row["dataset"], row["image"], row["heat"], row["sample"]) for row in rows]
    assert len(keys) == len(set(keys)) == 2 * 2 * 2 * 2
    of_first = [float(row["psnr"]) for row in rows if (row["dataset"], row["heat"]) == ("test_clean", "0.9")]
    assert sum(of_first) / 4 == pytest.approx(result["datasets"]["test_clean"]["heats"]["0.9"]["psnr"])

    pngs = {file.name for file in (tmp_path / "out" / "noise 0.2").iterdir()}
    image = rows[0]["image"]
    assert pngs >= {f"{image}_{kind}.png" for kind in ("lr", "gt", "t0_00", "t0_01", "t0.9_00", "t0.9_01")}
    assert len({name for name in pngs if not name.endswith("_mask.png")}) == 2 * (6 + 2)
    assert read_image(tmp_path / "out" / "noise 0.2" / f"{image}_t0.9_00.png").shape == (3, 16, 16)
    assert (tmp_path / "out" / "options.yml").is_file()
    # The deviation of two numbers is half of their distance; pictures are rounded.
    names = dict.fromkeys(row["image"] for row in rows)
    pairs = [
        [read_image(tmp_path / "out" / "test_clean" / f"{name}_t0.9_{k:02d}.png") for k in (0, 1)] for name in names
    ]
    expected = sum((first.float() - second.float()).abs().mean().item() / 2 for first, second in pairs) / len(pairs)
    found = result["datasets"]["test_clean"]["heats"]["0.9"]["diversity_sigma"]
    assert found == pytest.approx(expected, abs=0.1) and found > 1


@NO_PAGE
def test_results_are_the_same_again(run):
    assert run() == run(save_images=False)


@NO_PAGE
def test_tiles_are_used_and_noted(run):
    whole, tiled, cut = run(), run(tile=2), run(tile=2, tile_overlap=0)
    assert [result["protocol"]["tile"] for result in (whole, tiled, cut)] == [None, 2, 2]
    assert [result["protocol"]["tile_overlap"] for result in (whole, tiled, cut)] == [None, None, 0]
    residuals = [result["datasets"]["test_clean"]["heats"]["0.9"]["max_residual"] for result in (whole, tiled, cut)]
    assert residuals[1] == pytest.approx(residuals[0], rel=1e-4)
    assert residuals[2] != pytest.approx(residuals[0], rel=1e-4)


@NO_PAGE
@pytest.mark.parametrize(
    ("precision", "noted"), [("auto", "fp32"), ("fp32", "fp32"), ("tf32", "fp32"), ("bf16", "bf16")]
)
def test_precision_is_used_and_noted(make_options, make_model, tmp_path, monkeypatch, precision, noted):
    options = make_options(save_images=False).model_copy(update={"precision": precision})
    model = make_model(options)
    weights.save(tmp_path / "experiments" / "tiny" / "models" / "00000005_G.safetensors", model, options, 5)
    built = []
    build = builder.build
    monkeypatch.setattr(builder, "build", lambda *a, **named: built.append(named["precision"]) or build(*a, **named))
    result = engine.evaluate(options, None, tmp_path / "out")
    assert result["protocol"]["precision"] == noted
    assert built == [precision]


def test_images_are_written_only_if_asked_for(run, tmp_path):
    run(save_images=False)
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["metrics.csv", "metrics.json", "options.yml", "records", "report.html"]


@pytest.mark.parametrize(("value", "nan_pct"), [(math.inf, 0), (-math.inf, 0), (math.nan, 100)])
def test_one_exploded_pixel(run, tmp_path, monkeypatch, value, nan_pct):
    image_of = SuperResolution.image

    def explode(self, x, lr):
        image = image_of(self, x, lr)
        image[:, 0, 3, 5] = value
        return image

    monkeypatch.setattr(SuperResolution, "image", explode)
    summary = run(datasets=ONE)["datasets"]["test_clean"]["heats"]["0.9"]
    assert (summary["inf_pct"], summary["nan_pct"], summary["pixel_error_pct"]) == (100, nan_pct, 100)
    assert summary["pixel_error_pixel_pct"] >= 100 / 256
    assert summary["infinite_pct"] == 100 - nan_pct
    assert summary["max_abs"] == summary["max_residual"] == math.inf
    assert summary["n_finite"] == 0
    for key in ("psnr", "ssim", "lr_psnr_min", "diversity_sigma"):
        assert summary[f"{key}_finite"] is None
        assert math.isfinite(summary[key])
    sample = read_image(next((tmp_path / "out" / "test_clean").glob("*_t0_00.png")))
    magenta = (sample == torch.tensor([255, 0, 255], dtype=torch.uint8).view(3, 1, 1)).all(0)
    assert magenta[3, 5]
    assert magenta.sum() == 1


@NO_PAGE
def test_samples_that_are_measured_at_the_same_time_have_the_same_figures_and_pictures(run, tmp_path, monkeypatch):
    """As on a GPU, where threads measure what it draws; each of two waits for the other here."""
    apart, pictures = run(datasets=ONE), read_pictures(tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    barrier, measure = threading.Barrier(2, timeout=60), Evaluator._measure

    def wait_and_measure(*arguments):
        barrier.wait()
        return measure(*arguments)

    monkeypatch.setattr(Evaluator, "_at_once", lambda self, pixels: 2)
    monkeypatch.setattr(Evaluator, "_measure", wait_and_measure)
    assert run(datasets=ONE) == apart
    assert rows_of(tmp_path / "out") == rows
    assert read_pictures(tmp_path / "out") == pictures

    def fail(*arguments):
        raise UserError("no space is left")

    monkeypatch.setattr(Evaluator, "_measure", fail)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(UserError, match="no space is left"):
        run(datasets=ONE)


@pytest.mark.parametrize(
    ("device", "size", "pixels", "expected"),
    [
        ("cpu", 1, 100, 1),
        ("cuda", 1, 100, 16),
        ("cuda", 4, 100, 4),
        ("cuda", 1, 2040 * 1356, 12),
        ("cuda", 1, 10**8, 1),
    ],
)
def test_how_many_samples_are_measured_at_the_same_time(
    make_options, make_model, monkeypatch, device, size, pixels, expected
):
    options = make_options()
    evaluator = Evaluator(make_model(options), options.val, None)
    evaluator.device = torch.device(device)
    monkeypatch.setattr(cpus, "available", lambda: 16)
    # Of processes on several machines those of this one share its cores.
    variables = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": str(2 * size), "LOCAL_WORLD_SIZE": str(size)}
    for name, value in variables.items() if size > 1 else ():
        monkeypatch.setenv(name, value)
    assert evaluator._at_once(pixels) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_likelihood_that_is_not_finite(run, monkeypatch, value):
    likelihood = Likelihood(torch.tensor([value]), [torch.tensor([value])])
    monkeypatch.setattr(SuperResolution, "likelihood", lambda *arguments: likelihood)
    few = {"datasets": ONE, "heats": (0.9,), "n_sample": 1}
    bits = run(**few)["datasets"]["test_clean"]["bits_per_dim"]
    assert bits is not None
    assert not math.isfinite(bits)
    assert run(**few)["datasets"]["test_clean"]["bits_per_dim"] == bits


def test_lr_images_alone(run, tmp_path, caplog):
    caplog.set_level(logging.INFO, "robustflow")
    write_png(tmp_path / "lr" / "a.png", torch.rand(3, 3, 5, generator=torch.Generator().manual_seed(0)))
    result = run(str(tmp_path / "lr"))
    # What would be measured against a ground truth needs no backbone.
    assert "lpips" not in caplog.text
    assert list(result["datasets"]) == ["input"]
    assert result["datasets"]["input"]["bits_per_dim"] is None
    summary = result["datasets"]["input"]["heats"]["0.9"]
    assert (summary["psnr"], summary["ssim"]) == (None, None)
    assert math.isfinite(summary["lr_psnr_min"])
    assert rows_of(tmp_path / "out")[0]["psnr"] == ""
    pngs = {file.name for file in (tmp_path / "out" / "input").iterdir()}
    samples = {"a_t0_00.png", "a_t0_01.png", "a_t0.9_00.png", "a_t0.9_01.png"}
    assert pngs - {"a_t0_mask.png", "a_t0.9_mask.png"} == {"a_lr.png", *samples, "a_t0_std.png", "a_t0.9_std.png"}
    assert read_image(tmp_path / "out" / "input" / "a_t0_00.png").shape == (3, 12, 20)


def test_samples_are_written_as_they_are_measured(make_options, make_model, tmp_path):
    options = make_options(n_sample=1, heats=(0.9,))
    model = make_model(options)
    write_png(tmp_path / "lr.png", torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)))
    items = evaluation_of_folder(tmp_path / "lr.png", 4)
    Evaluator(model, options.val, tmp_path).evaluate("set", items)
    written = read_image(tmp_path / "set" / "lr_t0.9_00.png")
    settings = {"name": "lr", "heats": (0.9,), "n": 1, "seed": options.val.seed, "batch": 1}
    ((_, samples),) = draw_samples(model, items[0].lr, **settings)
    assert torch.equal(written, to_uint8(samples[0]))


def test_pretrained_encoder_alone(run):
    result = run(model="RRDB")
    summary = result["datasets"]["test_clean"]
    assert summary["bits_per_dim"] is None
    # One image per input, whatever val.heats and val.n_sample say.
    ((heat, values),) = summary["heats"].items()
    assert (heat, values["n_samples"], values["n_images"]) == ("0", 2, 2)
    assert values["lr_psnr_std"] is values["diversity_sigma"] is values["diversity_score"] is None
    assert (result["protocol"]["n_sample"], result["protocol"]["heats"]) == (1, [0.0])


@NO_PAGE
def test_residual_is_taken_to_the_upsampled_lr_image(run, tmp_path, monkeypatch):
    monkeypatch.setattr(SuperResolution, "image", lambda self, x, lr: torch.full_like(x, 3.0))
    write_png(tmp_path / "lr" / "flat.png", torch.full((3, 4, 4), 0.2))
    summary = run(str(tmp_path / "lr"))["datasets"]["input"]["heats"]["0"]
    assert summary["max_abs"] == 3.0
    assert summary["max_residual"] == pytest.approx(2.8, abs=1e-6)
    assert (summary["inf_pct"], summary["pixel_error_pct"], summary["pixel_error_pixel_pct"]) == (0, 100, 100)


@NO_PAGE
def test_altered_lr_images_are_compared_with_themselves(run, monkeypatch):
    def nearest(self, x, lr):
        return lr.repeat_interleave(4, -1).repeat_interleave(4, -2).expand_as(x)

    monkeypatch.setattr(SuperResolution, "image", nearest)
    datasets = run()["datasets"]
    clean, noisy = (datasets[name]["heats"]["0"]["lr_psnr_mean"] for name in ("test_clean", "noise 0.2"))
    # Nearest neighbours keep the LR image but for a little smoothing; noise of 0.2 would cost all above 14 dB.
    assert noisy > 18
    assert clean > 25


def test_two_data_sets_of_one_name(make_options, tmp_path):
    test = {"mode": "bundled", "split": "test", "GT_size": 16, "name": "same"}
    with pytest.raises(UserError, match=r"datasets.test_b.name: 'same' names two data sets"):
        engine.evaluate(make_options(datasets={"test_a": test, "test_b": test}), None, tmp_path)


def test_no_data_set(make_options, tmp_path):
    with pytest.raises(UserError, match="begins with test, or --input"):
        engine.evaluate(make_options(datasets={}), None, tmp_path)


def test_mistakes_are_answered_with_status_1(make_options, caplog):
    assert engine.run(make_options(), None, None) == 2
    assert "train first, or correct path.pretrain_model_G, path.model_path or --weights" in caplog.text


# Protocols


@NO_PAGE
@pytest.mark.parametrize(
    ("protocol", "quantize", "reference"),
    [("robustness", "round", "ground_truth"), ("ntire", "round", "ground_truth"), ("srflow", "floor", "input")],
)
def test_protocol_presets(run, protocol, quantize, reference, tmp_path):
    result = run(protocol=protocol)
    assert (result["protocol"]["quantize"], result["protocol"]["lr_psnr_reference"]) == (quantize, reference)
    column = "lr_psnr_lr" if reference == "input" else "lr_psnr_gt"
    for row in rows_of(tmp_path / "out"):
        if row["dataset"] == "test_clean":
            assert row["lr_psnr"] == row[column]
        else:
            assert row["lr_psnr"] == row["lr_psnr_lr"] != row["lr_psnr_gt"]


@NO_PAGE
def test_what_is_given_wins_over_the_preset(run):
    protocol = run(protocol="srflow", quantize="round")["protocol"]
    assert (protocol["quantize"], protocol["lr_psnr_reference"]) == ("round", "input")


def test_planted_failures_are_counted_exactly(run, tmp_path, monkeypatch):
    image_of = SuperResolution.image

    def fail(self, x, lr):
        image = image_of(self, x, lr).clamp(0, 1)
        image[0, 0, 1, 2] = math.inf
        image[1, 1, 3, 4] = 1.75
        return image

    monkeypatch.setattr(SuperResolution, "image", fail)
    of_heat = run(heats=(0.9,))["datasets"]["test_clean"]["heats"]["0.9"]
    assert (of_heat["inf_pct"], of_heat["nan_pct"], of_heat["pixel_error_pct"]) == (100, 0, 100)
    assert of_heat["pixel_error_pixel_pct"] == 100 * 2 / (2 * 16 * 16)
    assert (of_heat["n_samples"], of_heat["n_finite"], of_heat["n_images_finite"]) == (4, 2, 0)
    mask = read_image(next((tmp_path / "out" / "test_clean").glob("*_t0.9_mask.png")))[0]
    assert mask.nonzero().tolist() == [[1, 2], [3, 4]]


# Files and tables


def test_json_reads_back_with_infinities(tmp_path):
    values = {"a": math.inf, "b": -math.inf, "Infinity": "Infinity", "c": [math.inf, "Infinity", None], "d": 0.1}
    assert standard_json(to_json(values)) == values
    write_results(tmp_path, values, [])
    assert standard_json((tmp_path / "metrics.json").read_text()) == values


@NO_PAGE
def test_table_has_one_line_per_data_set_and_temperature(run):
    result = run()
    lines = tables.table(result).splitlines()
    assert len(lines) == 2 + 4
    assert all(title in lines[0] for title in ("data set", "%Inf", "max residual", "LR-PSNR min", "PSNR", "SSIM"))
    assert lines[2].startswith("test_clean")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (1.23456, "1.235"), (123456.0, "1.2e+05"), (1e-4, "1.0e-04"), (math.inf, "inf")],
)
def test_cell(value, text):
    assert cell(value) == text
