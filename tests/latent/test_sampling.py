"""Samples, the best of them, and frames between two."""

import json
import shutil

import numpy as np
import pytest
import torch
import torchvision
from photographs import piece
from PIL import Image

from robustflow import models
from robustflow.data.images import read_image, to_uint8, write_png
from robustflow.evaluation import sampling
from robustflow.evaluation.metrics import perceptual
from robustflow.evaluation.metrics.images import psnr
from robustflow.evaluation.sampling import draw_samples
from robustflow.latent import sampling as latent_sampling
from robustflow.models import weights
from robustflow.options.load import load


def test_sample_and_choose_the_best(call, folder):
    arguments = ("--input", "@lr.png", "--reference", "@hr.png", "--n", "3", "--back-projection", "10")
    status, text, _, out = call("sample", *arguments)
    assert status == 0
    result = json.loads((out / "lr_sample.json").read_text())
    rows, projected = result["samples"], result["back_projection"]["samples"]
    assert result["best"] == max(range(3), key=lambda k: rows[k]["psnr"])
    assert all(after["lr_psnr"] > before["lr_psnr"] for before, after in zip(rows, projected, strict=True))
    assert "(best)" in text and "0 back-projected" in text
    best = read_image(out / f"lr_sample_{result['best']:02d}.png")
    assert torch.equal(best, read_image(out / "lr_best.png"))
    names = {file.name for file in out.iterdir()}
    assert {"lr_std.png", "lr_sample_side_by_side.png", "lr_sample_02_back_projected.png"} <= names


def test_samples_are_those_of_tests_in_any_batches(call, folder, tmp_path):
    _, _, _, out = call("sample", "--input", "@lr.png", "--n", "3")
    batches = ("--override", "val.sample_batch=2")
    _, _, _, single = call("sample", "--input", "@lr.png", "--n", "3", *batches, output=tmp_path / "single")
    options = load(str(folder / "tiny.yml"))
    model, lr = models.build(options).eval(), read_image(folder / "lr.png") / 255
    weights.load(folder / "tiny_G.safetensors", model, options, encoder_suffices=False)
    ((_, samples),) = draw_samples(model, lr, name="lr", heats=[0.9], n=3, seed=0, batch=10)
    for number, sample in enumerate(samples):
        assert torch.equal(read_image(out / f"lr_sample_{number:02d}.png"), to_uint8(sample))
        assert torch.equal(read_image(single / f"lr_sample_{number:02d}.png"), to_uint8(sample))


