"""All commands, in this process; one as a user calls it."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import results_folder
import safetensors.torch
import torch
import torchvision
from photographs import piece
from PIL import Image
from scipy import stats

from robustflow import tasks
from robustflow.applications import edit
from robustflow.applications.command_line import main
from robustflow.applications.latent_space import LatentSpace
from robustflow.applications.model import opened
from robustflow.data.bicubic import downsample
from robustflow.data.images import read_image, to_float, to_uint8, write_png
from robustflow.data.seeds import derive_seed
from robustflow.evaluation import sampler
from robustflow.evaluation.metrics import fidelity, perceptual
from robustflow.evaluation.sampler import draw_samples
from robustflow.options.load import Assignment, dump, load
from robustflow.options.schema import RunOptions
from robustflow.tasks import weights


def tiny_model(folder):
    file = Assignment("path.model_path", str(folder / "tiny_G.safetensors"), "--weights")
    return opened(load(str(folder / "tiny.yml"), None, file))


def test_restore_one(call):
    status, _, _, out = call("restore", "--input", "@photo.png", "--mask", "@mask.png")
    assert status == 0
    names = ["photo_restore.html", "photo_restore.json", "photo_restore_side_by_side.png", "photo_restored.png"]
    assert sorted(file.name for file in out.iterdir()) == names
    figures = json.loads((out / "photo_restore.json").read_text())
    assert figures["images"]["photo"]["lr_psnr"] > 0
    assert figures["settings"]["temperature"] == 0.7 and figures["settings"]["mask"].endswith("mask.png")
    assert read_image(out / "photo_restored.png").shape == (3, 45, 38)
    assert read_image(out / "photo_restore_side_by_side.png").shape[2] > 2 * 38


def test_restore_nothing_where_the_mask_is_black(call, folder):
    status, _, told, out = call("restore", "--input", "@photo.png", "--mask", "@black.png")
    assert status == 0
    assert torch.equal(read_image(out / "photo_restored.png"), read_image(folder / "photo.png"))
    assert "no pixel is white" in told


def test_restore_a_folder_the_same_as_its_images_alone(call, tmp_path):
    status, text, _, out = call("restore", "--input", "@all")
    assert status == 0 and "one" in text and "restore.html" in text
    _, _, _, alone = call("restore", "--input", "@all/two.png", output=tmp_path / "alone")
    assert torch.equal(read_image(out / "two_restored.png"), read_image(alone / "two_restored.png"))


@pytest.mark.parametrize(
    ("kind", "arguments", "result"),
    [
        ("restore", (), "photo_restored.png"),
        ("transfer-content", ("--reference", "@other.png", "--mask", "@mask.png"), "photo_content.png"),
    ],
)
def test_seeds_decide(call, tmp_path, kind, arguments, result):
    results = [
        read_image(call(kind, "--input", "@photo.png", *arguments, "--seed", seed, output=tmp_path / name)[3] / result)
        for name, seed in (("one", "1"), ("same", "1"), ("other", "2"))
    ]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_restore_by_another_normalisation(call, tmp_path):
    _, _, _, out = call("restore", "--input", "@photo.png")
    status, _, _, other = call("restore", "--input", "@photo.png", "--normalise", "spatial", output=tmp_path / "other")
    assert status == 0
    assert not torch.equal(read_image(out / "photo_restored.png"), read_image(other / "photo_restored.png"))


@pytest.mark.parametrize("degradation", ["noise=20", "jpeg=10", "blur=1.5"])
def test_restore_study(call, folder, degradation):
    status, text, _, out = call("restore-study", "--input", "@all", "--degrade", degradation)
    assert status == 0
    assert degradation in text and "restored" in text and "super-resolved at 0.7" in text
    result = json.loads((out / "restore_study.json").read_text())["degradations"][degradation]
    assert list(result["mean"]) == ["degraded", "super-resolved at 0", "super-resolved at 0.7", "restored"]
    mean = sum(result["images"][name]["restored"]["psnr"] for name in ("one", "two")) / 2
    assert result["mean"]["restored"]["psnr"] == pytest.approx(mean)
    assert result["mean"]["degraded"]["pixel_errors"] == 0
    stem = f"one_{degradation.replace('=', '_')}"
    assert (out / f"{stem}_side_by_side.png").is_file()
    clean, given = read_image(folder / "all" / "one.png"), read_image(out / f"{stem}_degraded.png")
    for row in result["mean"]:
        written = read_image(out / f"{stem}_{row.replace(' ', '_')}.png")
        assert result["images"]["one"][row]["psnr"] == fidelity.psnr(written, clean)
    # The clean image is nowhere used.
    model = opened(
        load(str(folder / "tiny.yml"), None, Assignment("path.model_path", str(folder / "tiny_G.safetensors"), ""))
    )
    generators = {use: torch.Generator().manual_seed(derive_seed(0, "one", use)) for use in ("sample", "restore")}
    sampled = edit.sampled(model, given, 0.7, generators["sample"])
    assert torch.equal(read_image(out / f"{stem}_super-resolved_at_0.7.png"), to_uint8(sampled))
    restored = edit.restored(model, given, 0.7, generators["restore"])
    assert torch.equal(read_image(out / f"{stem}_restored.png"), to_uint8(restored))


def test_restore_study_of_the_bundled_photographs(call):
    status, text, _, out = call("restore-study")
    assert status == 0 and "4 images" in text
    found = json.loads((out / "restore_study.json").read_text())["degradations"]["noise=20"]
    assert list(found["images"]) == ["chelsea", "coffee", "rocket", "coins"]
    assert 22 < found["mean"]["degraded"]["psnr"] < 22.6


def test_restore_study_of_several_degradations(call):
    status, text, _, out = call("restore-study", "--input", "@all/one.png", "--degrade", "noise=20", "blur=1.5")
    assert status == 0 and "noise=20" in text and "blur=1.5" in text
    found = json.loads((out / "one_restore_study.json").read_text())["degradations"]
    assert list(found) == ["noise=20", "blur=1.5"]
    assert found["noise=20"]["mean"]["degraded"] != found["blur=1.5"]["mean"]["degraded"]
    assert "noise=20" in (page := (out / "one_restore_study.html").read_text()) and "blur=1.5" in page


def test_encode(call, folder):
    status, text, _, out = call("encode", "--input", "@photo.png")
    assert status == 0
    assert "bits/dim" in text and "photo" in text
    result = json.loads((out / "photo_encode.json").read_text())["images"]["photo"]
    assert result == json.loads((out / "photo_latents.json").read_text())
    stored = safetensors.torch.load_file(out / "photo_latents.safetensors")
    assert {k: list(z.shape[1:]) for k, z in stored.items()} == {"level_1": [6, 24, 20], "level_2": [24, 12, 10]}
    assert [level["shape"] for level in result["levels"].values()] == [[6, 24, 20], [24, 12, 10]]
    z, level = stored["level_1"].double(), result["levels"]["1"]
    assert (level["mean"], level["std"]) == pytest.approx((z.mean().item(), z.std(correction=0).item()))
    assert (level["skewness"], level["kurtosis"]) == pytest.approx((stats.skew(z, None), stats.kurtosis(z, None) + 3))
    assert level["channel_std"] == pytest.approx(z.std((0, 2, 3), correction=0).tolist())
    assert (out / "photo_latents.png").is_file()
    assert (out / "photo_encode_side_by_side.png").is_file()
    rms = z.square().mean(1)[0].sqrt()[2, 3].item()
    assert read_image(out / "photo_latents_1.png")[0, 4, 6] == pytest.approx(85 * rms, abs=0.51)


def test_encode_given_an_lr_image_of_its_own(call, tmp_path):
    arguments = ("--input", "@all", "--lr", "@all_lr")
    status, _, _, out = call("encode", *arguments, output=tmp_path / "given")
    assert status == 0
    found = json.loads((out / "encode.json").read_text())["images"]
    _, _, _, out = call("encode", "--input", "@all", output=tmp_path / "made")
    made = json.loads((out / "encode.json").read_text())["images"]
    assert found["one"] == made["one"]
    assert found["two"]["bits_per_dim"] > made["two"]["bits_per_dim"]


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
    task, lr = tasks.build(options), read_image(folder / "lr.png") / 255
    network = task.build_network(options.network_G).eval()
    weights.load(folder / "tiny_G.safetensors", network, options, encoder_suffices=False)
    ((_, samples),) = draw_samples(task, network, lr, name="lr", heats=[0.9], n=3, seed=0, batch=10)
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


def test_bits_per_dimension_of_an_encoding(call, folder):
    _, _, _, out = call("encode", "--input", "@hr.png")
    found = json.loads((out / "hr_encode.json").read_text())["images"]["hr"]
    model = tiny_model(folder)
    model.task.noise.maximum = 0.0
    image, lr = (to_float(each)[None] for each in (piece(0), downsample(piece(0), 4)))
    expected = model.task.likelihood(model.flow, image, lr, torch.Generator()).bits_per_dim.item()
    assert found["bits_per_dim"] == pytest.approx(expected, rel=1e-4)


def test_encoding_that_failed_is_told(call, monkeypatch):
    encoding = LatentSpace.encoding

    def failing(self, image):
        found = encoding(self, image)
        return replace(found, log_prob=found.log_prob * torch.nan, latents=[z * torch.nan for z in found.latents])

    monkeypatch.setattr(LatentSpace, "encoding", failing)
    status, text, told, out = call("encode", "--input", "@photo.png")
    assert status == 0 and "inf" in text
    assert "photo: encoding failed" in told
    found = json.loads((out / "photo_encode.json").read_text())["images"]["photo"]
    assert found["bits_per_dim"] == math.inf and found["levels"]["1"]["std"] is None


def test_the_best_by_ssim(call, monkeypatch):
    monkeypatch.setattr(fidelity, "ssim", lambda image, clean: -fidelity.psnr(image, clean))
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
        assert row["psnr"] == fidelity.psnr(sample, piece(0, *sample.shape[1:]))


def test_pictures_of_an_earlier_call_do_not_stay(call):
    _, _, _, out = call("sample", "--input", "@lr.png", "--reference", "@hr.png", "--n", "3")
    call("interpolate", "--input", "@lr.png", "--frames", "4")
    write_png(out / "lr_sample_of_mine.png", piece())
    assert {"lr_sample_02.png", "lr_best.png", "lr_std.png", "lr_frame_003.png"} <= {f.name for f in out.iterdir()}
    call("sample", "--input", "@lr.png", "--n", "1")
    call("interpolate", "--input", "@lr.png", "--frames", "2")
    names = [file.name for file in out.glob("*.png")]
    pictures = ["lr_frame_000.png", "lr_frame_001.png", "lr_interpolate_side_by_side.png", "lr_moving.png"]
    pictures += ["lr_sample_00.png", "lr_sample_of_mine.png", "lr_sample_side_by_side.png"]
    assert sorted(names) == pictures


def test_samples_that_are_not_finite(call, monkeypatch):
    drawn = sampler.batches

    def failing(*arguments, **named):
        for number, batch in enumerate(drawn(*arguments, **{**named, "batch": 1})):
            yield batch * torch.nan if number == 1 else batch

    monkeypatch.setattr(sampler, "batches", failing)
    arguments = ("--input", "@lr.png", "--reference", "@hr.png", "--n")
    status, text, told, out = call("sample", *arguments, "3", "--back-projection", "2")
    assert status == 0
    row = json.loads((out / "lr_sample.json").read_text())["samples"][1]
    assert (row["lr_psnr"], row["psnr"], row["pixel_errors"]) == (None, None, 100)
    assert read_image(out / "lr_sample_01.png")[:, 0, 0].tolist() == [255, 0, 255]
    assert "lr_sample_01.png: 100 % of its pixels" in told
    kept = torch.stack([read_image(out / f"lr_sample_{k:02d}.png") for k in (0, 2)]).double()
    assert (read_image(out / "lr_std.png")[0] - 4 * kept.std(0, correction=0).mean(0)).abs().max() < 4
    monkeypatch.setattr(sampler, "batches", lambda *a, **k: (batch * torch.nan for batch in drawn(*a, **k)))
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
    monkeypatch.setattr(perceptual, "load", lambda device: perceptual.NotComputed("put the weights there"))
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
    with Image.open(out / "lr_moving.png") as moving:
        assert moving.n_frames == 3
        moving.seek(2)
        assert np.array_equal(np.asarray(moving.convert("RGB")), frames[2].permute(1, 2, 0).numpy())
    assert list(json.loads((out / "lr_interpolate.json").read_text())["frames"]) == ["t = 0", "t = 0.5", "t = 1"]


def test_low_light(call, tmp_path):
    arguments = ("--input", "@dark.png", "--reference", "@hr.png", "--n", "2")
    status, text, _, out = call("sample", *arguments, model="low")
    assert status == 0 and "LR-PSNR" not in text and "PSNR" in text
    assert read_image(out / "dark_sample_01.png").shape == (3, 48, 40)
    status, text, _, out = call("interpolate", "--input", "@dark.png", "--frames", "2", model="low")
    assert status == 0 and "LR-PSNR" not in text
    assert torch.equal(read_image(out / "dark_frame_000.png").isfinite(), torch.ones(3, 48, 40, dtype=torch.bool))
    status, text, _, out = call("encode", "--input", "@hr.png", "--lr", "@dark.png", model="low")
    assert status == 0 and "level 3" in text


def test_transfer_style_of_an_image_onto_itself(call, folder):
    status, text, _, out = call("transfer-style", "--input", "@photo.png", "--reference", "@photo.png")
    assert status == 0 and "LR-PSNR" in text
    assert torch.equal(read_image(out / "photo_style.png"), read_image(folder / "photo.png"))


def test_transfer_content(call, folder):
    status, text, _, out = call(
        "transfer-content", "--input", "@photo.png", "--reference", "@other.png", "--mask", "@mask.png"
    )
    assert status == 0 and "LR-PSNR" in text
    assert read_image(out / "photo_content.png").shape == (3, 45, 38)
    found = json.loads((out / "photo_transfer_content.json").read_text())["results"]
    small = downsample(read_image(folder / "photo.png"), 4)
    for row, name in (("content transferred", "content"), ("pasted", "pasted")):
        written = read_image(out / f"photo_{name}.png")
        assert found[row]["lr_psnr"] == fidelity.psnr(downsample(written, 4), small)
    assert "for comparison, a sample at 0.9" in found
    pasted = read_image(out / "photo_pasted.png")
    assert torch.equal(pasted[:, 5:20, 5:20], read_image(folder / "other.png")[:, 5:20, 5:20])
    assert (out / "photo_transfer_content_side_by_side.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("restore", "--input", "@none.png"), "--input .*none.png: expected an image or a folder of images"),
        (("restore", "--input", "@all", "--mask", "@mask.png"), "--mask: expected one image as --input"),
        (("restore", "--input", "@large.png", "--mask", "@mask.png"), "expected 40 x 48 pixels .* got 38 x 45"),
        (("restore", "--input", "@photo.png", "--mask", "30,0,10,5"), "--mask 30,0,10,5: .* within the 38 x 45 pixels"),
        (("restore", "--input", "@photo.png", "--mask", "3,0,0,5"), "--mask 3,0,0,5: expected LEFT,TOP,WIDTH,HEIGHT"),
        (("restore", "--input", "@tiny.yml"), "expected a complete PNG"),
        (("restore", "--input", "@photo.png", "--temperature", "nan"), "--temperature: expected a number"),
        (("restore", "--input", "@photo.png", "--temperature", "1e200"), "--temperature: .* from 0 to 100, got 1e"),
        (
            ("sample", "--input", "@tiny_lr.png", "--reference", "@tiny_hr.png", "--best-of", "ssim"),
            "--best-of ssim: expected 11 x 11 pixels or more",
        ),
        (("restore-study", "--degrade", "rain=3"), "--degrade: expected noise=X"),
        (("encode", "--input", "@all", "--lr", "@lr.png"), "--lr .*lr.png: expected a file if --input is one"),
        (
            ("encode", "--input", "@all", "--lr", "@few_lr"),
            "--lr .*few_lr: expected an image of each .* named two",
        ),
        (("encode", "--input", "@photo.png", "--lr", "@hr.png"), "expected 10 x 12 .* got 40 x 48"),
        (("encode", "--input", "@none"), "--input .*none: expected an image or a folder"),
        (("sample", "--input", "@all"), "--input .*all: expected an image file, got a folder"),
        (
            ("sample", "--input", "@lr.png", "--reference", "@all/one.png"),
            "expected 40 x 48 .* 4 times --input, .* got 30 x 21",
        ),
        (("sample", "--input", "@lr.png", "--reference", "@none.png"), "--reference .*none.png: .* got nothing there"),
        (("sample", "--input", "@lr.png", "--best-of", "ssim"), "--best-of: expected --reference"),
        (("sample", "--input", "@lr.png", "--n", "0"), "--n: expected at least 1, got 0"),
        (("sample", "--input", "@lr.png", "--back-projection", "-1"), "--back-projection: expected at least 0"),
        (("interpolate", "--input", "@lr.png", "--frames", "1"), "--frames: expected at least 2"),
        (("transfer-style", "--input", "@photo.png", "--reference", "@large.png"), "expected 38 x 45 .* got 40 x 48"),
        (
            ("transfer-content", "--input", "@photo.png", "--reference", "@other.png", "--mask", "@none.png"),
            "--mask .*none.png: expected an image file",
        ),
        (
            ("transfer-content", "--input", "@photo.png", "--reference", "@other.png", "--mask", "@hr.png"),
            "--mask .*hr.png: expected 38 x 45",
        ),
    ],
)
def test_mistakes_are_answered(call, arguments, told):
    status, _, errors, out = call(*arguments)
    assert status == 2
    assert re.search(told, errors) is not None, errors
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("restore", "--input", "@dark.png"), "restore: expected a super-resolution flow"),
        (("restore-study",), "restore-study: expected a super-resolution flow"),
        (("transfer-style", "--input", "@hr.png", "--reference", "@hr.png"), "transfer-style: expected a super-res"),
        (
            ("sample", "--input", "@dark.png", "--back-projection", "2"),
            "--back-projection: expected a super-",
        ),
        (("encode", "--input", "@hr.png"), "--lr: expected the low-light image of --input"),
        (
            ("sample", "--input", "@dark.png", "--reference", "@photo.png"),
            "expected 40 x 48 .* got 38",
        ),
    ],
)
def test_what_low_light_does_not_have_is_answered(call, arguments, told):
    status, _, errors, out = call(*arguments, model="low")
    assert status == 2
    assert re.search(told, errors) is not None, errors
    assert not out.exists()


def test_a_box_is_a_mask(call, tmp_path, folder):
    _, _, _, out = call("restore", "--input", "@photo.png", "--mask", "@mask.png")
    _, _, _, boxed = call("restore", "--input", "@photo.png", "--mask", "5,5,15,15", output=tmp_path / "boxed")
    assert torch.equal(read_image(out / "photo_restored.png"), read_image(boxed / "photo_restored.png"))


def test_results_go_to_the_results_of_the_model(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    results_folder.make(tmp_path / "results" / "tiny")
    model = ("-opt", str(folder / "tiny.yml"), "--weights", str(folder / "tiny_G.safetensors"))
    assert main(["encode", *model, "--input", str(folder / "photo.png")]) == 0
    assert "photo_encode.html" in capsys.readouterr().out
    assert (tmp_path / "results" / "tiny" / "apply" / "photo_encode.html").is_file()
    assert 'href="apply/photo_encode.html"' in (tmp_path / "results" / "tiny" / "report.html").read_text()


def test_explosions_are_told(call, monkeypatch):
    monkeypatch.setattr(edit, "restored", lambda model, image, *_, **__: torch.full(image.shape, 2.0))
    status, _, told, _ = call("restore", "--input", "@photo.png")
    assert status == 0
    assert "photo_restored.png: 100 % of its pixels are outside [-0.5, 1.5]" in told


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("restore", ("--input", "@photo.png")),
        ("restore", ("--input", "@all/one.png", "--mask", "@photo_restored.png")),
        ("sample", ("--input", "@all_lr/one.png", "--reference", "@lr_best.png")),
        ("transfer-style", ("--input", "@all/one.png", "--reference", "@photo_style.png")),
    ],
)
def test_what_is_read_is_not_replaced(call, folder, kind, arguments):
    for name in ("photo_restored", "lr_best", "photo_style"):
        shutil.copy(folder / "photo.png", folder / f"{name}.png")
    before = sorted(folder.iterdir())
    status, _, errors, _ = call(kind, *arguments, output=folder)
    assert status == 2 and "results could replace what is read" in errors
    assert sorted(folder.iterdir()) == before


def test_results_do_not_go_among_the_inputs(call, folder):
    status, _, errors, _ = call("restore", "--input", "@all", output=folder / "all" / "out")
    assert status == 2 and "expected a folder apart from --input" in errors
    status, _, errors, _ = call("restore", "--input", "@photo.png", output=folder / "hr.png")
    assert status == 2 and "expected a folder, got a file" in errors


@pytest.mark.parametrize("kind", ["transfer-style", "transfer-content", "sample", "encode"])
def test_missing_arguments(kind, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main([kind, "-opt", str(folder / "tiny.yml"), "--output", "x"])
    assert ended.value.code == 2
    assert "--input" in capsys.readouterr().err


def test_models_without_latents_are_refused(folder, tmp_path, capsys, caplog):
    options = RunOptions.model_validate(
        {"name": "rrdb", "model": "RRDB", "device": "cpu", "network_G": {"nf": 8, "nb": 1, "gc": 4}}
    )
    task = tasks.build(options)
    weights.save(tmp_path / "rrdb_G.safetensors", task.build_network(options.network_G), options, 1)
    (tmp_path / "rrdb.yml").write_text(dump(options))
    model = ("-opt", str(tmp_path / "rrdb.yml"), "--weights", str(tmp_path / "rrdb_G.safetensors"))
    status = main(["encode", *model, "--input", str(folder / "photo.png"), "--output", str(tmp_path / "out")])
    assert status == 2
    assert "expected a flow (model: SRFlow" in caplog.text


def test_as_a_user_calls_it(folder, tmp_path):
    model = ("-opt", folder / "tiny.yml", "--weights", folder / "tiny_G.safetensors")
    command = [sys.executable, "-m", "robustflow.apply", "encode", *model, "--input", folder / "none.png"]
    done = subprocess.run(
        [*map(str, command), "--output", str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "error: --input" in done.stderr and "Traceback" not in done.stderr
