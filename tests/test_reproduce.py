"""Recipes: what a table or figure of a paper takes."""

import logging
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import readme
import results_folder
from pydantic import ValidationError
from scipy import stats

from robustflow import cli
from robustflow.commands import reproduce
from robustflow.commands.reproduce import Job
from robustflow.options.load import load_recipe
from robustflow.options.recipe import Claim, RecipeOptions
from robustflow.report import reproduction
from robustflow.report.results import read
from robustflow.utils import children
from robustflow.utils.errors import RunFailed, UserError

pytestmark = pytest.mark.long

RECIPES = sorted((readme.ROOT / "confs" / "recipes").glob("*.yml"))
RECIPE = """
title: A table
source: nobody
encoders:
  - options: encoder.yml
runs:
  - {options: flow.yml, label: affine, published: {held out: {psnr: 27.09}}}
  - {options: flow.yml, name: spline, override: network_G.flow.coupling=rq_spline}
columns: [pixel_error_pct, psnr, bits_per_dim]
each:
  - report results/{name}
then:
  - compare {results} --output {output}
"""
FLOW = """
name: flow
model: FS-NCSR
datasets:
  train: {mode: folder, dataroot_GT: nowhere, GT_size: 160}
  test_a: {mode: folder, dataroot_GT: nowhere, name: held out}
network_G: {train_RRDB_delay: 0.5, flow: {L: 2, S: [0, 1], K: 1}}
path: {pretrain_model_G: experiments/encoder}
"""
ENCODER = """
base: flow.yml
name: encoder
model: RRDB
network_G: {train_RRDB_delay: 0, flow: {S: 0}}
path: {pretrain_model_G: null}
"""


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe_is_right(file):
    recipe = load_recipe(file)
    commands = [*recipe.first, *recipe.each, *recipe.then, *(one for run in recipe.runs for one in run.each or ())]
    assert {shlex.split(command)[0] for command in commands} <= set(cli.COMMANDS)
    starts = {start.split()[0] for start in recipe.small}
    assert starts <= {command.split()[0] for command in commands}
    for small in (False, True):
        jobs = [Job(file, given, None, small=small) for given in (*recipe.encoders, *recipe.runs)]
        reproduce._require_names(jobs)
        experiments = {str(job.experiment) for job in jobs}
        for job in jobs:
            names = {dataset.name or key for key, dataset in job.options.datasets.items()}
            assert job.given.published.keys() <= names
            assert {key for of_set in job.given.published.values() for key in of_set} <= set(recipe.columns)
            start = job.options.path.pretrain_model_G
            assert start is None or start in experiments
            assert not small or job.options.name.startswith("small/")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("recipe", RECIPE), ("flow", FLOW), ("encoder", ENCODER)):
        Path(f"{name}.yml").write_text(text)
    return tmp_path


@pytest.fixture
def in_process(monkeypatch):
    """Have the commands of a recipe run in this process, and collect them."""
    run = []

    def run_chains(chains, at_once):
        for words in (words for commands in chains.values() for words in commands):
            run.append(words[0])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(logging.getLogger("robustflow"), "level", logging.NOTSET)
                assert cli.main(words) == 0

    monkeypatch.setattr(reproduce, "run_side_by_side", run_chains)
    return run


def test_the_chain_goes_on_where_it_was_and_ends_with_the_same_table(place, in_process, capfd):
    command = ["recipe.yml", "--small", "--jobs", "2"]
    assert reproduce.main(command) == 0
    told = capfd.readouterr()
    table = Path("results/recipe_small/table.md").read_text()
    assert table in told.out
    assert "3 trainings: 0:0" in told.out
    assert in_process == ["reproduce", "train", *2 * ["train", "test", "report"], "compare"]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "held out" in line]
    assert [line[:3] + line[5:6] for line in lines[:2]] == [
        ["held out", "0.9", "affine", "27.09"],
        ["held out", "0.9", "spline", "–"],
    ]
    assert Path("results/recipe_small/summary.md").is_file()
    # As if it had been killed between two checkpoints of the last run.
    shutil.rmtree("results/small/spline")
    for file in Path("experiments/small/spline").glob("*/00000010*"):
        file.unlink()
    Path("results/recipe_small/table.md").unlink()
    assert reproduce.main(command) == 0
    assert Path("results/recipe_small/table.md").read_text() == table
    assert "1 training: 0:0" in capfd.readouterr().out


