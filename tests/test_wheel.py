"""The wheel holds what it needs: built, installed apart from the checkout, and used in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import readme

pytest.importorskip("pip")
pytestmark = pytest.mark.long

ABOUT = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
TINY = (
    "device=cpu|network_G={nf: 8, nb: 1, gc: 4, flow: {K: 1, L: 2, S: [0, 1], hidden_channels: 8}}|train.niter=2|"
    "train.val_freq=2|train.ood_patches=0|datasets.train.batch_size=2|datasets.train.GT_size=16|"
    "datasets.val.GT_size=16|datasets.val.n_crops=1|val.n_sample=1"
)
# Several commands in one process: each imports torch.
TRIED = """
import json, sys
import robustflow
from robustflow import cli

def status_of(words):
    try:
        return cli.main(words)
    except SystemExit as leaving:
        return leaving.code

statuses = [status_of(words) for words in json.loads(sys.argv[1])]
print(json.dumps([robustflow.__file__, statuses]))
"""


# Without the checkout, which pip would take for installed.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def pip(*words):
    quiet = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    subprocess.run([sys.executable, "-m", "pip", *words, *quiet], env=ENVIRONMENT, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy of the checkout in which more lies than belongs into it."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ABOUT:
        shutil.copy(readme.ROOT / name, source)
    for name in ("codes", "confs"):
        shutil.copytree(
            readme.ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        )
    (source / "pretrained_weights").mkdir()
    for name in ("box_test.safetensors", "published.pth"):
        (source / "pretrained_weights" / name).write_text("weights")
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(built), str(source))
    (file,) = built.glob("robustflow-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs a command of a fresh environment, where the wheel is, in an empty folder."""
    home, place = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("place")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip("--python", str(python), "install", str(wheel))
    # All else as here, torch above all; what is installed here to be edited in place stays away.
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "as_here.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))

    def run(name, *words):
        command = [str(home / "bin" / name), *words]
        done = subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    run.place, run.home = place, home
    return run


def test_holds_what_is_shipped_and_no_other_files(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    confs = {str(file.relative_to(readme.ROOT)) for file in (readme.ROOT / "confs").rglob("*.yml")}
    templates = {file.name for file in (readme.ROOT / "codes/robustflow/report/templates").iterdir()}
    assert {f"robustflow/packaged/{file}" for file in confs} <= names and "confs/recipes/table1.yml" in confs
    assert {f"robustflow/report/templates/{file}" for file in templates} <= names and "robustflow/py.typed" in names
    assert "robustflow/downloads/catalogue.yml" in names
    assert "robustflow/packaged/pretrained_weights/box_test.safetensors" in names
    assert not any("published.pth" in name or name.startswith(("tests", "benchmarks")) for name in names)


def test_packaged_options_and_recipes_are_found_by_name(installed):
    commands = [*(["options", name] for name in ("demo", "confs/demo.yml", "confs/dmo.yml")), ["reproduce", "none"]]
    status, printed, told = installed("python", "-c", TRIED, json.dumps(commands))
    assert status == 0, told
    options, last = printed.rstrip().rsplit("\n", 1)
    where, statuses = json.loads(last)
    assert Path(where).is_relative_to(installed.home)
    assert statuses == [0, 0, 2, 2]
    first, second = options.split("name: demo\n")[1:]
    assert options.startswith("name: demo\n") and first.strip() == second.strip()
    assert "did you mean confs/demo.yml?" in told
    assert "table1, tableS1, tableS2" in told


def test_trains_a_packaged_option_file(installed):
    status, _, told = installed("robustflow", "train", "-opt", "demo.yml", "--override", TINY)
    assert status == 0, told
    written = sorted(file.name for file in (Path(installed.place) / "experiments/demo/models").iterdir())
    assert "00000002_G.safetensors" in written
