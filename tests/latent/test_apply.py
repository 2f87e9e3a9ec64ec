"""Commands, in this process."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import results_folder
import safetensors.torch
import torch
from photographs import piece
from scipy import stats

from robustflow.commands.apply import main
from robustflow.data.bicubic import downsample
from robustflow.data.images import read_image, to_float, to_uint8, write_png
from robustflow.evaluation.metrics.images import psnr
from robustflow.latent import edit
from robustflow.latent.space import LatentSpace
from robustflow.models.loading import load_model
from robustflow.options.load import load
from robustflow.utils.seeds import derive_seed


def tiny_model(folder):
    file = ("path.model_path", str(folder / "tiny_G.safetensors"), "--weights")
    return load_model(load(str(folder / "tiny.yml"), None, file))


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
    assert status == 0 and "one" in text and "all_restore.html" in text
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
    result = json.loads((out / "all_restore_study.json").read_text())["degradations"][degradation]
    assert list(result["mean"]) == ["degraded", "super-resolved at 0", "super-resolved at 0.7", "restored"]
    mean = sum(result["images"][name]["restored"]["psnr"] for name in ("one", "two")) / 2
    assert result["mean"]["restored"]["psnr"] == pytest.approx(mean)
    assert result["mean"]["degraded"]["pixel_errors"] == 0
    stem = f"one_{degradation.replace('=', '_')}"
    assert (out / f"{stem}_side_by_side.png").is_file()
    clean, given = read_image(folder / "all" / "one.png"), read_image(out / f"{stem}_degraded.png")
    for row in result["mean"]:
        written = read_image(out / f"{stem}_{row.replace(' ', '_')}.png")
        assert result["images"]["one"][row]["psnr"] == psnr(written, clean)
    # The clean image is nowhere used.
    model = load_model(
        load(str(folder / "tiny.yml"), None, ("path.model_path", str(folder / "tiny_G.safetensors"), ""))
    )
    generators = {use: torch.Generator().manual_seed(derive_seed(0, "one", use)) for use in ("sample", "restore")}
    space = LatentSpace.of(model, given)
    sampled = space.sample(0.7, generators["sample"])
    assert torch.equal(read_image(out / f"{stem}_super-resolved_at_0.7.png"), to_uint8(sampled))
    restored = edit.restore(space, given, 0.7, generators["restore"])
    assert torch.equal(read_image(out / f"{stem}_restored.png"), to_uint8(restored))


def test_restore_study_of_the_bundled_photographs(call):
    status, text, _, out = call("restore-study")
    assert status == 0 and "4 images" in text
    found = json.loads((out / "restore_study.json").read_text())["degradations"]["noise=20"]
    assert list(found["images"]) == ["chelsea", "coffee", "rocket", "coins"]
    assert 22 < found["mean"]["degraded"]["psnr"] < 22.6
    status, text, _, out = call("restore-study", "--split", "text")
    assert status == 0 and "3 images" in text


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


def test_encode_given_an_lr_image_of_its_own(call, folder, tmp_path):
    arguments = ("--input", "@all", "--lr", "@all_lr")
    status, _, _, out = call("encode", *arguments, output=tmp_path / "given")
    assert status == 0
    found = json.loads((out / "all_encode.json").read_text())["images"]
    _, _, _, out = call("encode", "--input", "@all", output=tmp_path / "made")
    made = json.loads((out / "all_encode.json").read_text())["images"]
    assert found["one"] == made["one"]
    (tmp_path / "marked").mkdir()
    for name in ("one", "two"):
        shutil.copy(folder / "all_lr" / f"{name}.png", tmp_path / "marked" / f"{name}x4.png")
    _, _, _, out = call("encode", "--input", "@all", "--lr", str(tmp_path / "marked"), output=tmp_path / "by_mark")
    assert json.loads((out / "all_encode.json").read_text())["images"] == found
    assert found["two"]["bits_per_dim"] > made["two"]["bits_per_dim"]


def test_bits_per_dimension_of_an_encoding(call, folder):
    _, _, _, out = call("encode", "--input", "@hr.png")
    found = json.loads((out / "hr_encode.json").read_text())["images"]["hr"]
    model = tiny_model(folder)
    model.largest_noise = 0.0
    image, lr = (to_float(each)[None] for each in (piece(0), downsample(piece(0), 4)))
    expected = model.likelihood(image, lr, torch.Generator()).bits_per_dim.item()
    assert found["bits_per_dim"] == pytest.approx(expected, rel=1e-4)


def test_encoding_that_failed_is_told(call, monkeypatch):
    encoding = LatentSpace.encoding

    def failing(self, image):
        found = encoding(self, image)
        return replace(found, log_det=found.log_det * torch.nan, latents=[z * torch.nan for z in found.latents])

    monkeypatch.setattr(LatentSpace, "encoding", failing)
    status, text, told, out = call("encode", "--input", "@photo.png")
    assert status == 0 and "inf" in text
    assert "photo: encoding failed" in told
    found = json.loads((out / "photo_encode.json").read_text())["images"]["photo"]
    assert found["bits_per_dim"] == math.inf and found["levels"]["1"]["std"] is None


def test_low_light(call, tmp_path):
    arguments = ("--input", "@dark.png", "--reference", "@hr.png", "--n", "2")
    status, text, _, out = call("sample", *arguments, model="low")
    assert status == 0 and "LR-PSNR" not in text and "PSNR" in text
    assert read_image(out / "dark_sample_01.png").shape == (3, 48, 40)
    status, text, _, out = call("interpolate", "--input", "@dark.png", "--frames", "2", model="low")
    assert status == 0 and "LR-PSNR" not in text
    assert torch.equal(read_image(out / "dark_frame_000.png"), read_image(out / "dark_sample_00.png"))
    assert list(json.loads((out / "dark_interpolate.json").read_text())["frames"]["t = 0"]) == ["pixel_errors"]
    status, text, _, out = call("encode", "--input", "@hr.png", "--lr", "@dark.png", model="low")
    assert status == 0 and "level 3" in text


def test_transfer_style_of_an_image_onto_itself(call, folder):
    status, text, _, out = call("transfer-style", "--input", "@photo.png", "--reference", "@photo.png")
    assert status == 0 and "LR-PSNR" in text
    assert torch.equal(read_image(out / "photo_style.png"), read_image(folder / "photo.png"))


def test_the_style_of_a_region_of_an_image_of_another_size(call, folder, tmp_path):
    arguments = ("--input", "@photo.png", "--reference", "@large.png")
    status, text, told, out = call("transfer-style", *arguments, "--mask", "20,8,12,16", "--place", "3,10")
    assert status == 0 and "LR-PSNR" in text
    assert "--place: the region goes to 4,8: regions are moved by multiples of 4 pixels" in told
    model, large = tiny_model(folder), read_image(folder / "large.png")
    mask = torch.zeros(48, 40, dtype=torch.bool)
    mask[8:24, 20:32] = True
    photo = read_image(folder / "photo.png")
    expected = edit.transfer_region(LatentSpace.of(model, photo), photo, large, mask, (0, -16))
    assert torch.equal(read_image(out / "photo_style.png"), to_uint8(expected))
    assert json.loads((out / "photo_transfer_style.json").read_text())["settings"]["place"] == "3,10"
    assert "moved 0 pixels down and -16 right" in (out / "photo_transfer_style.html").read_text()
    write_png(tmp_path / "mask.png", mask.float().expand(3, -1, -1))
    again = ("--mask", str(tmp_path / "mask.png"), "--place", "3,10")
    _, _, _, masked = call("transfer-style", *arguments, *again, output=tmp_path / "masked")
    assert torch.equal(read_image(masked / "photo_style.png"), read_image(out / "photo_style.png"))


def test_the_style_of_a_smaller_image_at_a_place(call, folder, tmp_path):
    arguments = ("--input", "@photo.png", "--reference", "@all/two.png", "--place", "8,20")
    status, _, _, out = call("transfer-style", *arguments)
    _, _, _, boxed = call("transfer-style", *arguments, "--mask", "0,0,24,24", output=tmp_path / "boxed")
    assert status == 0
    assert torch.equal(read_image(out / "photo_style.png"), read_image(boxed / "photo_style.png"))


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
        assert found[row]["lr_psnr"] == psnr(downsample(written, 4), small)
    assert "for comparison, a sample at 0.9" in found
    pasted = read_image(out / "photo_pasted.png")
    assert torch.equal(pasted[:, 5:20, 5:20], read_image(folder / "other.png")[:, 5:20, 5:20])
    assert (out / "photo_transfer_content_side_by_side.png").is_file()


def test_transfer_content_where_the_mask_is_black(call, folder):
    status, text, _, out = call(
        "transfer-content", "--input", "@photo.png", "--reference", "@other.png", "--mask", "@black.png"
    )
    assert status == 0 and "inf" in text
    assert torch.equal(read_image(out / "photo_content.png"), read_image(folder / "photo.png"))


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
