"""What lies around the code says the same as the code."""

import os
import re
import shutil
import subprocess

import pytest
import readme
import yaml

import robustflow

FORMS = sorted((readme.ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def read(name):
    return (readme.ROOT / name).read_text()


def test_versions_agree():
    assert yaml.safe_load(read("CITATION.cff"))["version"] == robustflow.__version__
    assert re.search(r"^## (\S+) - ", read("CHANGELOG.md"), re.MULTILINE)[1] == robustflow.__version__


def test_hooks_are_the_linters_of_the_test_command():
    (local,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert local["repo"] == "local" and {hook["language"] for hook in local["hooks"]} == {"system"}
    hooks = {" ".join(word for word in hook["entry"].split() if word[0] != "-") for hook in local["hooks"]}
    checks = read("examples.sh").split("check() {\n")[1].split("#")[0].splitlines()
    assert hooks == {
        line.strip().replace(" --check", "").removesuffix(" .").removesuffix(" &") for line in checks if line.strip()
    }


def test_the_command_for_gpus_runs_all_that_need_one():
    (named,) = re.findall(r"tests/gpu/test_\{(.*)\}\.py", read("examples.sh"))
    files = [file.stem.removeprefix("test_") for file in (readme.ROOT / "tests" / "gpu").glob("test_*.py")]
    assert sorted(named.split(",")) == sorted(files)


def test_continuous_integration_tests_the_oldest_python_and_builds_the_site():
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    oldest = re.search(r'requires-python = ">=(.*)"', read("pyproject.toml"))[1]
    assert oldest in jobs["test"]["strategy"]["matrix"]["python"]
    assert jobs["test"]["steps"][-1]["run"] == ".ci/run" and os.access(readme.ROOT / ".ci" / "run", os.X_OK)
    assert jobs["docs"]["steps"][-1]["run"] == "bash examples.sh docs"


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_issue_forms_are_complete(file):
    form = yaml.safe_load(file.read_text())
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert form["name"] and form["description"] and len(asked) == len({part["id"] for part in asked}) > 3
    for part in asked:
        assert part["type"] in {"input", "textarea", "dropdown"} and part["attributes"]["label"]


def test_every_path_that_contributors_are_told_of_exists():
    named = re.findall(r"`([\w./]+/(?:[\w.]+\.\w+)?)`", read("CONTRIBUTING.md"))
    roots = (readme.ROOT, readme.ROOT / "codes" / "robustflow")
    missing = [name for name in named if not any((root / name).exists() for root in roots)]
    assert len(named) > 15 and missing == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "bash examples.sh mini --data DIR"),
        (["no_such"], "or one of: demo; got 'no_such'"),
        (["study", "temperature", "no_such"], "expected: bash examples.sh study temperature"),
        (["mini"], "expected: bash examples.sh mini --data DIR"),
        (["mini", "--data"], "expected: bash examples.sh mini --data DIR"),
        (["mini", "--data", "no such"], "--data: expected a folder, got 'no such'"),
        (["demo", "affine"], "expected nothing after demo, got: affine"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_anything_is_installed(tmp_path, words, message):
    place = tmp_path / "check out"
    (place / "confs").mkdir(parents=True)
    (place / "confs" / "demo.yml").touch()
    shutil.copy(readme.ROOT / "examples.sh", place)
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    command = ["bash", "check out/examples.sh", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and message in done.stdout + done.stderr
    assert {file.name for file in place.iterdir()} == {"confs", "examples.sh"}


def test_what_flags_name_is_taken_from_where_the_caller_is(tmp_path):
    place, environment = tmp_path / "check out", tmp_path / "environment"
    elsewhere = tmp_path / "elsewhere"  # where a shell would look for the checkout first
    own = (place / "confs", environment / "bin", tmp_path / "photos", place / "experiments" / "x")
    for folder in (*own, elsewhere / place.name):
        folder.mkdir(parents=True)
    for file in (place / "confs" / "demo.yml", place / "pyproject.toml", tmp_path / "a.safetensors"):
        file.touch()
    shutil.copy(readme.ROOT / "examples.sh", place)
    (environment / ".robustflow").write_text(f"{place} 4294967295 0\n")  # installed; the sum of an empty file
    (environment / "bin" / "robustflow").write_text('#!/bin/sh\nprintf "%s\\n" "$MINI_DATA" "$@"\n')
    (environment / "bin" / "robustflow").chmod(0o755)
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def run(*words):
        command = ["bash", "check out/examples.sh", *words]
        variables = {"PATH": path, "VIRTUAL_ENV": str(environment), "CDPATH": str(elsewhere)}
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    words = run("mini", "--data", "photos", "--output", "out", "--jobs", "2")
    assert words == [f"{tmp_path}/photos", "reproduce", "mini", "--output", f"{tmp_path}/out", "--jobs", "2"]
    words = run("study", "seeds", "demo", "--weights", "a.safetensors", "--output=/out", "-n", "--override", "a=b")
    assert words[5:] == ["--weights", f"{tmp_path}/a.safetensors", "--output=/out", "-n", "--override", "a=b"]
    assert run("study", "seeds", "demo", "--weights", "experiments/x")[-1] == "experiments/x"
    assert run("study", "seeds", "demo", "--output", "--quiet")[-2:] == ["--output", "--quiet"]
