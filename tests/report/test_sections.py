import math
from statistics import fmean, pstdev

import pandas as pd
import pytest
import results_folder

from robustflow.evaluation.metrics import Column
from robustflow.report import ood, plots, sections
from robustflow.report.results import read


def test_best_of_n_is_the_mean_over_images_of_the_best_so_far():
    values = {"a": (20.0, 22.0, 21.0), "b": (None, 24.0, 26.0)}
    rows = [(image, k, value) for image, found in values.items() for k, value in enumerate(found)]
    frame, psnr = pd.DataFrame(rows, columns=["image", "sample", "psnr"]), Column("psnr", "PSNR", "high")
    assert sections._best(frame, psnr) == [(1, 20.0, ""), (2, 23.0, ""), (3, 24.0, "")]
    assert sections._best(frame.assign(psnr=[math.nan, math.inf] * 3), psnr) == []


def test_latents_of_several_images_are_pooled():
    values = [[-1.0, 0.0, 1.0, 1.0], [2.0, 3.0]]
    edges, density, text = sections._pool(
        [{"edges": [-4, 1.5, 4], "counts": [len(z), 0], "mean": fmean(z), "std": pstdev(z)} for z in values]
    )
    together = [value for one in values for value in one]
    assert text == f"mean {fmean(together):.4g}, std {pstdev(together):.4g}, 2 inputs"
    assert edges == [-4, 1.5, 4]
    assert density == [pytest.approx(1 / 5.5), 0]


def test_failures_against_the_rank_of_the_score(monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "rank", lambda *arguments: drawn.setdefault("arguments", arguments) and "")
    pairs = [(score, score >= 15) for score in range(20)]
    sections.rank_plot(pairs[::-1], "inputs")
    points, low, high, average, what = drawn["arguments"]
    x, y, _ = zip(*points, strict=True)
    assert x == (5, 15, 25, 35, 45, 55, 65, 75, 85, 95)
    assert y == (0, 0, 0, 0, 0, 0, 0, 50, 100, 100)
    assert average == 25
    assert low[0] == 0
    assert high[-1] == 100
    assert what == "inputs"


def test_no_plot_without_data(tmp_path):
    results = read(results_folder.make(tmp_path, records=False, gt=False))
    assert [section.id for section in sections.sections(results)] == ["best"]
    assert len(sections.sections(results)[0].plots) == 1  # LR-PSNR needs no ground truth


def test_plots_carry_their_values_for_those_who_do_not_see_them():
    text = plots.curves({"a <b>": [(0, 2.5, ""), (1, 3.5, "")], "none": []}, "x", "y", "Rise & fall")
    assert "<title" in text
    assert "Rise &amp; fall</title>" in text
    assert "a &lt;b&gt;: 2.5 at 0, 3.5 at 1</desc>" in text
    assert "var(--series-1)" in text
    assert "currentColor" in text
    assert "#fe0" not in text
    assert text == plots.curves({"a <b>": [(0, 2.5, ""), (1, 3.5, "")], "none": []}, "x", "y", "Rise & fall")


def test_inputs_unlike_the_training_patches_are_listed(tmp_path):
    results = read(results_folder.make(tmp_path, records=False, gt=False))
    results.metrics["unlike_training"] = {"a": {"x": 812.34, "y": None}, "b": {}}
    (found,) = [section for section in sections.sections(results) if section.id == "ood"]
    assert found.note == "a, above 99 % of the training patches: x (812.3), y (–)."
    results.metrics["less_colour_than_training"] = {"a": {"x": 0.0}}
    (found,) = [section for section in sections.sections(results) if section.id == "ood"]
    assert found.note.endswith("y (–). a, less colour than 99 % of the training patches: x (0).")
    results.metrics["unlike_training"] = {"a": {f"{k:04d}": float(k) for k in range(5000)}}
    (found,) = [section for section in sections.sections(results) if section.id == "ood"]
    assert ": 0000 (0), 0001 (1), " in found.note
    assert "0039 (39) and 4960 more (metrics.json). a, less" in found.note


def test_patches_of_earlier_results_are_reported(tmp_path):
    results = read(results_folder.make(tmp_path, ood=True, exploding=[("inside", "b")]))
    (now,) = [section for section in sections.sections(results) if section.id == "ood"]
    assert "Gaussian of 500 patches of 160 x 160, 64 features, covariance empirical" in now.plots[1][1]
    assert now.plots[0][1].endswith("Score: its Gaussian: not recorded")
    for patch in results.ood["patches"]:
        patch["pixel_error"] = patch.pop("failed_samples_pct") > 0
    (before,) = [section for section in sections.sections(results) if section.id == "ood"]
    assert before == now


def test_a_bar_is_drawn_where_there_is_one():
    points = {"a": [(0, 43.21, ""), (1, 47.36, "")]}
    with_bar, without = (plots.curves(points, "x", "y", "name", bar=bar) for bar in (44.44, None))
    assert ">44.44<" in with_bar
    assert ">44.44<" not in without


def test_names_with_dollars_are_no_formulas(tmp_path):
    name = "a$_$b"  # as a formula, a mistake
    line = [(0.0, 1.0, ""), (1.0, 2.0, "")]
    plots.save_png(plots.grid({name: [({name: line}, "x", "y", None)]}), tmp_path / "curves.png")
    ood.plot({name: [(0.0, 0.0), (1.0, 100.0)]}, tmp_path / "ood.png")


def test_names_that_begin_with_an_underscore_are_in_the_legend():
    names = ["_a", "b_c"]
    figure = plots.grid({"": [({name: [(0.0, 1.0, "")] for name in names}, "x", "y", None)]})
    assert [text.get_text().strip() for text in figure.legends[0].get_texts()] == names
