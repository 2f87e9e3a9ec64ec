import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
import results_folder
from html_page import Page

from robustflow.commands import report
from robustflow.report import pages, pictures
from robustflow.report.results import Results, read
from robustflow.utils.errors import UserError

EXPLODING = [("out <b>side</b>", "sub/b")]


def page_of(folder):
    text = pages.write(folder).read_text()
    return text, Page(text)


def test_everything_there_is_is_on_the_page(tmp_path):
    folder = results_folder.make(tmp_path, heats=(0.0, 0.9), exploding=EXPLODING, ood=True)
    text, page = page_of(folder)
    for section in ("summary", "set-1", "set-2", "curves", "best", "latents", "ood", "options"):
        assert f'id="{section}"' in text
    for said in ("largest |sample - bicubic_up(LR)|", "2.15.0", "9 finite of 9 samples"):
        assert said in text
    assert "5 finite of 6 samples, 1 of 2 inputs with finite samples alone" in text
    low, high = results_folder.wilson(1, 2)
    assert f"{low:.4g} to {high:.4g}" in text
    assert len(page.all("svg")) >= 6 + 1 + 4 + 1 + 2


def test_names_and_options_are_no_markup(tmp_path):
    text, page = page_of(results_folder.make(tmp_path))
    assert "<b>side" not in text
    assert "alert(1)</script>" not in text
    assert len(page.all("script")) == 1


