"""Mean scores of several distributions side by side."""

import csv
import json

import pytest
import torch
from ood_command import command

from robustflow.data import EvaluationSet, open_folders
from robustflow.data.degradations import Enhance
from robustflow.data.images import write_png
from robustflow.diagnostics.ood import mahalanobis


def table_of(options, tmp_path, *arguments):
    """Rows of ood_table.csv."""
    given = ("--n-patches", 30, "--patch", 16, "--output", tmp_path / "out", *arguments)
    assert command(options, tmp_path, "table", *given) == 0
    with (tmp_path / "out" / "ood_table.csv").open() as file:
        return list(csv.DictReader(file))


def test_table_of_distributions(model, images, tmp_path, capsys):
    options, network, score = model
    file = tmp_path / "experiments" / "tiny" / "models" / "00000005_G.ood.safetensors"
    before = file.read_bytes()
    rows = table_of(options, tmp_path, "--covariance", "empirical", "--held-out", "test_more", "--test", images)
    name = f"{tmp_path.name}/in"
    assert [(row["distribution"], row["scored"], row["published"]) for row in rows] == [
        ("training", "in sample", "236.78"),
        ("training", "out of sample, ten-fold", ""),
        ("held out: more", "out of sample", ""),
        (name, "out of sample", "331.01"),
        (f"{name}, enhanced (published)", "out of sample", "511.35"),
    ]
    assert [row["n_scored"] for row in rows] == ["30", "30", "30", "8", "8"]
    assert {(row["n_fitted"], row["covariance"], row["n_features"], row["patch"]) for row in rows} == {
        ("30", "empirical", "8", "16")
    }
    assert float(rows[0]["mean_score"]) == pytest.approx(8 * 29 / 30)

    # The same by what fits, cuts and scores patches one by one.
    fitted = mahalanobis.fit(network, mahalanobis.training_patches(options, 16, 0), 30, shrinkage=0.0)
    enhanced = EvaluationSet(open_folders(str(images), None, 4), 4, degradations=[Enhance("published")])
    lr = enhanced[0].lr
    pieces = [lr[:, top : top + 4, left : left + 4] for top in (0, 4) for left in (0, 4, 8, 12)]
    assert float(rows[4]["mean_score"]) == pytest.approx(fitted.of_patches(network, pieces).mean().item(), rel=1e-4)

    printed, markdown = capsys.readouterr().out, (tmp_path / "out" / "ood_table.md").read_text()
    assert "236.78" in printed and "N fitted" in printed and "compare the order, not the sizes" in printed
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]
    assert [line[0] for line in cells[2:]] == [row["distribution"] for row in rows]
    assert cells[2][1:] == ["in sample", "7.733", "236.78", "30", "30", "empirical", "8"]
    assert file.read_bytes() == before and score.n_patches == 40


def test_table_fitted_to_a_folder(model, tmp_path):
    generator = torch.Generator().manual_seed(1)
    for number in range(3):
        write_png(tmp_path / "hr" / f"{number}.png", torch.rand(3, 48, 48, generator=generator))
    given = ("--train", tmp_path / "hr", "--held-out", tmp_path / "hr", "--test", "test_text", "--enhance", "unit")
    rows = table_of(model[0], tmp_path, *given)
    # The images fitted on look familiar, the others do not.
    own, crossed, again, other, _ = (float(row["mean_score"]) for row in rows)
    assert max(own, crossed, again) < 0.1 * other
    assert rows[4]["distribution"] == "test_text, enhanced (unit)" and rows[4]["published"] == ""
    assert rows[0]["covariance"] == "shrunk" and 0 < float(rows[0]["shrinkage"]) <= 1


def test_a_table_does_not_go_where_images_are(model, images, tmp_path, caplog):
    given = ("--held-out", images, "--test", images, "--output", images / "out")
    assert command(model[0], tmp_path, "table", *given) == 2
    assert "apart from" in caplog.text and not (images / "out").exists()


def test_patches_larger_than_all_images(model, images, tmp_path, caplog):
    given = ("--n-patches", 20, "--held-out", images, "--test", images, "--patch", 64)
    assert command(model[0], tmp_path, "table", *given) == 2
    assert "expected images of at least 64 x 64 pixels, found none; lower --patch" in caplog.text


def test_a_pair_of_folders_is_answered_with_the_flag_for_one(model, images, tmp_path, caplog):
    pairs = {"mode": "folder", "dataroot_GT": str(images), "dataroot_LQ": str(images)}
    text = f"datasets={{val: {json.dumps(pairs)}}}"
    assert command(model[0], tmp_path, "table", "--test", images, "--override", text) == 2
    assert "got dataroot_LQ, too; name a folder of HR images: --held-out DIR" in caplog.text
