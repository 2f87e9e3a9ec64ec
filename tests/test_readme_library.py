"""What the README shows of the library runs as it stands there."""

from pathlib import Path

import tiny
import torch

from robustflow.data import BundledSource
from robustflow.data.images import write_png
from robustflow.models import weights

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_library_as_shown(tmp_path, monkeypatch):
    options = tiny.options(name="demo", split={"correct_splits": True})
    monkeypatch.chdir(tmp_path)
    weights.save(Path("experiments/demo/models/00000001_G.safetensors"), tiny.built(options, 0.01), options, 1)
    photograph, _ = BundledSource("test", 4).pair(0)
    write_png("noisy.png", photograph[:, 100:145, 100:138])
    shown = {}
    section = README.split("## As a library")[1].split("\n## ")[0]
    blocks = section.split("```python\n")[1:]
    assert len(blocks) == 2
    exec(blocks[0].split("```")[0], shown)
    assert shown["loss"].shape == () and shown["bits"].shape == (2,) and shown["sr"].shape == (10, 2, 3, 32, 32)
    torch.testing.assert_close(shown["hr2"], shown["hr"], rtol=0, atol=1e-5)
    exec(blocks[1].split("```")[0], shown)
    assert shown["restored"].shape == (3, 45, 38) and shown["images"].shape == (1, 3, 45, 38)
    assert [tuple(z.shape) for z in shown["latents"]] == [(1, 6, 24, 20), (1, 24, 12, 10)]