def test_mistakes_are_told_before_anything_is_done(place, caplog):
    assert reproduce.main(["no_such"]) == 2
    assert "expected a recipe" in caplog.text
    Path("recipe.yml").write_text(RECIPE.replace("title:", "titel:"))
    assert reproduce.main(["recipe.yml"]) == 2
    assert "titel: unknown key; did you mean 'title'?" in caplog.text
    Path("recipe.yml").write_text(RECIPE.replace("name: spline, ", ""))
    assert reproduce.main(["recipe.yml"]) == 2
    assert "'flow' names two runs that differ" in caplog.text
    assert reproduce.main(["recipe.yml", "--jobs", "0"]) == 2
    assert not Path("results").exists() and not Path("experiments").exists()


def test_missing_data_end_the_check(place, capfd):
    assert reproduce.main(["recipe.yml", "--check"]) == 2
    assert not Path("experiments").exists()


def recipe_of(**changes):
    runs = [{"options": "x.yml", "label": "x", **changes}]
    return RecipeOptions.model_validate(
        {"title": "t", "source": "s", "runs": tuple(runs), "columns": ("pixel_error_pct", "psnr", "lr_psnr_min")}
    )


def test_intervals_of_one_seed_and_of_several(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.normal(25, 1, (3, 3)) + generator.normal(0, 2, (3, 1))  # seeds, inputs
    runs = []
    for seed, of_inputs in enumerate(values):
        exploding = {("inside", "b")} if seed == 1 else ()
        run = read(results_folder.make(tmp_path / str(seed), exploding=exploding))
        psnr = dict(zip(results_folder.IMAGES["inside"], of_inputs, strict=True))
        run.frame["psnr"] = run.frame.image.map(psnr)
        run.metrics["datasets"]["inside"]["heats"]["0.9"]["psnr"] = of_inputs.mean()
        runs.append(run)
    rate = reproduction.measure(runs[1:2], "inside", "0.9", "pixel_error_pct")
    assert rate == pytest.approx((100 / 3, *results_folder.wilson(1, 3)), rel=1e-4)
    one = reproduction.measure(runs[:1], "inside", "0.9", "psnr")
    assert one[1:] == pytest.approx(stats.t.interval(0.95, 2, values[0].mean(), stats.sem(values[0])))
    parts = np.array([stats.sem(values.mean(0)) ** 2, stats.sem(values.mean(1)) ** 2])
    half = stats.t.ppf(0.975, parts.sum() ** 2 / (parts**2 / 2).sum()) * math.sqrt(parts.sum())
    expected = (values.mean(), values.mean() - half, values.mean() + half)
    assert reproduction.measure(runs, "inside", "0.9", "psnr") == pytest.approx(expected)


def study_of(tmp_path, claims=(), reference="affine"):
    """A recipe of two models with two training seeds each, and what they found: b is better by 3 dB and never fails."""
    runs = tuple({"options": "x.yml", "label": label} for label in ("affine", "b"))
    recipe = RecipeOptions.model_validate(
        {
            "title": "t",
            "source": "s",
            "runs": runs,
            "seeds": (0, 1),
            "temperature": 0.9,
            "reference": reference,
            "columns": ("pixel_error_pct", "inf_pct", "max_residual", "psnr", "lr_psnr_min", "lpips", "ood_mean"),
            "claims": tuple(claims),
        }
    )
    found = []
    for run, offset in zip(recipe.runs, (0.0, 3.0), strict=True):
        for seed in (0, 1):
            exploding = {("out <b>side</b>", "sub/b")} if run.label == "affine" and seed == 1 else ()
            folder = tmp_path / run.label / str(seed)
            made = results_folder.make(folder, heats=(0.5, 0.9), offset=offset, exploding=exploding, ood=True)
            found.append((run, read(made)))
    return recipe, found


def test_models_are_compared_input_by_input(tmp_path):
    recipe, found = study_of(tmp_path)
    text = reproduction.write(recipe, found, tmp_path / "out")
    differences = [line for line in text.split("## Differences to affine")[1].splitlines() if line.startswith("| i")]
    assert [line.split("|")[2].strip() for line in differences] == ["0.9"]
    assert "**+3 [+3, +3] (0 / 2)**" in differences[0]
    outside = next(line for line in text.split("## Differences")[1].splitlines() if line.startswith("| out"))
    assert "−25 [" in outside and "(1 / 0)" in outside  # one of two inputs, with one of two seeds
    inputs = pd.read_csv(tmp_path / "out" / "inputs.csv")
    assert len(inputs) == 2 * 2 * 5 and set(inputs["τ"]) == {0.9}
    chosen = inputs[(inputs.model == "affine") & (inputs.seed == 1) & (inputs.input == "sub/b")]
    assert chosen.pixel_error_pct.tolist() == [100] and chosen.inf_pct.tolist() == [100]
    assert chosen.max_residual.tolist() == [math.inf]
    rows = found[1][1].of_set("out <b>side</b>", "0.9")
    assert chosen.psnr.iloc[0] == pytest.approx(rows[rows.image == "sub/b"].psnr.mean(), rel=1e-4)
    assert (tmp_path / "out" / "ood.png").is_file()


def test_claims_are_tried_with_each_seed(tmp_path):
    claims = [
        {"says": "b is no worse", "metric": "pixel_error_pct", "model": "b", "not_above": "affine"},
        {
            "says": "b is better",
            "metric": "pixel_error_pct",
            "model": "b",
            "below": "affine",
            "sets": ("out <b>side</b>",),
        },
        {"says": "no Inf", "metric": "inf_pct", "model": "affine", "at_most": 0},
        {"says": "near", "metric": "psnr", "model": "b", "beside": "affine", "at_most": 3.01, "sets": ("inside",)},
        {"says": "nearer", "metric": "psnr", "model": "b", "beside": "affine", "at_most": 2.99, "sets": ("inside",)},
    ]
    text = reproduction.write(*study_of(tmp_path, claims), tmp_path / "out")
    rows = [line.strip("|").split("|") for line in text.split("## Claims")[1].splitlines() if line.startswith("|")][2:]
    assert [held.strip() for _, held in rows] == ["2 of 2", "**1 of 2**", "**1 of 2**", "2 of 2", "**0 of 2**"]


@pytest.mark.parametrize(
    ("claims", "reference", "message"),
    [
        ([{"says": "x", "metric": "psnrr", "model": "b", "at_most": 0}], "b", "got psnrr"),
        ([{"says": "x", "metric": "psnr", "model": "c", "at_most": 0}], "b", "labels of runs, got c"),
        ([], "c", "labels of runs, got c"),
    ],
)
def test_claims_of_what_is_not_measured_are_a_mistake(tmp_path, claims, reference, message):
    recipe, found = study_of(tmp_path, claims, reference)
    with pytest.raises(UserError, match=message):
        reproduction.write(recipe, found, tmp_path)


def test_a_claim_compares_with_one_thing():
    with pytest.raises(ValidationError, match="expected one of below, not_above and at_most"):
        Claim(says="x", metric="psnr", model="b", below="c", at_most=0)


def test_metrics_that_are_not_known_end_it_before_the_start(place, caplog):
    Path("recipe.yml").write_text(RECIPE.replace("pixel_error_pct, psnr", "pixel_errors, psnr"))
    assert reproduce.main(["recipe.yml"]) == 2
    assert "got pixel_errors" in caplog.text
    assert not Path("experiments").exists()


def test_the_largest_figure_of_a_set_has_an_interval_over_seeds_alone(tmp_path):
    found = []
    for seed, largest in enumerate((1.0, 2.0, 4.0)):
        run = read(results_folder.make(tmp_path / str(seed)))
        run.metrics["datasets"]["inside"]["heats"]["0.9"]["max_residual"] = largest
        found.append(run)
    expected = stats.t.interval(0.95, 2, 7 / 3, stats.sem([1.0, 2.0, 4.0]))
    assert reproduction.measure(found, "inside", "0.9", "max_residual")[1:] == pytest.approx(expected)
    assert math.isnan(reproduction.measure(found[:1], "inside", "0.9", "max_residual")[1])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("temperature: 0.8", "temperature: expected one of val.heats (0.9), got 0.8"),
        (
            "claims: [{says: x, metric: psnr, model: affine, at_most: 1, sets: [held in]}]",
            "claims: expected data sets (held out), got held in",
        ),
    ],
)
def test_what_is_not_tested_ends_a_recipe_before_the_start(place, caplog, more, message):
    Path("recipe.yml").write_text(f"{RECIPE}{more}\n")
    assert reproduce.main(["recipe.yml"]) == 2
    assert message in caplog.text
    assert not Path("experiments").exists()


