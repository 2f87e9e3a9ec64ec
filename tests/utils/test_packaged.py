"""What is shipped, found from any working directory."""

from pathlib import Path

import pytest
import readme

from robustflow.commands import reproduce
from robustflow.options.load import load
from robustflow.utils import packaged
from robustflow.utils.yaml_tree import OptionsError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_finds_files_of_a_folder_with_its_name_or_without():
    assert packaged.find("confs", Path("demo.yml")) == readme.ROOT / "confs/demo.yml"
    assert packaged.find("confs", Path("confs/common/sr4x.yml")) == readme.ROOT / "confs/common/sr4x.yml"
    for name in ("none.yml", "../README.md", "/demo.yml", "confs", "other/demo.yml", "x" * 300):
        assert packaged.find("confs", Path(name)) is None


def test_of_an_installation_its_own_folder_comes_first(tmp_path, monkeypatch):
    (tmp_path / "robustflow/packaged/confs").mkdir(parents=True)
    (tmp_path / "robustflow/packaged/confs/demo.yml").touch()
    monkeypatch.setattr(packaged, "_PACKAGE", tmp_path / "robustflow")
    assert packaged.find("confs", Path("demo.yml")) == tmp_path / "robustflow/packaged/confs/demo.yml"


@pytest.mark.parametrize("name", ["demo", "demo.yml", "confs/demo", "confs/demo.yml"])
def test_options_by_name(name):
    assert load(name).name == "demo"


def test_files_nearby_come_before_those_shipped():
    Path("demo.yml").write_text("base: confs/demo.yml\nname: mine")
    Path("confs").mkdir()
    assert load("demo.yml").name == load("demo").name == "mine"
    assert load("confs/demo").name == "demo"
    Path("confs/demo.yml").write_text("base: ../demo.yml\nname: nearer")
    with pytest.raises(OptionsError, match="inherit from each other"):
        load("demo")


def test_a_base_is_found_by_name_and_near_names_are_told():
    Path("deeper").mkdir()
    Path("deeper/mine.yml").write_text("base: demo.yml\nscale: 8")
    assert load("deeper/mine.yml").scale == 8
    Path("deeper/mine.yml").write_text("base: confs/demi.yml")
    with pytest.raises(OptionsError, match=r"no such file: deeper/confs/demi.yml; did you mean confs/demo.yml\?"):
        load("deeper/mine")


@pytest.mark.parametrize("name", ["table1", "confs/recipes/table1.yml"])
def test_recipes_by_name(name):
    assert reproduce._locate(name) == readme.ROOT / "confs/recipes/table1.yml"
