import csv
import json
import math
import re
from dataclasses import replace

import pandas as pd
import pytest
import results_folder
from PIL import Image
from scipy import stats

from robustflow.commands import compare as command
from robustflow.report import columns, compare, gallery, paired, tables
from robustflow.report.application import Outcome
from robustflow.report.results import read
from robustflow.utils.errors import UserError

OUTSIDE = "out <b>side</b>"
EXPLODING = [(OUTSIDE, "sub/b")]


@pytest.fixture
def folders(tmp_path):
    return [
        results_folder.make(tmp_path / "x", "demo/x", exploding=EXPLODING),
        results_folder.make(tmp_path / "y", "demo/y", offset=1.0),
    ]


@pytest.fixture
def runs(folders):
    return [read(folder) for folder in folders]


def call(folders, *more):
    return command.main([*map(str, folders), *map(str, more)])


def test_one_table_has_every_model_and_data_set(folders, tmp_path, capsys):
    assert call(folders, "--output", tmp_path / "out") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [line[0] for line in lines] == ["inside", "inside", "out", "out"]
    assert "inf" in lines[2]
    assert "inf" not in lines[3]
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["curves.png", "gallery.png", "report.html", "summary.csv", "summary.md", "summary.tex"]
    assert f"3 of inside, 2 of {OUTSIDE}" in (tmp_path / "out" / "summary.md").read_text()


def test_default_output_lies_beside_the_results(folders, tmp_path):
    assert call(folders) == 0
    assert (tmp_path / "comparison" / "report.html").is_file()


def test_best_is_bold_unless_all_are_equal(runs):
    _, _, *lines = compare.table(runs, "markdown").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    headers = [cell.strip() for cell in compare.table(runs, "markdown").splitlines()[0].strip("|").split("|")]
    psnr, bits = headers.index("PSNR"), headers.index("bits/dim")
    assert [line[psnr].startswith("**") for line in cells] == [False, True, False, True]
    assert not any(line[bits].startswith("**") for line in cells)
    assert cells[2][headers.index("max residual")] == "inf"
    assert cells[3][headers.index("max residual")] == "**0.12**"


def test_a_run_alone_has_no_bold(runs):
    assert "**" not in compare.table(runs[:1], "markdown")


def test_latex_is_escaped(runs):
    text = compare.table(runs, "latex")
    assert r"\%PixelErr" in text
    assert r"$\tau$" in text
    assert r"$\infty$" in text
    assert r"\textbf{" in text
    assert tables.latex("a_b\\ {x}") == r"a\_b\textbackslash{} \{x\}"


def test_latex_has_minus_signs(runs):
    for run in runs:
        run.metrics["datasets"]["inside"]["bits_per_dim"] = -2.5
    assert "$-$2.5 &" in compare.table(runs, "latex")


@pytest.mark.parametrize(("value", "text"), [(-3e-4, "−3.0e-04"), (3e-4, "+3.0e-04"), (-2.5, "−2.5"), (0, "0")])
def test_differences_have_signs(value, text):
    assert columns.signed(value) == text


def test_csv_has_every_digit_and_the_intervals(runs):
    first, *_ = csv.DictReader(compare.table(runs, "csv").splitlines())
    assert float(first["psnr"]) == runs[0].metrics["datasets"]["inside"]["heats"]["0.9"]["psnr"]
    low, high = results_folder.wilson(0, 3)
    assert (float(first["inf_pct_low"]), float(first["inf_pct_high"])) == (low, high)
    assert first["model"] == "x"


def test_runs_of_different_protocols_are_not_joined(folders, tmp_path, capsys, caplog):
    metrics = json.loads((folders[1] / "metrics.json").read_text())
    datasets = {**metrics["protocol"]["datasets"], "inside": {"GT_size": 8}, "another": {"mode": "folder", "seed": 3}}
    metrics["protocol"] |= {"n_sample": 5, "datasets": datasets}
    results_folder.write_json(folders[1] / "metrics.json", metrics)
    with pytest.raises(UserError, match=r"different protocols: .*GT_size is null and 8") as caught:
        compare.check_protocols([read(folder) for folder in folders])
    assert f"data set another is in {folders[1]} alone; " in str(caught.value)
    assert "n_sample is 3 and 5; datasets.inside.mode is 'folder' and null" in str(caught.value)
    assert call(folders, "--output", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("lpips", ("not computed: put it there", "not computed: fetch it")),
        ("lr_psnr", ("bicubic", "bicubic; where a data set names another downsampling, that in place of bicubic")),
    ],
)
def test_what_changes_no_figure_may_be_worded_anew(folders, key, texts):
    for folder, text in zip(folders, texts, strict=False):
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["protocol"][key] = text
        results_folder.write_json(folder / "metrics.json", metrics)
    compare.check_protocols([read(folder) for folder in folders[:2]])