def test_flags_of_the_small_chain_take_the_place_of_others():
    small = {"ood rank": "--n-patches 6 --heats 0.5"}
    places = {"output": ["results/a b"], "results": ["x", "y"]}
    command = "ood rank {run} --n-patches 1470 --heats 0 1 --output {output}/z"
    words = reproduce._fill(small, places, command, run=["-opt", "o.yml", "--override", "a=1"])
    assert words == [
        *("ood", "rank", "-opt", "o.yml", "--override", "a=1", "--output", "results/a b/z"),
        *("--n-patches", "6", "--heats", "0.5"),
    ]
    assert reproduce._fill(small, places, "compare {results}") == ["compare", "x", "y"]


def test_columns_of_no_metric_are_a_mistake(tmp_path):
    recipe = recipe_of().model_copy(update={"columns": ("psnr", "psnrr")})
    run = read(results_folder.make(tmp_path / "x"))
    with pytest.raises(UserError, match=r"expected metrics \(.*psnr.*\), got psnrr"):
        reproduction.write(recipe, [(recipe.runs[0], run)], tmp_path)


def test_published_figures_of_no_data_set_are_a_mistake(tmp_path):
    run = read(results_folder.make(tmp_path / "x"))
    recipe = recipe_of(published={"elsewhere": {"psnr": 1.0}})
    with pytest.raises(UserError, match="elsewhere; tested: inside"):
        reproduction.to_frame(recipe, [(recipe.runs[0], run)])


