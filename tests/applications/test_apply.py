"""All commands, in this process; one as a user calls it."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import results_folder
import safetensors.torch
import torch
import torchvision
from PIL import Image

from robustflow import tasks
from robustflow.applications import edit
from robustflow.applications.command_line import main
from robustflow.data.images import read_image, to_uint8
from robustflow.evaluation.metrics import perceptual
from robustflow.evaluation.sampler import draw_samples
from robustflow.options.load import dump, load
from robustflow.options.schema import RunOptions
from robustflow.tasks import weights


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


def test_restore_by_another_normalisation(call, tmp_path):
    _, _, _, out = call("restore", "--input", "@photo.png")
    status, _, _, other = call("restore", "--input", "@photo.png", "--normalise", "spatial", output=tmp_path / "other")
    assert status == 0
    assert not torch.equal(read_image(out / "photo_restored.png"), read_image(other / "photo_restored.png"))


@pytest.mark.parametrize("degradation", ["noise=20", "jpeg=10", "blur=1.5"])
def test_restore_study(call, degradation):
    status, text, _, out = call("restore-study", "--input", "@all", "--degrade", degradation)
    assert status == 0
    assert degradation in text and "restored" in text and "super-resolved at 0.7" in text
    result = json.loads((out / "restore_study.json").read_text())["degradations"][degradation]
    assert list(result["mean"]) == ["degraded", "super-resolved at 0", "super-resolved at 0.7", "restored"]
    mean = sum(result["images"][name]["restored"]["psnr"] for name in ("one", "two")) / 2
    assert result["mean"]["restored"]["psnr"] == pytest.approx(mean)
    assert result["mean"]["degraded"]["pixel_errors"] == 0
    stem = f"one_{degradation.replace('=', '_')}"
    assert (out / f"{stem}_side_by_side.png").is_file() and (out / f"{stem}_restored.png").is_file()


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
    assert result["levels"]["1"]["mean"] == pytest.approx(stored["level_1"].mean().item(), abs=1e-5)
    assert (out / "photo_latents.png").is_file()
    assert (out / "photo_encode_side_by_side.png").is_file()


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
    assert "--best-of lpips: cannot be computed: put the weights there" in errors
    status, text, _, _ = call("sample", *arguments, "ssim")
    assert status == 0 and "–" in text


def test_interpolate(call):
    status, _, _, out = call("interpolate", "--input", "@lr.png", "--frames", "3")
    assert status == 0
    frames = [read_image(out / f"lr_frame_{k:03d}.png") for k in range(3)]
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
            ("sample", "--input", "@lr.png", "--reference", "@photo.png"),
            "expected 40 x 48 .* 4 times --input, got 38",
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
