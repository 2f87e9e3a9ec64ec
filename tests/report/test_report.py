import json
import math

import pytest
import results_folder

from robustflow.evaluation import frames
from robustflow.models.protocol import DENSITY
from robustflow.report import tables
from robustflow.report.columns import cell, protocol_of
from robustflow.report.results import read, read_metrics


def test_results_are_read_without_a_data_frame_per_image(tmp_path, monkeypatch):
    made, type_columns = [], frames.type_columns
    monkeypatch.setattr(frames, "type_columns", lambda frame: made.append(len(frame)) or type_columns(frame))
    monkeypatch.setitem(results_folder.IMAGES, "inside", [f"{k}" for k in range(30)])
    results = read(results_folder.make(tmp_path, ood=True))
    assert len(results.latents) == 32 and results.frame.ood.notna().all()
    assert made == [96]


@pytest.mark.parametrize("row", [{"psnr": 1.0}, {"unknown": 1.0}, {"psnr": "much"}, {"psnr": [1]}, {"sample": None}, 3])
def test_a_record_of_other_samples_is_not_taken(tmp_path, row):
    folder = results_folder.make(tmp_path, ood=True)
    file = folder / "records" / "inside" / "a.json"
    record = json.loads(file.read_text())
    record["rows"][1] = {**record["rows"][1], **row} if isinstance(row, dict) else row
    results_folder.write_json(file, record)
    taken = read(folder).latents
    assert ("inside", "a") not in taken and ("inside", "b") in taken


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (12.3456, "12.35"), (3e7, "3.0e+07"), (2e-4, "2.0e-04"), (math.inf, "inf")],
)
def test_cell(value, text):
    assert cell(value) == text


def test_table_for_the_screen(tmp_path):
    metrics = read_metrics(results_folder.make(tmp_path, heats=(0, 0.9)))
    lines = tables.table(metrics).splitlines()
    assert len(lines) == 2 + 2 * 2
    assert "LPIPS" in lines[0]
    assert lines[2].split()[:2] == ["inside", "0"]
    for dataset in metrics["datasets"].values():
        for of_heat in dataset["heats"].values():
            of_heat["lpips"] = of_heat["lpips_finite"] = None
    assert "LPIPS" not in tables.table(metrics)


def test_protocol_of_a_figure():
    protocol = results_folder.PROTOCOL
    assert protocol_of("psnr_y", protocol) == protocol["psnr"]
    assert protocol_of("lr_psnr_min", protocol) == protocol["lr_psnr"]
    assert protocol_of("lr_psnr_gt_min", protocol) == "as lr_psnr, against bicubic(ground truth)"
    assert protocol_of("inf_pct", protocol) == protocol["failures"]
    assert protocol_of("pixel_error_pct", protocol) == "outside [-0.5, 1.5] or not finite; on float samples"
    assert protocol_of("seed", protocol) == protocol_of("unheard_of", protocol) == ""


def test_bits_per_dimension_below_0_are_explained():
    metrics = {"protocol": {}, "datasets": {"a": {"n_images": 1, "bits_per_dim": -2.9, "heats": {"0.9": {}}}}}
    assert tables.footnotes([metrics]) == "bits/dim: of a density on [0, 1], so below 0 is usual; + 8 for 8-bit values"
    metrics["datasets"]["a"]["bits_per_dim"] = None
    assert "without ground truth" in tables.footnotes([metrics])
    text = "-log2 p(HR + training noise | LR) / (3HW), HR in [0, 1]"
    assert protocol_of("bits_per_dim", {"bits_per_dim": text}) == f"{text}; {DENSITY}"
    assert protocol_of("bits_per_dim", {}) == ""


def test_a_table_with_scores_says_what_they_are_by():
    metrics = {
        "protocol": {},
        "datasets": {"a": {"n_images": 1, "bits_per_dim": None, "ood_mean": 80.0, "heats": {"0.9": {}}}},
    }
    assert tables.footnotes([metrics]).endswith("\nOOD score: its Gaussian: not recorded")
    other = {**metrics, "ood_fit": results_folder.FITTED}
    assert "64 features, covariance empirical; their mean score 70.5 (out of" in tables.footnotes([other])
    # Tables of models show no score, and theirs differ.
    assert "OOD" not in tables.footnotes([metrics, other])