def test_nothing_is_fetched(tmp_path):
    text, page = page_of(results_folder.make(tmp_path, exploding=EXPLODING))
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.all("img") if "src" in image)
    assert {link["href"] for link in page.all("link")} == {"data:,"}
    addresses = set(re.findall(r"https?://[^\"' <)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"url\((?!#)|@import", text)


def test_ids_are_unique_and_references_lead_somewhere(tmp_path):
    text, _ = page_of(results_folder.make(tmp_path, heats=(0.0, 0.9), ood=True))
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(set(ids)) == len(ids)
    references = set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', text))
    assert references <= set(ids)


def test_the_page_is_the_same_when_made_again(tmp_path):
    folder = results_folder.make(tmp_path, heats=(0.0, 0.9), exploding=EXPLODING, ood=True)
    first = pages.write(folder).read_bytes()
    assert pages.write(folder).read_bytes() == first


def test_older_results_without_records(tmp_path):
    text, page = page_of(results_folder.make(tmp_path, records=False))
    assert 'id="latents"' not in text
    assert len(page.all("article")) == 5


def test_results_without_pictures_or_ground_truth(tmp_path):
    folder = results_folder.make(tmp_path, gt=False)
    for picture in folder.rglob("*.png"):
        picture.unlink()
    text, page = page_of(folder)
    assert "val.save_images: false" in text
    assert page.all("article") == []


def test_versions_that_were_not_recorded(tmp_path):
    folder = results_folder.make(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["versions"]
    results_folder.write_json(folder / "metrics.json", metrics)
    assert "not recorded" in page_of(folder)[0]


def test_one_is_no_plural(tmp_path):
    folder = results_folder.make(tmp_path)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["protocol"]["n_sample"] = metrics["datasets"]["inside"]["n_images"] = 1
    metrics["datasets"] = {"inside": metrics["datasets"]["inside"]}
    results_folder.write_json(folder / "metrics.json", metrics)
    text = page_of(folder)[0]
    assert all(f"<span>{fact}</span>" in text for fact in ("1 data set", "1 image", "1 sample each"))
    assert ">1 input" in text and ">1 inputs" not in text


@pytest.mark.parametrize("name", ["metrics.json", "metrics.csv"])
def test_folder_without_results(tmp_path, name, capsys):
    folder = results_folder.make(tmp_path)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}.*run test.py first"):
        pages.write(folder)
    assert report.main([str(folder)]) == 2


def test_damaged_results(tmp_path):
    folder = results_folder.make(tmp_path)
    (folder / "inside" / "a_gt.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"a_gt\.png: expected a complete PNG"):
        pages.write(folder)
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="expected JSON"):
        pages.write(folder)


@pytest.mark.parametrize("name", ["metrics.json", "ood.json", "records/inside/a.json"])
def test_json_of_something_else(tmp_path, name):
    folder = results_folder.make(tmp_path, ood=True)
    (folder / name).write_text("[5]")
    with pytest.raises(UserError, match=rf"{name}: expected a JSON object, got \[5\]; run test.py again"):
        pages.write(folder)


def choose(residuals, limit=pictures.MAX_IMAGES, **more):
    """What is chosen of images "00", "01", … of these residuals; ``more``: other columns."""
    columns = {"image": [f"{k:02d}" for k in range(len(residuals))], "max_residual": residuals, "pixel_errors": 0}
    frame = pd.DataFrame({**columns, "ood": math.nan, **more})
    return pictures.choose(frame, Results(Path(), {"protocol": {}}, frame), limit)


def test_the_worst_come_first_then_evenly_spread_ones():
    residuals, psnr, errors = [0.1] * 20, [30.0] * 20, [0] * 20
    residuals[13], residuals[7], psnr[7], errors[7] = 0.5, 0.2, 20.0, 3
    chosen = choose(residuals, 5, psnr=psnr, pixel_errors=errors)
    assert list(chosen) == ["13", "07", "00", "06", "14"]
    assert chosen["13"] == ("largest residual",)
    assert chosen["07"] == ("most pixel errors", "lowest PSNR")


def test_fewer_images_than_wanted():
    assert list(choose([1.0, 0.5])) == ["00", "01"]
    assert choose([]) == {}


def test_large_pictures_are_shown_smaller_with_a_crop_around_the_failure(tmp_path):
    folder = results_folder.make(tmp_path, size=768, exploding=EXPLODING)
    results = read(folder)
    parts = pictures.list_parts(results, "out <b>side</b>", "sub/b")
    assert [label for _, label, _, _ in parts][:4] == ["input", "ground truth", "pixel errors", "std of samples"]
    shown = pictures.read(parts)
    budget = pictures.Budget()
    made = pictures.embed("large", shown, budget)
    sizes = {shot.label: (shot.width, shot.height) for shot in made.shots}
    assert sizes["input"] == (192, 192)
    assert sizes["sample 1"] == (512, 512)
    assert {shot.label: (shot.width, shot.height) for shot in made.crops}["sample 1"] == (256, 256)
    assert budget.left == pictures.BUDGET - sum(len(shot.src) for shot in (*made.shots, *made.crops))

    small = pictures.Budget(sum(len(shot.src) for shot in made.shots))
    without = pictures.embed("large", shown, small)
    assert without.crops == ()
    assert "no space for a crop" in without.note
    assert pictures.embed("large", shown, small) is None


def test_small_budget_shows_the_worst_and_says_so(tmp_path, monkeypatch):
    folder = results_folder.make(tmp_path, exploding=EXPLODING)
    monkeypatch.setattr(pages.pictures.Budget.__init__, "__defaults__", (9000,))
    text, page = page_of(folder)
    assert 0 < len(page.all("article")) < 5
    assert re.search(r"Shown: \d of 3 inputs|no space left", text)


def test_pages_of_applications_are_linked(tmp_path):
    folder = results_folder.make(tmp_path)
    assert 'id="applications"' not in pages.write(folder).read_text()
    (folder / "apply").mkdir()
    for name in ("b.html", "a & c.html", "a.png"):
        (folder / "apply" / name).write_text("x")
    _, page = page_of(folder)
    assert [link["href"] for link in page.all("a") if "apply/" in link["href"]] == [
        "apply/a%20%26%20c.html",
        "apply/b.html",
    ]


def test_what_is_special_about_a_data_set():
    options = {
        "name": "x",
        "mode": "bundled",
        "seed": 0,
        "enhance": False,
        "lr_gain": 1.0,
        "lr_noise": 0.0,
        "n_crops": 1,
    }
    options |= {"lr_invert": True, "GT_size": None}
    assert pages.about({"datasets": {"x": options}}, "x") == "mode: bundled, n_crops: 1, lr_invert: True"
    other = {"downsampling": "area", "degrade": [{"type": "noise", "std": 0.1}]}
    assert pages.about({"datasets": {"x": other}}, "x") == "downsampling: area, degrade: [{type: 'noise', std: 0.1}]"
    assert pages.about({}, "x") == ""
