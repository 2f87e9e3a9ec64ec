"""Commands that cannot be done, and what a user is told."""

import re
import runpy
import shutil
import sys

import pytest
import tiny
import torch

from robustflow import models
from robustflow.commands.apply import main
from robustflow.latent import edit
from robustflow.models import weights
from robustflow.options.load import dump

STYLE = ("transfer-style", "--input", "@photo.png", "--reference", "@large.png")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("restore", "--input", "@none.png"), "--input .*none.png: expected an image or a folder of images"),
        (("restore", "--input", "@all", "--mask", "@mask.png"), "--mask: expected one image as --input"),
        (("restore", "--input", "@large.png", "--mask", "@mask.png"), "expected 40 x 48 pixels .* got 38 x 45"),
        (("restore", "--input", "@photo.png", "--mask", "30,0,10,5"), "--mask 30,0,10,5: .* within the 38 x 45 pixels"),
        (("restore", "--input", "@photo.png", "--mask", "@all"), "--mask .*: expected an image file, .* got a folder"),
        (("restore", "--input", "@photo.png", "--mask", "0,0,5"), "--mask 0,0,5: .* a box LEFT,TOP,WIDTH,HEIGHT"),
        (("restore", "--input", "@photo.png", "--mask", "3,0,0,5"), "--mask 3,0,0,5: expected LEFT,TOP,WIDTH,HEIGHT"),
        (("restore", "--input", "@tiny.yml"), "expected a complete PNG"),
        (("restore", "--input", "@photo.png", "--temperature", "nan"), "--temperature: expected a number"),
        (("restore", "--input", "@photo.png", "--temperature", "1e200"), "--temperature: .* from 0 to 100, got 1e"),
        (
            ("sample", "--input", "@tiny_lr.png", "--reference", "@tiny_hr.png", "--best-of", "ssim"),
            "--best-of ssim: expected 11 x 11 pixels or more",
        ),
        (("restore-study", "--input", "@all", "--split", "text"), "--split: expected no --input beside it"),
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
        (
            ("transfer-style", "--input", "@photo.png", "--reference", "@large.png"),
            "expected 38 x 45 .* of another size: beside --mask or --place, got 40 x 48",
        ),
        ((*STYLE, "--mask", "30,0,11,5"), "--mask 30,0,11,5: .* within the 40 x 48 pixels of --reference"),
        ((*STYLE, "--mask", "@mask.png"), "--mask .*mask.png: expected 40 x 48 .* as --reference has, got 38 x 45"),
        ((*STYLE, "--mask", "0,0,9,9", "--place", "5"), "--place 5: expected LEFT,TOP in pixels"),
        ((*STYLE, "--mask", "0,0,9,9", "--place", "30,0"), "--place 30,0: expected LEFT,TOP of at most 29,36: the reg"),
        ((*STYLE, "--mask", "31,0,9,9"), "--place 31,0 .where --reference has it.: expected LEFT,TOP of at most 29"),
        ((*STYLE, "--place", "0,0"), "--place 0,0: expected a smaller region .* has 40 x 48 pixels, --input 38 x 45"),
        (
            ("transfer-content", "--input", "@photo.png", "--reference", "@other.png", "--mask", "@none.png"),
            "--mask .*none.png: expected an image file, or a box LEFT,TOP,WIDTH,HEIGHT .* got neither",
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
        (("encode", "--input", "@hr.png"), "--lr: expected the input that --input is the output of"),
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


def test_odd_names_are_no_formulas(call, folder, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b $x_{$", "c"):
        shutil.copy(folder / "photo.png", tmp_path / "in" / f"{name}.png")
    status, text, _, out = call("encode", "--input", str(tmp_path / "in"))
    assert status == 0 and "b $x_{$" in text
    assert (out / "b $x_{$_latents.png").is_file() and (out / "in_encode.html").is_file()


def test_a_damaged_report_does_not_undo_what_is_done(folder, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "tiny").mkdir(parents=True)
    (tmp_path / "results" / "tiny" / "metrics.json").write_text("{")
    model = ("-opt", str(folder / "tiny.yml"), "--weights", str(folder / "tiny_G.safetensors"))
    assert main(["restore", *model, "--input", str(folder / "photo.png"), "--output", "results/tiny/apply"]) == 0
    assert "photo_restore.html" in capsys.readouterr().out
    assert "report.html: not written again with the new page: " in caplog.text


def test_explosions_are_told(call, monkeypatch):
    monkeypatch.setattr(edit, "restore", lambda space, image, *_: torch.full(image.shape, 2.0))
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
    status, _, errors, _ = call("restore", "--input", "@photo.png", output=folder / "hr.png" / "x" / "y")
    assert status == 2 and "hr.png; choose another" in errors


@pytest.mark.parametrize("kind", ["transfer-style", "transfer-content", "sample", "encode"])
def test_missing_arguments(kind, folder, capsys):
    with pytest.raises(SystemExit) as ended:
        main([kind, "-opt", str(folder / "tiny.yml"), "--output", "x"])
    assert ended.value.code == 2
    assert "--input" in capsys.readouterr().err


def test_models_without_latents_are_refused(folder, tmp_path, capsys, caplog):
    options = tiny.options("RRDB", name="rrdb")
    weights.save(tmp_path / "rrdb_G.safetensors", models.build(options), options, 1)
    (tmp_path / "rrdb.yml").write_text(dump(options))
    model = ("-opt", str(tmp_path / "rrdb.yml"), "--weights", str(tmp_path / "rrdb_G.safetensors"))
    status = main(["encode", *model, "--input", str(folder / "photo.png"), "--output", str(tmp_path / "out")])
    assert status == 2
    assert "encode: expected a flow, got model RRDB" in caplog.text


def test_as_a_user_calls_it(folder, tmp_path, monkeypatch, caplog):
    model = ("-opt", folder / "tiny.yml", "--weights", folder / "tiny_G.safetensors")
    words = ["", "encode", *model, "--input", folder / "none.png", "--output", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("robustflow.apply", run_name="__main__", alter_sys=True)
    assert ended.value.code == 2
    assert caplog.messages[-1].startswith("error: --input")
