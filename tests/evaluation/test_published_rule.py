"""Figures over all samples, failed ones included, as published; and the protocol of the NTIRE challenge.

Both against numpy, scikit-image and the lpips package alone, from float samples or the PNGs that were written.
"""

import csv
import json
import math
import re
import warnings

import lpips
import numpy as np
import pytest
import torch
import torchvision
from matlab_resize import lr_psnr
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from robustflow.commands import evaluate as engine
from robustflow.data.images import read_image, write_png
from robustflow.evaluation.metrics import perceptual
from robustflow.models import SuperResolution, weights
from robustflow.report import compare, tables
from robustflow.report.results import read

SIDE, BLOCK = 160, (slice(None), slice(60, 100), slice(60, 100))
SSIM = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}


def picture(height, width):
    """A smooth image, uint8 (3, H, W), dark enough in its middle for the example's figures."""
    y, x = np.mgrid[:height, :width] / SIDE
    waves = [np.sin(6 * x + 4 * y + k) * np.cos(5 * y - k) for k in range(3)]
    return np.round(255 * (0.364 + 0.15 * np.stack(waves))).astype(np.uint8)


def draw(gt, deviation, n=10):
    """Samples (n, 3, H, W), float32, not clamped, around an image."""
    return (gt / 255 + deviation * np.random.default_rng(0).standard_normal((n, *gt.shape))).astype(np.float32)


@pytest.fixture
def evaluate_samples(make_options, make_model, tmp_path, monkeypatch):
    """Test a tiny model whose samples are given; return the results folder and what metrics.json holds."""

    def evaluate(name, gt, samples, **val):
        write_png(tmp_path / "gt" / "a.png", torch.from_numpy(gt))
        datasets = {"test": {"mode": "folder", "dataroot_GT": str(tmp_path / "gt")}}
        options = make_options(datasets=datasets, n_sample=len(samples), heats=(0.9,), **val)
        options = options.model_copy(update={"name": name})
        place = tmp_path / "experiments" / name / "models" / "00000005_G.safetensors"
        weights.save(place, make_model(options), options, 5)
        monkeypatch.setattr(SuperResolution, "image", lambda self, x, lr: torch.from_numpy(samples))
        engine.evaluate(options, None, tmp_path / name)
        return tmp_path / name, json.loads((tmp_path / name / "metrics.json").read_text())

    return evaluate


def of_heat(metrics):
    return metrics["datasets"]["test"]["heats"]["0.9"]


