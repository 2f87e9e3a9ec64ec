import argparse
from pathlib import Path

import pytest

from robustflow.commands import arguments, test
from robustflow.options import load
from robustflow.utils import files
from robustflow.utils.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_SET", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~", "{}/home"),
        ("~/photos", "{}/home/photos"),
        ("$DATA/hr", "{}/data/hr"),
        ("${DATA}_2/hr", "{}/data_2/hr"),
        ("a~b/c$", "a~b/c$"),
        ("./~", "./~"),
        ("costs 5$.png", "costs 5$.png"),
        ("$5.png", "$5.png"),
        ("a/b/", "a/b/"),
    ],
)
def test_paths_are_expanded(text, path, home):
    assert files.expand(text) == path.format(home)


@pytest.mark.parametrize("text", ["", "$EMPTY", "${EMPTY}", "a\0b", "$NOT_SET", "a/${NOT_SET}/b", "~no_such_user/x"])
def test_paths_that_lead_nowhere(text):
    with pytest.raises(ValueError, match=r"^expected a .*, got"):
        files.expand(text)
    with pytest.raises(argparse.ArgumentTypeError, match=r"^expected a"):
        arguments.path(text)


def test_files_of_just_that_name_are_found(home):
    for name in ("$NOT_SET.png", "~no_such_user"):
        Path(name).touch()
        assert files.expand(name) == name


def test_paths_of_options_flags_and_bases(home):
    (home / "home" / "confs").mkdir(parents=True)
    (home / "home" / "confs" / "base.yml").write_text("model: SRFlow\npath: {results: $DATA/out}\n")
    Path("run.yml").write_text(
        "base: ~/confs/base.yml\nname: x\ndatasets: {test_a: {mode: folder, dataroot_GT: ~/a, dataroot_LQ: $DATA/b}}\n"
    )
    options = load.load("run.yml", "path.experiments=~/runs", ("path.model_path", "~/w", "--weights"))
    assert options.path.results == f"{home}/data/out"
    assert options.path.experiments == f"{home}/home/runs"
    assert options.path.model_path == f"{home}/home/w"
    dataset = options.datasets["test_a"]
    assert (dataset.dataroot_GT, dataset.dataroot_LQ) == (f"{home}/home/a", f"{home}/data/b")
    Path("run.yml").rename(home / "home" / "run.yml")
    assert load.load("~/run.yml").path.results == f"{home}/data/out"
    chosen = test.make_parser().parse_args(["-opt", "x.yml", "--input", "~/in", "--output", "$DATA/out"])
    assert (chosen.input, chosen.output) == (f"{home}/home/in", f"{home}/data/out")


def test_results_lie_apart_from_what_is_read(home):
    (home / "photos").mkdir()
    Path("link").symlink_to("photos")
    (home / "photos" / "a.png").touch()
    read = ["photos", None, "not there", "photos/a.png"]
    files.require_apart([Path("out"), Path("photos_2"), Path()], read)
    for place in ("photos", "photos/out/deep", "link/out", "out/../photos", f"{home}/photos"):
        with pytest.raises(UserError, match="apart from photos"):
            files.require_apart([Path("out"), Path(place)], read)
