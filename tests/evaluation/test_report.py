import copy
import math

import pytest
import torch
from PIL import Image

from robustflow.data.images import write_png
from robustflow.errors import UserError
from robustflow.evaluation import gallery, report
from robustflow.evaluation.evaluate import write_results
from robustflow.evaluation.metrics.robustness import failures
from robustflow.evaluation.summary import Row, summarize

GREY = torch.full((3, 8, 8), 0.5)
IMAGES = {"inside": ["a", "b", "c"], "outside": ["a", "b"]}


def run_of(folder, name, exploding=()):
    """A results folder with two samples per image; sample 1 of the images in ``exploding`` is infinite."""
    rows, datasets = [], {}
    for dataset, images in IMAGES.items():
        for image in images:
            write_png(folder / dataset / f"{image}_lr.png", GREY[:, :2, :2])
            write_png(folder / dataset / f"{image}_gt.png", GREY)
            for index in range(2):
                sample = GREY + 0.01 * index
                if index == 1 and (dataset, image) in exploding:
                    sample = torch.full_like(GREY, math.inf)
                write_png(folder / dataset / f"{image}_t0.9_{index:02d}.png", sample)
                rows.append(Row(dataset, image, 0.9, index, failures(sample, GREY), 40.0, 30.0, 0.9))
        of_set = [row for row in rows if row.dataset == dataset]
        datasets[dataset] = {"n_images": len(images), "heats": {"0.9": summarize(of_set)}, "bits_per_dim": -2.5}
    result = {"name": name, "weights": "w", "protocol": {"n_sample": 2, "seed": 0}, "datasets": datasets}
    write_results(folder, result, rows)
    return folder


@pytest.fixture
def folders(tmp_path):
    return [run_of(tmp_path / "x", "demo/x", exploding=[("outside", "b")]), run_of(tmp_path / "y", "demo/y")]


def test_one_table_has_every_model_and_data_set(folders, tmp_path, capsys):
    assert report.main([*map(str, folders), "--output", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[:2] for line in lines] == [["x", "inside"], ["x", "outside"], ["y", "inside"], ["y", "outside"]]
    assert "inf" in lines[1]
    assert "inf" not in lines[3]
    summary = (tmp_path / "summary.md").read_text()
    assert "3 of inside, 2 of outside" in summary
    assert summary.count("| x ") == summary.count("| y ") == 2


def test_gallery_shows_the_worst_sample_of_the_worst_image(folders):
    shown = gallery.choose(folders, "inside", n=2)
    assert [(row.dataset, row.image) for row in shown] == [("inside", "a"), ("inside", "b"), ("outside", "b")]
    assert [file.name for file in shown[-1].samples] == ["b_t0.9_01.png", "b_t0.9_01.png"]
    assert shown[-1].residuals[0] == math.inf


def test_gallery_picture_holds_the_samples(folders, tmp_path):
    report.main([*map(str, folders), "--output", str(tmp_path)])
    with Image.open(tmp_path / "gallery.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert (255, 0, 255) in colours
    assert (128, 128, 128) in colours


def test_runs_of_different_protocols_are_not_joined(folders):
    reports = [report.read(folder) for folder in folders]
    reports[1] = copy.deepcopy(reports[1])
    reports[1]["protocol"]["n_sample"] = 5
    with pytest.raises(UserError, match="different protocols"):
        report.compare(reports, "simple")


def test_folder_without_results(tmp_path, capsys):
    assert report.main([str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (12.3456, "12.35"), (3e7, "3.0e+07"), (2e-4, "2.0e-04"), (math.inf, "inf")],
)
def test_cell(value, text):
    assert report.cell(value) == text
