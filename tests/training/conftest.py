import logging
import signal

import pytest
import torch

from robustflow import data, models
from robustflow.models import weights
from robustflow.options.schema import RunOptions
from robustflow.training.logbook import Logbook


@pytest.fixture(autouse=True)
def _log(caplog):
    """Log as the command line does."""
    caplog.set_level(logging.INFO)


@pytest.fixture
def make_options(tmp_path):
    """Make the options of a tiny training run in tmp_path; keywords replace values of their sections."""

    def make(name="tiny", model="FS-NCSR", *, cuda_graphs="auto", n_workers=0, hr_shift=0, datasets=None, **sections):
        crops = {"mode": "bundled", "GT_size": 16}
        flow = {"K": 1, "L": 2, "S": (0, 1), "hidden_channels": 8}
        train = {"split": "train", "batch_size": 2, "n_workers": n_workers, "use_flip": True, "use_rot": True}
        train["hr_shift"] = hr_shift
        defaults = {
            "network_G": {"nf": 8, "nb": 1, "gc": 4, "flow": flow},
            "path": {"experiments": str(tmp_path / "experiments")},
            "train": {"niter": 6, "val_freq": 3, "lr_G": 1e-3, "max_grad_norm": 10.0, "ood_patches": 0},
            "val": {"n_sample": 2},
            "logger": {"print_freq": 1, "save_checkpoint_freq": 3},
        }
        values = {key: {**value, **sections.get(key, {})} for key, value in defaults.items()}
        both = {"train": {**crops, **train}, "val": {**crops, "split": "test", "n_crops": 2}}
        return RunOptions.model_validate(
            {
                "name": name,
                "model": model,
                "device": "cpu",
                "cuda_graphs": cuda_graphs,
                "datasets": both if datasets is None else datasets,
                **values,
            }
        )

    return make


@pytest.fixture
def make_model():
    """Make the model of options, untrained."""

    def make(options):
        torch.manual_seed(0)
        return models.build(options)

    return make


@pytest.fixture
def pretrained(make_options, make_model, tmp_path):
    """Save a tiny encoder, as from pretraining, and return the file."""
    options = make_options(model="RRDB")
    model = make_model(options)
    weights.save(tmp_path / "encoder_G.safetensors", model, options, 1)
    return str(tmp_path / "encoder_G.safetensors")


@pytest.fixture
def interrupt(monkeypatch):
    """Interrupt the run, as Ctrl-C does, in the given iteration; or not at all."""
    note = Logbook.iteration

    def at(interrupted):
        def interrupting(self, iteration, *values):
            note(self, iteration, *values)
            if iteration == interrupted:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Logbook, "iteration", interrupting)

    return at


@pytest.fixture
def validations(monkeypatch):
    """Collect (iteration, scalars) of all validations."""
    collected = []
    note = Logbook.validation

    def collecting(self, iteration, scalars, images):
        collected.append((iteration, dict(scalars)))
        note(self, iteration, scalars, images)

    monkeypatch.setattr(Logbook, "validation", collecting)
    return collected


@pytest.fixture
def spoil(monkeypatch):
    """Put NaN into the training images of the given iterations, batches of two."""
    crop, assemble = data.TrainingCrops.crop, data.TrainingCrops.assemble

    def spoiling(*iterations):
        def marked(self, number):
            return {**crop(self, number), "spoilt": torch.tensor(number // 2 + 1 in iterations)}

        def spoiled(self, batch, device):
            gt, lr = assemble(self, batch, device)
            return (gt * float("nan") if any(bool(crops["spoilt"].any()) for crops in batch) else gt), lr

        monkeypatch.setattr(data.TrainingCrops, "crop", marked)
        monkeypatch.setattr(data.TrainingCrops, "assemble", spoiled)

    return spoiling
