"""Recipes: what a table or figure of a paper takes."""

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import readme

from robustflow import cli
from robustflow.commands import reproduce
from robustflow.commands.reproduce import Job
from robustflow.options.load import load_recipe
from robustflow.report import pages
from robustflow.utils import children
from robustflow.utils.errors import RunFailed

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
        tested = jobs[len(recipe.encoders) :]
        reproduce._require_places(jobs[: len(recipe.encoders)], tested, Path("results", file.stem))
        reproduce._require_tested(recipe.model_copy(update={"runs": tuple(job.given for job in tested)}), tested)
        experiments = {str(job.experiment) for job in jobs}
        for job in jobs:
            names = {dataset.name or key for key, dataset in job.options.datasets.items()}
            assert job.given.published.keys() <= names
            assert {key for of_set in job.given.published.values() for key in of_set} <= set(recipe.columns)
            start = job.options.path.pretrain_model_G
            assert start is None or start in experiments
            assert not small or job.options.name.startswith("small/")


def test_small_chain_alters_images_as_the_whole_one_does():
    file = next(file for file in RECIPES if file.stem == "soft_affine")
    run = load_recipe(file).runs[0]
    whole, small = (Job(file, run, None, small=small).options.datasets for small in (False, True))
    keys = ("degrade", "enhance", "lr_gain", "lr_invert", "lr_noise")
    assert {dataset.mode for dataset in whole.values()} == {"bundled"}
    assert any(dataset.lr_noise > 0 for dataset in whole.values())
    for key, dataset in whole.items():
        assert [getattr(small[key], name) for name in keys] == [getattr(dataset, name) for name in keys]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("recipe", RECIPE), ("flow", FLOW), ("encoder", ENCODER)):
        Path(f"{name}.yml").write_text(text)
    return tmp_path


@pytest.fixture
def in_process(monkeypatch):
    """Have the commands of a recipe run in this process, and collect them; pages, which are slow to draw, are not."""
    run = []
    monkeypatch.setattr(pages, "write", lambda folder: folder)

    def run_chains(chains, at_once):
        for words in (words for commands in chains.values() for words in commands):
            run.append(words[0])
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(logging.getLogger("robustflow"), "level", logging.NOTSET)
                assert cli.main(words) == 0

    monkeypatch.setattr(reproduce, "run_side_by_side", run_chains)
    return run


def test_the_chain_goes_on_where_it_was_and_ends_with_the_same_table(place, in_process, capfd, caplog):
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
    in_process.clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, "robustflow"):
        assert reproduce.main(command) == 0
    assert in_process == [*2 * ["test", "report"], "compare"]
    assert caplog.text.count("trained already, with the same options; nothing left to do") == 3
    Path("recipe.yml").write_text(RECIPE.replace("=rq_spline", "=rq_spline|train.lr_G=1e-5"))
    assert reproduce.main(command) == 0
    assert in_process[5:] == ["test", "report", "train", "test", "report", "compare"]


def test_mistakes_are_told_before_anything_is_done(place, caplog):
    assert reproduce.main(["no_such"]) == 2
    assert "expected a recipe" in caplog.text
    assert reproduce.main(["~/no_such.yml"]) == 2
    assert f"{Path.home()}/no_such.yml: expected a recipe" in caplog.text
    Path("recipe.yml").write_text(RECIPE.replace("title:", "titel:"))
    assert reproduce.main(["recipe.yml"]) == 2
    assert "titel: unknown key; did you mean 'title'?" in caplog.text
    Path("recipe.yml").write_text(RECIPE.replace("name: spline, ", ""))
    assert reproduce.main(["recipe.yml"]) == 2
    assert "'flow' names two runs that differ" in caplog.text
    Path("recipe.yml").write_text(RECIPE)
    assert reproduce.main(["recipe.yml", "--jobs", "0"]) == 2
    assert reproduce.main(["recipe.yml", "--output", "flow.yml"]) == 2
    assert "flow.yml: expected a folder for the table, got a file" in caplog.text
    assert not Path("results").exists() and not Path("experiments").exists()