@pytest.fixture
def python(monkeypatch):
    """Have commands be Python programs."""
    monkeypatch.setattr(children, "_command", lambda words: [sys.executable, "-c", words[0]])


def test_a_command_that_fails_ends_the_others(python, capfd):
    begun = time.monotonic()
    sleeping = ["import time; print('begun', flush=True); time.sleep(60)"]
    failing = ["import time, sys; time.sleep(1); print('told'); sys.exit(3)"]
    with pytest.raises(RunFailed, match=r"failing: .* ended with status 3"):
        children.run_side_by_side({"sleeping": [sleeping, sleeping], "failing": [failing, sleeping]}, 2)
    assert time.monotonic() - begun < 30
    assert set(capfd.readouterr().err.splitlines()) == {"sleeping: begun", "failing: told"}


def test_cores_are_divided(python, capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(children.cpus, "available", lambda: 6)
    show = ["import os; print(os.environ['OMP_NUM_THREADS'])"]
    children.run_side_by_side({"a": [show], "b": [show], "c": [show]}, 2)
    assert sorted(capfd.readouterr().err.splitlines()) == ["a: 3", "b: 3", "c: 3"]


def test_commands_end_with_the_process_that_started_them(tmp_path):
    child = (
        f"from robustflow.utils import children; import os, pathlib, time; children.end_with_parent(); "
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)"
    )
    parent = (
        f"import sys; from robustflow.utils import children; "
        f"children._command = lambda words: [sys.executable, '-c', words[0]]; "
        f"children.run_side_by_side({{'a': [[{child!r}]]}}, 1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], env={**os.environ, "PYTHONPATH": str(readme.ROOT / "codes")}
    )
    _wait(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait(lambda: not _is_alive(pid))


def _wait(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