def test_folder_without_results(tmp_path):
    assert call([tmp_path], "--output", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_differences_are_per_image(runs):
    for run in runs:
        run.frame["pixel_errors"] = run.frame.pixel_errors.clip(upper=1)  # one pixel is enough
        run.frame["bits_per_dim"] = -2.5
    headers, (inside, outside) = paired.compare_runs(runs)
    inside, outside = (dict(zip(headers, row, strict=True)) for row in (inside, outside))
    assert (inside["data set"], inside["model"]) == ("inside", "y")
    # Equal differences: an interval of no length.
    assert inside["Δ PSNR"] == "+1 [+1, +1] (n = 3)"
    assert inside["Δ bits/dim"] == "0 [0, 0] (n = 3)"
    assert inside["Δ LPIPS"] == "0 [0, 0] (n = 3)"
    # Sample 1 of one image is infinite in the first run: the mean is over the other samples.
    assert outside["Δ max residual"].endswith("(n = 2)")
    assert outside["pixel errors"].startswith("0 / 1 / 0 / 1 ")


def test_interval_is_that_of_a_paired_t_test():
    ours, theirs = pd.Series([3.0, 4.0, 6.0, 5.0, math.nan]), pd.Series([4.0, 4.5, 9.0, 5.5, 1.0])
    expected = stats.ttest_rel(theirs[:4], ours[:4]).confidence_interval(0.95)
    low, high = (columns.cell(end).replace("-", "−") for end in (expected.low, expected.high))
    assert paired.interval(theirs - ours, (0, None)) == f"+1.25 [{low}, +{high}] (n = 4)"
    assert paired.interval((theirs - ours)[:1], (0, None)) == "+1 (n = 1)"


def test_a_figure_without_finite_values_is_left_out(runs):
    runs[0].frame["ssim"] = math.inf
    assert not any("SSIM" in header for header in paired.compare_runs(runs)[0])


@pytest.mark.parametrize(("first", "other"), [(0, 0), (5, 0), (3, 9), (4, 4)])
def test_failures_of_two_runs(first, other):
    kinds = [(True, True)] * 7 + [(True, False)] * first + [(False, True)] * other + [(False, False)] * 2
    least, n = min(first, other), first + other
    # McNemar: how likely so uneven a split of the discordant ones is.
    p_value = min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)
    found = paired.count_failures(pd.DataFrame(kinds, columns=["first", "other"]))
    assert found == f"7 / {first} / {other} / 2 (p = {p_value:.2g})"


def test_gallery_shows_the_worst_sample_of_the_worst_image(runs):
    shown = gallery.choose(runs, n=2)
    assert [(dataset, image) for dataset, image, _ in shown] == [("inside", "a"), ("inside", "b"), (OUTSIDE, "sub/b")]
    files, texts = zip(*shown[-1][-1], strict=True)
    assert [file.name for file in files] == ["b_t0.9_01.png", "b_t0.9_02.png"]
    assert texts[0] == "max residual infinite"


def test_gallery_images_are_spread_over_all_of_a_data_set(runs):
    rows = runs[0].of_image("inside", "a")
    run = replace(runs[0], frame=pd.concat([rows.assign(image=name) for name in "abcdefg"], ignore_index=True))
    assert [image for _, image, _ in gallery.choose([run], n=4)] == ["a", "b", "d", "f"]


def test_gallery_picture_holds_the_samples(folders, tmp_path):
    call(folders, "--output", tmp_path)
    with Image.open(tmp_path / "gallery.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert (255, 0, 255) in colours


def test_report_shows_the_worst_sample_of_each_run_side_by_side(folders, tmp_path):
    call(folders, "--output", tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<article") == 5
    assert text.count("data-group") == 5 + 1  # and once in the script
    assert 'alt="x of sub/b"' in text
    assert 'alt="y of sub/b"' in text
    assert "the furthest from the input of 3 samples" in text


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [read(results_folder.make(tmp_path / place, "demo/x")) for place in ("p", "q")]
    assert compare.names_of(runs) == [str(tmp_path / "p"), str(tmp_path / "q")]
    for names, shown in (
        (["mini/affine/0", "mini/spline/0"], ["affine", "spline"]),
        (["mini/affine/0", "mini/affine/1"], ["0", "1"]),
        (["mini/affine/0", "affine/0"], ["mini/affine/0", "affine/0"]),
    ):
        runs = [read(results_folder.make(tmp_path / f"{k}{name}", name)) for k, name in enumerate(names)]
        assert compare.names_of(runs) == shown


def test_markdown_tables_keep_their_rows_and_columns():
    rows = [["a|b", "two\nlines", "1"]]
    found = [
        tables.align(rows, ["data set", "model", "max |value|"], 2, "markdown"),
        Outcome("", {"": [["file", "model", "max |value|"], *rows]}, {}).text(),
    ]
    for text in found:
        assert [len(re.findall(r"(?<!\\)\|", line)) for line in text.strip().splitlines()] == [4, 4, 4]
        assert r"max \|value\|" in text and r"a\|b" in text and "two lines" in text
