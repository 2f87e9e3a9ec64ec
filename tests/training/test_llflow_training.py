"""LLFlow through the same training and evaluation as super-resolution."""

import pytest
import torch

from robustflow.data.images import read_image, write_png
from robustflow.evaluation import engine as testing
from robustflow.options.schema import RunOptions
from robustflow.training import engine as training

FLOW = {"K": 1, "L": 2, "hidden_channels": 8, "split": {"enable": False}}


@pytest.fixture
def options(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for kind, brightness in (("high", 1.0), ("low", 0.1)):
        for name in ("a", "b"):
            write_png(tmp_path / kind / f"{name}.png", brightness * torch.rand(3, 24, 36, generator=generator))
    pairs = {"mode": "folder", "dataroot_GT": str(tmp_path / "high"), "dataroot_LQ": str(tmp_path / "low")}
    datasets = {
        "train": {**pairs, "GT_size": 16, "batch_size": 2},
        "val": {**pairs, "GT_size": 16, "n_crops": 2},
        "test": {**pairs, "lr_gain": 0.5},
    }
    values = {
        "name": "low",
        "model": "LLFlow",
        "scale": 1,
        "device": "cpu",
        "datasets": datasets,
        "network_G": {"encoder": "low_light", "nf": 8, "nb": 1, "gc": 4, "flow": FLOW},
        "path": {"experiments": str(tmp_path / "experiments")},
        "train": {"niter": 3, "val_freq": 3, "ood_patches": 10, "micro_batch": 1},
        "val": {"protocol": "llflow", "heats": (0.0, 0.9), "n_sample": 2},
    }
    options = RunOptions.model_validate(values)
    assert not list(options.contradictions(options))
    return options


def test_trains_and_tests(options, tmp_path):
    assert training.run(options) == 0
    report = testing.evaluate(options, None, tmp_path / "results")
    summary = report["datasets"]["test"]
    assert summary["bits_per_dim"] is not None
    assert summary["ood_mean"] is not None
    assert read_image(tmp_path / "results" / "test" / "a_t0.9_01.png").shape == (3, 24, 36)


def test_brightens_a_photo_of_any_size(options, tmp_path):
    assert training.run(options) == 0
    for height, width in ((1, 1), (7, 9), (13, 30)):
        write_png(tmp_path / "photos" / f"{height}.png", 0.1 * torch.rand(3, height, width))
    testing.evaluate(options, str(tmp_path / "photos"), tmp_path / "out")
    sizes = {read_image(tmp_path / "out" / "input" / f"{height}_t0_00.png").shape[1:] for height in (1, 7, 13)}
    assert sizes == {(1, 1), (7, 9), (13, 30)}
