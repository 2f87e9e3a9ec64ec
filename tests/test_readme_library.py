"""What README.md and docs/ show of the library runs as it stands there."""

from pathlib import Path

import pytest
import readme
import tiny
import torch

from robustflow.data import BundledSource
from robustflow.data.images import write_png
from robustflow.models import weights

PYTHON = {page.name: readme.blocks(page, "python") for page in readme.PAGES}
# Files of a run, tried by tests/test_extending.py.
ELSEWHERE = ("extending.md",)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs all blocks of a page, one after another, beside a trained demo; returns its variables."""
    monkeypatch.chdir(tmp_path)
    options = tiny.options(name="demo", split={"correct_splits": True})
    weights.save(Path("experiments/demo/models/00000001_G.safetensors"), tiny.built(options, 0.01), options, 1)
    photograph, _ = BundledSource("test", 4).pair(0)
    write_png("noisy.png", photograph[:, 100:145, 100:138])
    write_png("photo.png", photograph[:, 100:112, 100:116])

    def shown_by(page):
        found = {}
        for block in PYTHON[page]:
            exec(block, found)
        return found

    return shown_by


def test_readme(run):
    shown = run("README.md")
    assert shown["loss"].shape == () and shown["bits"].shape == (2,) and shown["sr"].shape == (10, 2, 3, 32, 32)
    torch.testing.assert_close(shown["hr2"], shown["hr"], rtol=0, atol=1e-5)
    assert not shown["model"].training


def test_getting_started(run):
    assert run("getting-started.md")["samples"].shape == (4, 1, 3, 48, 64)


def test_latent_space(run):
    shown = run("latent-space.md")
    assert shown["restored"].shape == (3, 45, 38) and shown["images"].shape == (1, 3, 45, 38)
    assert [tuple(z.shape) for z in shown["latents"]] == [(1, 6, 24, 20), (1, 24, 12, 10)]


@pytest.mark.parametrize("page", [name for name, blocks in PYTHON.items() if blocks and name not in ELSEWHERE])
def test_every_block_runs(run, page):
    run(page)
