from pathlib import Path

import pytest

from robustflow.options.load import load


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a YAML file beside the others of the test and return its name; `name` and `model` are filled in."""
    monkeypatch.chdir(tmp_path)

    def write_file(text, file="run.yml", complete=True):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(("name: run\nmodel: SRFlow\n" if complete else "") + text, encoding="utf-8")
        return file

    return write_file


@pytest.fixture
def load_text(write):
    """Options of a YAML text as it stands."""
    return lambda text: load(write(text, "dumped.yml", complete=False))