def test_sample_without_reference_writes_samples_alone(call):
    status, text, _, out = call("sample", "--input", "@lr.png", "--n", "2", "--temperature", "0")
    assert status == 0
    assert "best" not in text
    names = ["lr_sample.html", "lr_sample.json", "lr_sample_00.png", "lr_sample_01.png"]
    names += ["lr_sample_side_by_side.png", "lr_std.png"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert torch.equal(read_image(out / "lr_sample_00.png"), read_image(out / "lr_sample_01.png"))


def test_the_best_by_ssim(call, monkeypatch):
    monkeypatch.setattr("robustflow.latent.measure.ssim", lambda image, clean: -psnr(image, clean))
    for metric, choose in (("psnr", max), ("ssim", min)):
        arguments = ("--reference", "@hr.png", "--n", "3", "--best-of", metric)
        _, _, _, out = call("sample", "--input", "@lr.png", *arguments)
        result = json.loads((out / "lr_sample.json").read_text())
        figures = [row["psnr"] for row in result["samples"]]
        assert len(set(figures)) == 3 and result["best"] == figures.index(choose(figures))
        assert torch.equal(read_image(out / "lr_best.png"), read_image(out / f"lr_sample_{result['best']:02d}.png"))


def test_spread_of_samples(call):
    _, _, _, out = call("sample", "--input", "@lr.png", "--n", "4")
    samples = torch.stack([read_image(out / f"lr_sample_{k:02d}.png") for k in range(4)]).double()
    expected = (4 * samples.std(0, correction=0).mean(0)).clamp(max=255)
    assert expected.std() > 1
    assert (read_image(out / "lr_std.png")[0] - expected).abs().max() < 4


def test_references_of_sizes_that_are_no_multiples(call, tmp_path, folder):
    _, _, _, out = call("sample", "--input", "@lr.png", "--reference", "@hr.png", "--n", "1")
    exact = json.loads((out / "lr_sample.json").read_text())["samples"][0]
    for height, width in ((50, 43), (45, 38)):
        write_png(tmp_path / "odd.png", piece(0, height, width))
        status, _, _, out = call("sample", "--input", "@lr.png", "--reference", str(tmp_path / "odd.png"), "--n", "1")
        assert status == 0
        row = json.loads((out / "lr_sample.json").read_text())["samples"][0]
        assert row["psnr"] == pytest.approx(exact["psnr"], abs=0.5)
        sample = read_image(out / "lr_sample_00.png")[:, :height, :width]
        assert row["psnr"] == psnr(sample, piece(0, *sample.shape[1:]))


def test_pictures_of_an_earlier_call_do_not_stay(call):
    _, _, _, out = call("sample", "--input", "@lr.png", "--reference", "@hr.png", "--n", "3")
    call("interpolate", "--input", "@lr.png", "--frames", "4")
    write_png(out / "lr_sample_of_mine.png", piece())
    assert {"lr_sample_02.png", "lr_best.png", "lr_std.png", "lr_frame_003.png"} <= {f.name for f in out.iterdir()}
    call("sample", "--input", "@lr.png", "--n", "1")
    call("interpolate", "--input", "@lr.png", "--frames", "2")
    names = [file.name for file in out.glob("*.png")]
    pictures = ["lr_frame_000.png", "lr_frame_001.png", "lr_interpolate_side_by_side.png"]
    pictures += ["lr_sample_00.png", "lr_sample_of_mine.png", "lr_sample_side_by_side.png"]
    assert sorted(names) == pictures


def test_pictures_of_images_with_similar_names_stay(call, folder, tmp_path):
    for name in ("x", "x_sample_1", "x_frame_1"):
        shutil.copy(folder / "lr.png", tmp_path / f"{name}.png")
    for kind, name in (("sample", "x_sample_1"), ("interpolate", "x_frame_1")):
        number = ("--n", "2") if kind == "sample" else ("--frames", "2")
        _, _, _, out = call(kind, "--input", str(tmp_path / f"{name}.png"), *number)
        before = {file.name for file in out.iterdir()}
        call(kind, "--input", str(tmp_path / "x.png"), *number)
        assert before <= {file.name for file in out.iterdir()}


def test_a_call_that_fails_leaves_the_results_before_it(call, monkeypatch):
    _, _, _, out = call("sample", "--input", "@lr.png", "--n", "3", "--back-projection", "1")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    monkeypatch.setattr(sampling, "batches", lambda *_, **__: (_ for _ in ()).throw(MemoryError))
    assert call("sample", "--input", "@lr.png", "--n", "1")[0] == 1
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    monkeypatch.undo()
    call("sample", "--input", "@lr.png", "--n", "3")
    assert not list(out.glob("*back_projected*")) and len(list(out.glob("lr_sample_0*.png"))) == 3


def test_no_graph_is_kept(make_model, tmp_path):
    model, recorded = make_model(), []
    model.encoder.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    wanted = {"n": 1, "temperature": 0.9, "seed": 0, "best_of": None, "back_projection": 0}
    latent_sampling.draw(model, "lr", piece(0, 8, 8), None, tmp_path, **wanted)
    assert recorded == [False]


def test_the_first_two_samples_or_the_best_are_shown(make_model, tmp_path):
    model, wanted = make_model(), {"n": 4, "temperature": 0.9, "seed": 0, "back_projection": 0}
    _, shown = latent_sampling.draw(model, "lr", piece(0, 8, 8), None, tmp_path, best_of=None, **wanted)
    assert list(shown) == ["input", "sample 0", "sample 1", "std of samples"]
    found, shown = latent_sampling.draw(
        model, "lr", piece(0, 8, 8), piece(0, 32, 32), tmp_path, best_of="psnr", **wanted
    )
    assert list(shown) == ["input", f"sample {found['best']}, the best of 4", "std of samples", "reference"]


def test_samples_that_are_not_finite(call, monkeypatch):
    drawn = sampling.batches

    def failing(*arguments, **named):
        for number, batch in enumerate(drawn(*arguments, **{**named, "batch": 1})):
            yield batch * torch.nan if number == 1 else batch

    monkeypatch.setattr(sampling, "batches", failing)
    arguments = ("--input", "@lr.png", "--reference", "@hr.png", "--n")
    status, text, told, out = call("sample", *arguments, "3", "--back-projection", "2")
    assert status == 0
    row = json.loads((out / "lr_sample.json").read_text())["samples"][1]
    assert (row["lr_psnr"], row["psnr"], row["pixel_errors"]) == (None, None, 100)
    assert read_image(out / "lr_sample_01.png")[:, 0, 0].tolist() == [255, 0, 255]
    assert "lr_sample_01.png: 100 % of its pixels" in told
    kept = torch.stack([read_image(out / f"lr_sample_{k:02d}.png") for k in (0, 2)]).double()
    assert (read_image(out / "lr_std.png")[0] - 4 * kept.std(0, correction=0).mean(0)).abs().max() < 4
    monkeypatch.setattr(sampling, "batches", lambda *a, **k: (batch * torch.nan for batch in drawn(*a, **k)))
    status, text, told, out = call("sample", *arguments, "2")
    assert status == 0 and "best" not in text and not (out / "lr_best.png").exists()
    assert "no sample is the best by psnr: none is finite" in told


def test_the_best_by_lpips(call, monkeypatch):
    torch.manual_seed(0)
    found = perceptual.Perceptual(torchvision.models.alexnet(weights=None).state_dict(), "random", "cpu")
    monkeypatch.setattr(perceptual, "load", lambda device: found)
    status, text, _, out = call(
        "sample", "--input", "@lr.png", "--reference", "@hr.png", "--n", "3", "--best-of", "lpips"
    )
    assert status == 0
    result = json.loads((out / "lr_sample.json").read_text())
    distances = [row["lpips"] for row in result["samples"]]
    assert result["best"] == distances.index(min(distances)) and len(set(distances)) == 3
    status, text, _, out = call("restore-study", "--input", "@photo.png")
    assert json.loads((out / "photo_restore_study.json").read_text())["degradations"]["noise=20"]["mean"]["restored"][
        "lpips"
    ] == pytest.approx(float(text.split("restored ")[1].split("|")[3]), rel=1e-3)


def test_lpips_without_its_weights_is_told(call, monkeypatch):
    monkeypatch.setattr(perceptual, "load", lambda device: "put the weights there")
    arguments = ("--input", "@lr.png", "--reference", "@hr.png", "--best-of")
    status, _, errors, out = call("sample", *arguments, "lpips")
    assert status == 2 and not out.exists()
    assert "--best-of lpips: cannot be computed; choose psnr or ssim, or put the weights there" in errors
    status, text, _, _ = call("sample", *arguments, "ssim")
    assert status == 0 and "–" in text


def test_interpolate(call):
    status, _, _, out = call("interpolate", "--input", "@lr.png", "--frames", "3")
    assert status == 0
    frames = [read_image(out / f"lr_frame_{k:03d}.png") for k in range(3)]
    call("sample", "--input", "@lr.png", "--n", "2")
    assert torch.equal(frames[0], read_image(out / "lr_sample_00.png"))
    assert torch.equal(frames[2], read_image(out / "lr_sample_01.png"))
    assert frames[0].shape == (3, 48, 40)
    assert not torch.equal(frames[0], frames[2])
    assert (out / "lr_interpolate_side_by_side.png").is_file()
    with Image.open(out / "lr_moving.apng") as moving:
        assert moving.n_frames == 3
        moving.seek(2)
        assert np.array_equal(np.asarray(moving.convert("RGB")), frames[2].permute(1, 2, 0).numpy())
    assert list(json.loads((out / "lr_interpolate.json").read_text())["frames"]) == ["t = 0", "t = 0.5", "t = 1"]