def test_missing_data_end_the_check(place, capfd):
    assert reproduce.main(["recipe.yml", "--check"]) == 2
    assert not Path("experiments").exists()


def test_runs_without_labels_are_called_by_their_names(place):
    Path("recipe.yml").write_text(RECIPE.replace("label: affine, ", ""))
    given = load_recipe("recipe.yml").runs
    labels = [Job(Path("recipe.yml"), one, seed, small=False).given.label for one in given for seed in (0, 1)]
    assert labels == ["flow", "flow", "spline", "spline"]


def test_metrics_that_are_not_known_end_it_before_the_start(place, caplog):
    Path("recipe.yml").write_text(RECIPE.replace("pixel_error_pct, psnr", "pixel_errors, psnr"))
    assert reproduce.main(["recipe.yml"]) == 2
    assert "got 'pixel_errors' (did you mean 'pixel_error_pct'?)" in caplog.text
    assert not Path("experiments").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("temperature: 0.8", "temperature: expected one of val.heats (0.9) of affine, got 0.8"),
        (
            "claims: [{says: x, metric: psnr, model: affine, at_most: 1, sets: [held in]}]",
            "claims: expected data sets of affine (held out), got held in",
        ),
        ("seeds: []", "seeds: expected at least 1 value(s)"),
        ("seeds: [0, 1, 0]", "seeds: expected each once"),
        ("reference: spine", "labels of runs, got spine"),
        ("first: ['compare {frist}']", "'compare {frist}': expected {output}, {results}, {first}, got {frist}"),
        ("first: ['report {run}']", "'report {run}': expected {output}, {results}, {first}, got {run}"),
        ("first: [compear x]", "'compear x': expected a command of robustflow"),
        ("first: [' ']", "' ': expected a command of robustflow"),
        ('first: ["compare \'x"]', "expected a command of robustflow, got one with No closing quotation"),
    ],
)
def test_what_is_not_tested_ends_a_recipe_before_the_start(place, caplog, more, message):
    Path("recipe.yml").write_text(f"{RECIPE}{more}\n")
    assert reproduce.main(["recipe.yml"]) == 2
    assert message in caplog.text
    assert not Path("experiments").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("model: bicubic", "nowhere: expected a folder of images"),
        ("path: {model_path: nowhere.safetensors}", "nowhere.safetensors: expected a .safetensors or .pth file"),
    ],
)
def test_what_is_tested_without_training_is_there_before_the_start(place, caplog, more, message):
    Path("other.yml").write_text(f"base: flow.yml\nname: other\n{more}\n")
    Path("recipe.yml").write_text(RECIPE.replace("runs:\n", "runs:\n  - {options: other.yml}\n"))
    assert reproduce.main(["recipe.yml"]) == 2
    assert message in caplog.text and "checking" not in caplog.text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("held out: {psnr", "held in: {psnr", "published: expected data sets of affine (held out), got held in"),
        (
            "{psnr: 27",
            "{psnrr: 27",
            "published: expected metrics of columns (pixel_error_pct, psnr, bits_per_dim), got psn",
        ),
        (
            "{psnr: 27",
            "{ssim: 27",
            "published: expected metrics of columns (pixel_error_pct, psnr, bits_per_dim), got ssim",
        ),
        ("[pixel_error_pct, psnr", "[psnr, psnr", "columns: expected each once"),
        ("name: spline", "name: spline, label: affine", "expected labels that differ, got affine more than once"),
        ("name: spline", "name: recipe", "expected a folder apart from that of run 'recipe'"),
        ("options: flow.yml, name", "options: flaw.yml, name", "no such file: flaw.yml; did you mean"),
    ],
)
def test_runs_that_cannot_be_shown_end_a_recipe_before_the_start(place, caplog, before, after, message):
    assert before in RECIPE
    Path("recipe.yml").write_text(RECIPE.replace(before, after))
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
