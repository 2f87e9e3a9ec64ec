"""Options as they are written and listed: what is saved, and what robustflow options prints."""

from typing import Annotated

import pytest
from pydantic import Field

from robustflow.commands.options import main, plain_type, reference
from robustflow.options.keys import keys
from robustflow.options.load import dump, load, save
from robustflow.utils.errors import UserError


def test_dump_loads_to_equal_options(write, load_text, tmp_path):
    text = "plugins: []\nnetwork_G: {flow: {S: 1, K: 4, coupling: rq_spline}}\ntrain: {lr_G: 1e-7}"
    overrides = "name='1e5'|model=NCSR|path.results='é: #|yes'|datasets.test_x={mode: bundled, GT_size: 32}"
    options = load(write(text), overrides)
    assert options.name == "1e5"
    options = options.model_copy(update={"path": options.path.model_copy(update={"experiments": "a\x85b 😀"})})
    assert load_text(dump(options)) == options
    assert dump(options).startswith("name:")
    assert "python" not in dump(options)
    save(options, tmp_path / "saved.yml")
    assert load("saved.yml") == options
    assert not list(tmp_path.glob(".*"))


def test_save_leaves_the_old_file_if_it_fails(write, tmp_path, monkeypatch):
    options = load(write(""))
    (tmp_path / "saved.yml").write_text("old")

    def fail(file):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UserError, match="disk full"):
        save(options, tmp_path / "saved.yml")
    assert (tmp_path / "saved.yml").read_text() == "old"
    assert not list(tmp_path.glob(".*"))


def test_reference_lists_every_key():
    text = reference()
    missing = [path for path, _, _ in keys() if f"| `{path}` |" not in text]
    assert missing == []
    assert "| `train.niter` | integer ≥ 1 | 180000 |" in text
    assert "| `network_G.flow.coupling.bounds` |" in text
    assert "| `datasets.*.GT_size` | integer ≥ 1 or null | null |" in text
    assert "partial(" not in text and "### dataset mode LoL\n\nLOL (Wei et al., BMVC 2018)" in text
    assert "- `base`: " in text and "- `as_published: true` sets " in text


def test_reference_says_how_every_metric_is_measured():
    rows = [line[2:-2].split(" | ") for line in reference().partition("## Metrics")[2].splitlines() if "| `" in line]
    measured = {row[0].strip("`"): row[-1].strip() for row in rows if len(row) == 6}
    assert {"pixel_error_pct", "lr_psnr_gt_min", "psnr_y", "diversity_score"} <= set(measured)
    assert [key for key, how in measured.items() if not how] == []
    assert measured["pixel_error_pct"].startswith("outside [-0.5, 1.5] or not finite; ")


def test_the_command_prints_resolved_options(write, load_text, capsys):
    path = write("train: {niter: 3}")
    assert main([path, "--override", "val.n_sample=4"]) == 0
    options = load_text(capsys.readouterr().out)
    assert (options.train.niter, options.val.n_sample) == (3, 4)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (Annotated[Annotated[int, Field(ge=1)], Field(ge=2)], "integer ≥ 2"),
        (Annotated[Annotated[float, Field(gt=1, le=3)], Field(ge=1, lt=3)], "number > 1, < 3"),
        (Annotated[Annotated[float, Field(le=5)], Field(ge=0, le=9)], "number ≤ 5, ≥ 0"),
    ],
)
def test_of_several_bounds_the_narrowest_is_told(hint, text):
    assert plain_type(hint) == text
