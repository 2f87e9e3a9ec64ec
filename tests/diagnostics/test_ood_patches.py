import csv
import json
import math

import numpy as np
import pytest
import torch

from robustflow.commands import ood
from robustflow.data import EvaluationSet, open_folders
from robustflow.data.images import write_png
from robustflow.diagnostics.ood import mahalanobis, patches
from robustflow.evaluation.metrics.failures import measure_failures
from robustflow.evaluation.sampling import draw_samples
from robustflow.models import weights
from robustflow.options import load as options_load
from robustflow.report import ood as report
from robustflow.utils.errors import UserError

TEST = {"mode": "bundled", "split": "text", "GT_size": 16, "n_crops": 2}


@pytest.fixture
def images(tmp_path):
    """A folder of HR images: 40 x 72 pixels, and one smaller than a patch of 16 x 16."""
    generator = torch.Generator().manual_seed(0)
    for name, size in (("large", (40, 72)), ("small", (12, 30))):
        write_png(tmp_path / "in" / f"{name}.png", torch.rand(3, *size, generator=generator))
    return tmp_path / "in"


@pytest.fixture
def model(make_options, make_model, tmp_path):
    """A tiny saved model with its score on patches of 16 x 16: options, model, score."""
    train = {"mode": "bundled", "split": "train", "GT_size": 16}
    options = make_options(
        "SRFlow", datasets={"train": train, "test_text": TEST, "test_more": {**TEST, "name": "more"}}
    )
    model = make_model(options)
    file = tmp_path / "experiments" / "tiny" / "models" / "00000005_G.safetensors"
    weights.save(file, model, options, 5)
    return options, model, mahalanobis.fit_and_save(options, file, model, n_patches=40, patch=16)


class Failing:
    """A model whose samples have a pixel error where the LR image is bright, and are infinite where it is white."""

    device = torch.device("cpu")

    def __init__(self):
        self.encoder = Brightness()

    def encoder_input(self, lr):
        return lr

    def prepare(self, lr, tile, overlap):
        bright = lr.mean().item()
        value = math.inf if bright == 1 else 2.0 if bright > 0.5 else 0.5

        def draw(temperature, generators):
            samples = torch.full((len(generators), 3, 16, 16), 0.5)
            samples[-1, 0, 3, 5] = value
            return samples

        return draw


