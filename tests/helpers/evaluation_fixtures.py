import pytest
from random_networks import built

from robustflow.options.schema import RunOptions


@pytest.fixture
def make_options(tmp_path):
    """Make the options of a tiny model, tested on two crops of the bundled photographs."""

    def make(model="FS-NCSR", *, datasets=None, **val):
        test = {"mode": "bundled", "split": "test", "GT_size": 16, "n_crops": 2}
        flow = {"K": 1, "L": 2, "S": (0, 1) if "NCSR" in str(model) else (0,), "hidden_channels": 8}
        values = {
            "name": "tiny",
            "model": model,
            "device": "cpu",
            "datasets": {"test_clean": test, "test_noisy": {**test, "name": "noise 0.2", "lr_noise": 0.2}},
            "network_G": {"nf": 8, "nb": 1, "gc": 4, "flow": flow},
            "path": {"experiments": str(tmp_path / "experiments"), "results": str(tmp_path / "results")},
            "val": {"heats": (0.0, 0.9), "n_sample": 2, **val},
        }
        return RunOptions.model_validate({**values, **({} if datasets is None else {"datasets": datasets})})

    return make


@pytest.fixture
def make_model():
    """Make the model of options, with random weights."""

    def make(options):
        return built(options, 0.05)

    return make
