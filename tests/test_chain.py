"""From a pretrained encoder to tested samples, as the full-size experiments go, in one process and tiny."""

import json
import signal

import pytest
import torch

from robustflow.commands import evaluate as testing
from robustflow.data.images import write_png
from robustflow.options.load import load
from robustflow.training import engine as training
from robustflow.training import loop

BASE = """
scale: 4
device: cpu
datasets:
  train: {mode: bundled, GT_size: 16, batch_size: 2}
  test_few: {mode: bundled, split: test, GT_size: 16, n_crops: 2}
network_G: {nf: 8, nb: 1, gc: 4, flow: {K: 1, L: 2, S: [0, 1], hidden_channels: 8}}
train: {niter: 2, ood_patches: 0}
val: {n_sample: 2}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yml").write_text(BASE)
    return tmp_path


def options(here, text):
    (here / "run.yml").write_text(f"base: base.yml\n{text}")
    return load(here / "run.yml")


def test_pretrain_train_test(here):
    assert training.run(options(here, "name: encoder\nmodel: RRDB\nnetwork_G: {flow: {S: 0}}")) == 0
    flow = options(
        here,
        "name: flow\nmodel: FS-NCSR\npath: {pretrain_model_G: experiments/encoder}\nnetwork_G: {train_RRDB_delay: 0.5}",
    )
    assert training.run(flow) == 0
    assert testing.run(flow, None, None) == 0
    result = json.loads((here / "results" / "flow" / "metrics.json").read_text())
    assert result["weights"] == "experiments/flow/models/00000002_G.safetensors"

    # The resolved options tell the same story.
    again = load(here / "experiments" / "flow" / "options.yml")
    assert testing.run(again, None, "elsewhere") == 0
    assert json.loads((here / "elsewhere" / "metrics.json").read_text())["datasets"] == result["datasets"]


def test_own_images_leave_the_test_results_alone(here):
    flow = options(here, "name: flow\nmodel: FS-NCSR")
    assert training.run(flow) == 0
    assert testing.run(flow, None, None) == 0
    before = (here / "results" / "flow" / "metrics.json").read_bytes()
    write_png(here / "photo.png", torch.rand(3, 5, 7))
    assert testing.run(flow, "photo.png", None) == 0
    assert (here / "results" / "flow" / "metrics.json").read_bytes() == before
    assert (here / "results" / "flow" / "input" / "input" / "photo_t0.9_01.png").is_file()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_damaged_image_in_mid_training_loses_nothing(here, n_workers, caplog):
    for index in range(3):
        write_png(here / "photos" / f"{index}.png", torch.rand(3, 32, 32))
    damaged = here / "photos" / "1.png"
    data = damaged.read_bytes()
    damaged.write_bytes(data[: len(data) // 2] + data[-16:])  # the end is there: not found before it is decoded
    text = "name: flow\nmodel: FS-NCSR\ntrain: {niter: 9, ood_patches: 0}\n"
    text += "datasets: {train: {mode: folder, dataroot_GT: photos, "
    flow = options(here, f"{text} GT_size: 16, batch_size: 1, n_workers: {n_workers}}}}}")
    assert training.run(flow) == 2
    assert "photos/1.png" in caplog.text
    assert "Traceback" not in caplog.text
    saved = list((here / "experiments" / "flow" / "training_state").glob("*.state"))
    assert [f"Saved iteration {int(file.stem)}; go on" in caplog.text for file in saved] in ([True], [])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model: FS-NCSR\nnetwork_G: {flow: {S: 0}}", "network_G.flow.S"),
        ("model: FS-NCSR\nnetwork_G: {flow: {std_channels: 1}}", "network_G.flow.std_channels"),
        ("model: FS-NCSR\ndatasets: {test_few: {use_flip: true}}", "datasets.test_few.use_flip"),
        ("model: FS-NCSR\ndatasets: {test_few: {hr_shift: 2}}", "datasets.test_few.hr_shift"),
        ("model: FS-NCSR\ndatasets: {train: {n_crops: 3}}", "datasets.train.n_crops"),
        (
            "model: FS-NCSR\ndatasets: {val: {mode: folder, dataroot_GT: a, dataroot_LQ: b, enhance: unit}}",
            "datasets.val.dataroot_LQ",
        ),
    ],
)
def test_options_without_effect_are_refused(here, text, key):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        options(here, f"name: run\n{text}")


def test_loader_process_ended_by_the_same_signal(here, monkeypatch):
    flow = options(here, "name: flow\nmodel: FS-NCSR\ntrain: {niter: 9, ood_patches: 0}")
    batches = loop.load_batches

    def ended(*arguments, **keywords):
        for number, batch in enumerate(batches(*arguments, **keywords)):
            if number == 2:
                signal.raise_signal(signal.SIGTERM)
                raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")
            yield batch

    monkeypatch.setattr(loop, "load_batches", ended)
    assert training.run(flow) == 130
    assert (here / "experiments" / "flow" / "training_state" / "00000002.state").is_file()