class Brightness(torch.nn.Module):
    """An encoder with one feature, the brightness."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, lr):
        self.taps = lr.mean(1, keepdim=True)
        return self


def brightness_score():
    one = torch.ones(1, dtype=torch.float64)
    table = torch.linspace(0, 0.25, 1001, dtype=torch.float64)
    return mahalanobis.OODScore(0 * one, one[None], table, 0.1, 0.0, 10, 4, 4, "")


def steps(tmp_path, values):
    """An image of patches side by side, each of one grey value."""
    image = torch.cat([torch.full((3, 16, 16), value) for value in values], dim=2)
    write_png(tmp_path / "steps" / "steps.png", image)
    return EvaluationSet(open_folders(str(tmp_path / "steps"), None, 4), 4)


def test_failures_are_counted_by_quarter_of_the_scores(tmp_path, make_options):
    values = [0.0, 0.6, 0.2, 1.0, 0.7, 0.1, 0.8, 0.9]
    items = steps(tmp_path, values)
    summary, found = patches.rank(Failing(), brightness_score(), make_options().val, 4, "steps", items, batch=3)
    assert list(found.position) == [(0, 16 * k) for k in range(8)]
    # Neighbours shine in at the edges of an LR image cut from the whole.
    assert list(found.score) == pytest.approx([v**2 for v in values], abs=0.05)
    assert list(found.pixel_error) == [value > 0.5 for value in values]
    assert found.percentile[0] < 20
    assert found.percentile[3] == 100
    assert summary["pixel_error_pct"] == pytest.approx(62.5)
    assert summary["pixel_error_pct_by_quarter"] == [0, 50, 100, 100]
    assert summary["n_patches"] == 8 and summary["dropped_pixels_pct"] == 0


def test_a_single_failing_sample_counts(tmp_path, make_options):
    def rank(name, value):
        given = Failing(), brightness_score(), make_options(n_sample=3).val, 4
        (row,) = patches.rank(*given, name, steps(tmp_path, [value]))[1].itertuples()
        return row

    white = rank("white", 1.0)
    assert (white.pixel_error, white.finite, white.max_residual) == (True, False, math.inf)
    dark = rank("dark", 0.2)
    assert (dark.pixel_error, dark.finite) == (False, True)
    assert dark.max_residual == pytest.approx(0.3, abs=0.01)


def test_patches_of_a_folder(model, images, tmp_path):
    options, model, score = model
    found = ood.rank(options, images, None, None, None)
    (summary,) = found["datasets"].values()
    assert summary["n_images"] == 2 and summary["n_images_too_small"] == 1 and summary["n_patches"] == 8
    # LR images of 10 x 18 and 3 x 7, eight patches of 4 x 4.
    assert summary["dropped_pixels_pct"] == pytest.approx(100 * (1 - 128 / (180 + 21)))
    place = tmp_path / "results" / "tiny" / "input"
    written = json.loads((place / "ood.json").read_text())
    assert written["protocol"]["patch"] == 16 and written["protocol"]["fitted"] == score.describe()
    patch = written["patches"][5]
    assert (patch["image"], patch["position"]) == ("large", [16, 16])
    assert patch["dataset"] == f"{tmp_path.name}/in"

    lr = EvaluationSet(open_folders(str(images), None, 4), 4)[0].lr[:, 4:8, 4:8]
    expected = score.score(mahalanobis.features_of(model, lr[None])).item()
    assert patch["score"] == pytest.approx(expected, rel=1e-4)
    ((_, samples),) = draw_samples(model, lr, name="large_16_16", heats=(0.9,), n=2, seed=0, batch=10)
    upsampled = torch.zeros(3, 16, 16)
    assert patch["pixel_error"] == any(measure_failures(sample, upsampled)["pixel_errors"] > 0 for sample in samples)

    with (place / "ood.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["top"]), int(row["left"])) for row in rows] == [tuple(p["position"]) for p in written["patches"]]
    assert float(rows[5]["score"]) == patch["score"]
    assert (place / "ood.png").read_bytes().startswith(b"\x89PNG")


def test_enhanced_folder(model, images):
    options, *_ = model
    plain, enhanced = (ood.rank(options, images, kind, None, None) for kind in (None, "published"))
    ((name, of_plain),) = plain["datasets"].items()
    assert list(enhanced["datasets"]) == [f"{name}, enhanced (published)"]
    assert enhanced["protocol"]["enhance"] == "published"
    assert enhanced["datasets"][f"{name}, enhanced (published)"]["mean_score"] != of_plain["mean_score"]


def test_test_sets_are_cut_from_whole_images(model, tmp_path):
    options, *_ = model
    options = options.model_copy(update={"val": options.val.model_copy(update={"n_sample": 1})})
    found = ood.rank(options, None, None, 160, tmp_path / "out")
    assert list(found["datasets"]) == ["test_text", "more"]
    assert {patch["image"] for patch in found["patches"]} == {"text", "page", "chessboard_GRAY"}
    # 448 x 172, 384 x 191 and 200 x 200 pixels.
    assert found["datasets"]["more"]["n_patches"] == 2 + 2 + 1
    assert json.loads((tmp_path / "out" / "ood.json").read_text())["datasets"] == found["datasets"]
    text = report.table(found)
    assert "(training)" in text and "more" in text and "quarter 4" in text


def test_nothing_large_enough(model, images):
    found = ood.rank(model[0], images, None, 80, None)
    (summary,) = found["datasets"].values()
    assert summary["mean_score"] is None
    assert "–" in report.table(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "unit", None), "--enhance: expected --input beside it"),
        ((None, None, 18), "--patch: expected a multiple of the scale 4, got 18"),
    ],
)
def test_mistakes(model, arguments, message):
    with pytest.raises(UserError, match=message):
        ood.rank(model[0], *arguments, None)


def test_two_data_sets_of_one_name(model):
    options = model[0]
    datasets = {key: dataset.model_copy(update={"name": "same"}) for key, dataset in options.datasets.items()}
    with pytest.raises(UserError, match=r"datasets.test_more.name: 'same' names two data sets"):
        ood.rank(options.model_copy(update={"datasets": datasets}), None, None, None, None)


def command(options, tmp_path, kind, *arguments):
    options_load.save(options, tmp_path / "options.yml")
    return ood.main([kind, "-opt", str(tmp_path / "options.yml"), *map(str, arguments)])


def test_commands(model, images, tmp_path, capsys, caplog):
    options, *_ = model
    file = tmp_path / "experiments" / "tiny" / "models" / "00000005_G.ood.safetensors"
    file.unlink()
    assert command(options, tmp_path, "rank", "--input", images) == 2
    assert f"error: {file}: expected the OOD score of 00000005_G.safetensors" in caplog.text
    fitting = ("--n-patches", 20, "--patch", 16, "--batch", 5, "--seed", 3, "--shrinkage", 0.1)
    assert command(options, tmp_path, "fit", *fitting) == 0
    assert mahalanobis.load(file).n_patches == 20 and mahalanobis.load(file).shrinkage == 0.1
    experiment = tmp_path / "experiments" / "tiny"
    ranking = ("--weights", experiment, "--input", images, "--n-sample", 1, "--output", tmp_path / "out")
    assert command(options, tmp_path, "rank", *ranking) == 0
    assert "mean OOD score" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "ood.json").read_text())["protocol"]["n_sample"] == 1
    assert ood.main(["plot", str(tmp_path / "out"), "--output", str(tmp_path / "both.svg")]) == 0
    assert f"tiny: {tmp_path.name}/in (8 patches)" in (tmp_path / "both.svg").read_text()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("fit", ("--shrinkage", "2"), "--shrinkage: expected a number from 0 to 1"),
        ("fit", ("--batch", "0"), "--batch: expected at least 1"),
        ("rank", ("--n-sample", "0"), "--n-sample: expected at least 1"),
    ],
)
def test_mistakes_on_the_command_line(model, tmp_path, caplog, kind, arguments, message):
    assert command(model[0], tmp_path, kind, *arguments) == 2
    assert message in caplog.text


def test_results_that_are_not_there(tmp_path, caplog):
    assert ood.main(["plot", str(tmp_path), "--output", str(tmp_path / "x.svg")]) == 2
    assert "expected a results folder with ood.json" in caplog.text


def test_running_mean_over_ranks():
    # Twenty patches, windows of two; the upper half fails.
    curve = [(float(k), k >= 10) for k in reversed(range(20))]
    rank, share = report.smooth(curve)
    assert len(rank) == 19 and rank[0] == pytest.approx(5) and rank[-1] == pytest.approx(95)
    np.testing.assert_allclose(share, [0] * 9 + [50] + [100] * 9)
    rank, share = report.smooth([(1.0, True)])
    assert (rank.tolist(), share.tolist()) == ([50], [100])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures_are_reproducible(tmp_path, suffix):
    curves = {"affine": [(k, k % 3 == 0) for k in range(40)], "one": [(3.0, False)], "none": []}
    for name in ("a", "b"):
        report.plot(curves, tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    report.plot({}, tmp_path / f"empty.{suffix}")


def test_pictures_of_another_kind(tmp_path):
    with pytest.raises(UserError, match=r"expected a \.png, \.svg or \.pdf file, got '\.txt'"):
        report.plot({}, tmp_path / "x.txt")
