import csv
import json
import math
import sys
from dataclasses import replace

import pytest
import torch
from ood_command import command

from robustflow.commands import ood
from robustflow.data import EvaluationSet, open_folders
from robustflow.data.images import read_image, to_float, write_png
from robustflow.diagnostics.ood import mahalanobis, patches
from robustflow.evaluation.metrics.failures import measure_failures
from robustflow.evaluation.sampling import draw_samples
from robustflow.report import ood as report
from robustflow.utils.errors import UserError


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
    # One pixel of the last of two samples of 16 x 16.
    assert list(found.failed_samples_pct) == [50 * (value > 0.5) for value in values]
    assert list(found.failed_pixels_pct) == pytest.approx([100 / 512 * (value > 0.5) for value in values])
    assert summary["failed_samples_pct"] == pytest.approx(62.5 / 2)
    assert summary["failed_pixels_pct"] == pytest.approx(62.5 / 512)
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
    assert (white.failed_samples_pct, white.finite, white.max_residual) == (pytest.approx(100 / 3), False, math.inf)
    dark = rank("dark", 0.2)
    assert (dark.failed_samples_pct, dark.failed_pixels_pct, dark.finite) == (0, 0, True)
    assert dark.max_residual == pytest.approx(0.3, abs=0.01)


def test_residuals_of_images_of_one_size_are_to_the_image_itself(tmp_path, make_options):
    write_png(tmp_path / "grey" / "a.png", torch.full((3, 16, 16), 0.2))
    source = open_folders(None, str(tmp_path / "grey"), 1)
    items = EvaluationSet(source, 1, condition_of=lambda lr: torch.cat([to_float(lr), -to_float(lr)]))
    score = replace(brightness_score(), scale=1, patch=16)
    (row,) = patches.rank(Failing(), score, make_options().val, 16, "a", items)[1].itertuples()
    assert row.max_residual == pytest.approx(0.3)