def cells(table):
    """Rows of a Markdown table by heading."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(("quantize", "std"), [("floor", 9.83), ("round", 10.35)])
def test_one_of_ten_samples_holds_a_block_of_inf(evaluate_samples, quantize, std, tmp_path):
    gt = picture(SIDE, SIDE)
    samples = draw(gt, 0.0096)
    samples[0][BLOCK] = math.inf
    folder, metrics = evaluate_samples("failed", gt, samples, quantize=quantize)

    levels = (np.floor if quantize == "floor" else np.round)(np.nan_to_num(samples).clip(0, 1) * 255).astype(np.uint8)
    values = [lr_psnr(image, gt, 4) for image in levels]
    fidelity = [peak_signal_noise_ratio(gt, image) for image in levels]
    likeness = [structural_similarity(gt, image, **SSIM) for image in levels]
    found = of_heat(metrics)
    for end, of in (("", slice(None)), ("_finite", slice(1, None))):
        expected = {
            "lr_psnr_min": np.min(values[of]),
            "lr_psnr_std": np.std(values[of]),
            "lr_psnr_mean": np.mean(values[of]),
            "psnr": np.mean(fidelity[of]),
            "ssim": np.mean(likeness[of]),
        }
        assert {key: found[f"{key}{end}"] for key in expected} == pytest.approx(expected, rel=1e-6)
    assert (found["lr_psnr_min"], found["lr_psnr_std"]) == pytest.approx((16.85, std), abs=0.03)
    assert (found["n_samples"], found["n_finite"], found["inf_pct"], found["nan_pct"]) == (10, 9, 100, 0)
    if quantize == "round":
        assert (found["lr_psnr_min_finite"], found["lr_psnr_std_finite"]) == pytest.approx((51.23, 0.07), abs=0.03)

    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr_psnr"]) for row in rows] == pytest.approx(values, rel=1e-6)
    assert [row["lr_psnr_finite"] for row in rows] == ["", *(row["lr_psnr"] for row in rows[1:])]
    # Files are for the eye: failures stay marked there.
    sample = read_image(folder / "test" / "a_t0.9_00.png")[BLOCK].flatten(1)
    assert sample.unique(dim=1).flatten().tolist() == [255, 0, 255]

    sound, _ = evaluate_samples("sound", gt, draw(gt, 0.0096), quantize=quantize)
    assert "finite" not in tables.table(read(sound).metrics)
    (line,) = cells(tables.table(metrics, "markdown"))
    runs = [read(folder), read(sound)]
    compare.check_protocols(runs)
    compare.write(runs, tmp_path / "both")
    written = (tmp_path / "both" / "summary.md").read_text()
    first, second = cells(written.partition("## Differences")[0])
    shown = {"LR-PSNR min": "lr_psnr_min", "LR-PSNR σ": "lr_psnr_std", "LR-PSNR mean": "lr_psnr_mean", "PSNR": "psnr"}
    for label, key in shown.items():
        for row in (line, first):
            assert float(row[label].strip("*")) == float(f"{found[key]:.4g}")
            # Never bold: where a model fails, these flatter it.
            assert row[f"{label}, finite"] == f"{found[f'{key}_finite']:.4g}"
        assert second[label].strip("*") == second[f"{label}, finite"]
    of_first = next(csv.DictReader((tmp_path / "both" / "summary.csv").read_text().splitlines()))
    for key in ("lr_psnr_min", "lr_psnr_std_finite", "psnr_finite", "ssim", "inf_pct", "infinite_pct", "nan_pct"):
        assert float(of_first[key]) == found[key]
    assert r"LR-PSNR $\sigma$, finite" in (tmp_path / "both" / "summary.tex").read_text()
    assert "LR-PSNR min, finite" in re.sub("<[^>]*>|&nbsp;", "", (tmp_path / "both" / "report.html").read_text())


@pytest.mark.parametrize(("value", "level"), [(math.inf, 255), (-math.inf, 0), (math.nan, 0)])
def test_values_that_are_not_finite(evaluate_samples, value, level):
    gt = picture(16, 16)
    samples = draw(gt, 0.01, n=2)
    samples[0, 1, 4:9, 3:12] = value
    _, metrics = evaluate_samples("failed", gt, samples)
    levels = np.round(np.nan_to_num(samples).clip(0, 1) * 255).astype(np.uint8)
    levels[0, 1, 4:9, 3:12] = level
    assert of_heat(metrics)["psnr"] == pytest.approx(np.mean([peak_signal_noise_ratio(gt, one) for one in levels]))
    assert of_heat(metrics)["psnr_finite"] == pytest.approx(peak_signal_noise_ratio(gt, levels[1]))
    of_all = (255 * np.nan_to_num(samples).clip(0, 1)).std(axis=0).mean()
    assert of_heat(metrics)["diversity_sigma"] == pytest.approx(of_all, rel=1e-4)
    assert of_heat(metrics)["diversity_sigma_finite"] is None  # of a single sample


# Learning the super-resolution space


def spatial_maps(backbone, images, gt):
    """Maps (n, H, W) of the lpips package, weights of AlexNet given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", spatial=True, pnet_rand=True, verbose=False)
    for name, parameter in network.net.named_parameters():
        parameter.data.copy_(backbone[name.replace(name.split(".")[0], "features")])
    with torch.no_grad():
        inputs = [lpips.im2tensor(image.transpose(1, 2, 0)) for image in (*images, gt)]
        return np.stack([network(one, inputs[-1])[0, 0].numpy() for one in inputs[:-1]])


def test_ntire_protocol_equals_its_definition_on_the_written_pictures(evaluate_samples, monkeypatch):
    torch.manual_seed(0)
    backbone = torchvision.models.alexnet(weights=None).state_dict()
    monkeypatch.setattr(perceptual, "load", lambda device: perceptual.Perceptual(backbone, "random", device))
    whole = picture(44, 60)
    folder, metrics = evaluate_samples("ntire", whole, draw(whole, 0.03, n=4), protocol="ntire")

    def read_cut(name):
        return np.asarray(Image.open(folder / "test" / name)).transpose(2, 0, 1)[:, :40, :56]

    gt, images = read_cut("a_gt.png"), [read_cut(f"a_t0.9_{k:02d}.png") for k in range(4)]
    values = [lr_psnr(image, gt, 4) for image in images]
    maps = spatial_maps(backbone, images, gt).astype(float)
    global_best, local_best = maps.mean((1, 2)).min(), maps.min(0).mean()
    found = of_heat(metrics)
    expected = {
        "lr_psnr_min": min(values),
        "lr_psnr_mean": np.mean(values),
        "psnr": np.mean([peak_signal_noise_ratio(gt, image) for image in images]),
        "ssim": np.mean([structural_similarity(gt, image, **SSIM) for image in images]),
        "diversity_score": 100 * (global_best - local_best) / global_best,
    }
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert found["diversity_score"] > 1
    assert metrics["protocol"]["cut_to"] == "multiples of 8 HR pixels"

    # 45 dB is the challenge's bar.
    assert found["lr_psnr_mean"] < 45
    (line,) = cells(tables.table(metrics, "markdown"))
    assert line["LR-PSNR min"].endswith(" †")
    assert not line["PSNR"].endswith("†")
    assert "†: below 45 dB" in (folder / "report.html").read_text()
    assert "†: below 45 dB" in tables.footnotes([metrics])
    sound, metrics = evaluate_samples("sound", whole, draw(whole, 0.003, n=4), protocol="ntire")
    assert of_heat(metrics)["lr_psnr_min"] > 45
    assert "†" not in tables.table(metrics)
    compare.write([read(folder), read(sound)], folder / "both")
    assert r"\dagger" in (folder / "both" / "summary.tex").read_text()
    assert "†: below 45 dB" in (folder / "both" / "summary.md").read_text()
