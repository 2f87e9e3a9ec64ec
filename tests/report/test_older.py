"""Results of earlier versions, which left out samples that are not finite."""

import csv
import json

import results_folder

from robustflow.report import compare, pages, paired
from robustflow.report.results import LEFT_OUT, read, read_metrics

OUTSIDE = "out <b>side</b>"


def make(tmp_path):
    return [
        results_folder.make(tmp_path / name, f"demo/{name}", exploding=[(OUTSIDE, "sub/b")], older=older)
        for name, older in (("before", True), ("now", False))
    ]


def test_their_figures_stand_under_the_names_of_finite_samples(tmp_path):
    before, _ = make(tmp_path)
    written = json.loads((before / "metrics.json").read_text())["datasets"]
    for name, dataset in read_metrics(before)["datasets"].items():
        found, was = dataset["heats"]["0.9"], written[name]["heats"]["0.9"]
        for key in ("lr_psnr_min", "lr_psnr_std", "psnr", "lpips", "diversity_sigma"):
            assert found[f"{key}_finite"] == was[key]
            assert found[key] == (was[key] if name == "inside" else None)
        assert {key: found[key] for key in ("inf_pct", "max_residual", "n_finite")}.items() <= was.items()


def test_they_are_compared_but_never_taken_for_figures_of_all_samples(tmp_path):
    runs = [read(folder) for folder in make(tmp_path)]
    compare.check_protocols(runs)
    compare.write(runs, tmp_path / "both")
    rows = list(csv.DictReader((tmp_path / "both" / "summary.csv").read_text().splitlines()))
    inside, outside = ({row["model"]: row for row in rows if row["dataset"] == name} for name in ("inside", OUTSIDE))
    assert inside["before"]["psnr"] == inside["before"]["psnr_finite"] == inside["now"]["psnr"]
    assert outside["before"]["psnr"] == ""
    assert outside["before"]["psnr_finite"] == outside["now"]["psnr_finite"]
    assert float(outside["now"]["psnr"]) < float(outside["now"]["psnr_finite"])
    for end in ("md", "tex"):
        text = (tmp_path / "both" / f"summary.{end}").read_text()
        assert f"before, of an earlier version: samples that are not finite were {LEFT_OUT}." in text
    assert "before, of an earlier version" in (tmp_path / "both" / "report.html").read_text()
    headers, (_, of_outside) = paired.compare_runs(runs)
    # The image with a failed sample has no figure over all samples before.
    assert dict(zip(headers, of_outside, strict=True))["Δ PSNR"] == "0 (n = 1)"


def test_they_have_a_report(tmp_path):
    before, now = make(tmp_path)
    assert len(read(before).latents) == 5
    assert f"Samples that are not finite are {LEFT_OUT}." in pages.write(before).read_text()
    assert LEFT_OUT not in pages.write(now).read_text()