def test_patches_of_another_size_than_fitted_are_warned_of(caplog):
    assert patches.side_of(None, brightness_score()) == patches.side_of(16, brightness_score()) == 4
    assert caplog.text == ""
    assert patches.side_of(32, brightness_score()) == 8
    assert "fitted on patches of 16 x 16" in caplog.text


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
    failed = [measure_failures(sample, upsampled)["pixel_errors"] for sample in samples]
    assert patch["failed_samples_pct"] == 50 * sum(n > 0 for n in failed)
    assert patch["failed_pixels_pct"] == pytest.approx(100 * sum(failed) / 512)

    with (place / "ood.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["top"]), int(row["left"])) for row in rows] == [tuple(p["position"]) for p in written["patches"]]
    assert float(rows[5]["score"]) == patch["score"]
    assert float(rows[5]["failed_samples_pct"]) == patch["failed_samples_pct"]
    assert (place / "ood.png").read_bytes().startswith(b"\x89PNG")


def test_places_of_patches(tmp_path):
    items = steps(tmp_path, [0.1] * 3)  # 4 x 12 LR pixels
    assert patches.place(items, 4) == [[(0, 0), (0, 4), (0, 8)]]
    assert patches.place(items, 4, 2) == [[(0, 0), (0, 2), (0, 4), (0, 6), (0, 8)]]
    assert patches.place(items, 4, 8) == [[(0, 0), (0, 8)]]
    assert patches.place(items, 5) == [[]]
    chosen = [patches.place(items, 4, 1, 3, seed)[0] for seed in range(20)]
    assert chosen[4] == patches.place(items, 4, 1, 3, 4)[0]
    assert all(len(set(of_seed)) == 3 and of_seed == sorted(of_seed) for of_seed in chosen)
    assert {place for of_seed in chosen for place in of_seed} == {(0, left) for left in range(9)}
    assert patches.place(items, 4, None, 100) == patches.place(items, 4)


def test_only_images_of_which_patches_are_taken_are_decoded(model, images, tmp_path, monkeypatch):
    for k in range(6):
        write_png(images / f"more_{k}.png", torch.rand(3, 32, 32))
    read = []
    monkeypatch.setattr(
        "robustflow.data.sources.folders.read_image", lambda path: read.append(path) or read_image(path)
    )
    found = ood.rank(model[0], images, None, None, None, n_patches=2)
    assert sorted({patch["image"] for patch in found["patches"]}) == sorted(path.stem for path in read)
    (summary,) = found["datasets"].values()
    assert summary["n_images"] == 8 and summary["n_images_too_small"] == 1


def test_what_a_stride_leaves_out(tmp_path, make_options, caplog):
    def rank(**arguments):
        given = Failing(), brightness_score(), make_options().val, 4, "steps", steps(tmp_path, [0.1, 0.9, 0.3])
        return patches.rank(*given, **arguments)

    summary, found = rank(stride=2)
    assert summary["n_patches"] == 5 and summary["dropped_pixels_pct"] == 0
    assert list(found.position) == [(0, 8 * k) for k in range(5)]
    summary, _ = rank(stride=6)
    assert summary["n_patches"] == 2 and summary["dropped_pixels_pct"] == pytest.approx(100 / 3)
    summary, _ = rank(n_patches=1)
    assert summary["n_patches"] == 1 and summary["dropped_pixels_pct"] == pytest.approx(200 / 3)
    assert summary["n_images_too_small"] == 0 and caplog.text == ""
    assert rank(n_patches=4)[0]["n_patches"] == 3
    assert "steps: expected 4 patches, found 3: a smaller --stride gives more" in caplog.text


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


def test_commands(model, images, tmp_path, capsys, caplog):
    options, *_ = model
    file = tmp_path / "experiments" / "tiny" / "models" / "00000005_G.ood.safetensors"
    file.unlink()
    assert command(options, tmp_path, "rank", "--input", images) == 2
    assert f"error: {file}: expected the OOD score of 00000005_G.safetensors" in caplog.text
    fitting = ("--n-patches", 20, "--patch", 16, "--batch", 5, "--seed", 3)
    assert command(options, tmp_path, "fit", *fitting, "--covariance", "empirical") == 0
    assert mahalanobis.load(file).describe()["covariance"] == "empirical"
    assert command(options, tmp_path, "fit", *fitting, "--shrinkage", 0.1) == 0
    assert mahalanobis.load(file).n_patches == 20 and mahalanobis.load(file).shrinkage == 0.1
    experiment = tmp_path / "experiments" / "tiny"
    ranking = ("--weights", experiment, "--input", images, "--n-sample", 1, "--output", tmp_path / "out")
    assert command(options, tmp_path, "rank", *ranking) == 0
    printed = capsys.readouterr().out
    assert "mean OOD score" in printed
    assert "OOD score: Gaussian of 20 patches of 16 x 16, 8 features, covariance shrunk by 0.1; their" in printed
    assert json.loads((tmp_path / "out" / "ood.json").read_text())["protocol"]["n_sample"] == 1
    sparse = (*ranking[:-1], tmp_path / "sparse", "--stride", 8, "--n-patches", 7)
    assert command(options, tmp_path, "rank", *sparse) == 0
    found = json.loads((tmp_path / "sparse" / "ood.json").read_text())
    assert (found["protocol"]["stride"], found["protocol"]["n_patches"], len(found["patches"])) == (8, 7, 7)
    assert all(top % 8 == left % 8 == 0 for top, left in (patch["position"] for patch in found["patches"]))
    assert ood.main(["plot", str(tmp_path / "out"), "--output", str(tmp_path / "both.svg")]) == 0
    assert capsys.readouterr().out.endswith(f"\n{tmp_path}/both.svg\n")
    assert f"tiny: {tmp_path.name}/in (8 patches)" in (tmp_path / "both.svg").read_text()
    # Two results of one model, on the same images: no curve stands for another.
    folders = [str(tmp_path / name) for name in ("out", "sparse")]
    for pooled, data_set in ((("--pooled",), ""), ((), f": {tmp_path.name}/in")):
        assert ood.main(["plot", *folders, "--output", str(tmp_path / "two.svg"), *pooled]) == 0
        text = (tmp_path / "two.svg").read_text()
        assert all(f"{folder}{data_set} ({n} patches)" in text for folder, n in zip(folders, (8, 7), strict=True))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("fit", ("--shrinkage", "2"), "--shrinkage: expected a number from 0 to 1"),
        ("fit", ("--batch", "0"), "--batch: expected at least 1"),
        ("fit", ("--patch", "0"), "--patch: expected at least 1"),
        ("fit", ("--covariance", "empirical", "--shrinkage", "0.5"), "--shrinkage: expected none beside --covariance"),
        ("rank", ("--n-sample", "0"), "--n-sample: expected at least 1"),
        ("rank", ("--n-patches", "0"), "--n-patches: expected at least 1"),
        ("rank", ("--stride", "6"), "--stride: expected a multiple of the scale 4, got 6"),
        (
            "table",
            ("--held-out", "test_text", "--test", "nowhere"),
            "--test: expected a folder of HR images or one of the data sets of the options",
        ),
        ("table", ("--test", "test_text"), "--held-out: expected a folder of HR images or one of the data sets"),
    ],
)
def test_mistakes_on_the_command_line(model, tmp_path, caplog, kind, arguments, message):
    assert command(model[0], tmp_path, kind, *arguments) == 2
    assert message in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
@pytest.mark.parametrize(("kind", "flag"), [("rank", "--input"), ("table", "--train"), ("table", "--test")])
def test_folders_that_results_cannot_be_named_after(model, tmp_path, caplog, kind, flag):
    folder = tmp_path / "d\udcff"
    write_png(folder / "0.png", torch.zeros(3, 48, 48))
    sets = {"--held-out": "test_text", "--test": "test_text"} if kind == "table" else {}
    given = {**sets, flag: str(folder)}
    assert command(model[0], tmp_path, kind, *(word for pair in given.items() for word in pair)) == 2
    assert "d\\udcff': expected a folder in UTF-8" in caplog.text
