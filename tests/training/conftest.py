import logging
import signal
from functools import partial

import pytest
import tiny
import torch

from robustflow import data, models
from robustflow.models import weights
from robustflow.training.logbook import Logbook


@pytest.fixture(autouse=True)
def _log(caplog):
    """Log as the command line does."""
    caplog.set_level(logging.INFO)


@pytest.fixture
def make_options(tmp_path):
    """Make the options of a tiny training run in tmp_path, see `tiny.training_options`."""
    return partial(tiny.training_options, tmp_path)


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
