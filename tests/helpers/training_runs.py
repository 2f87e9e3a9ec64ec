"""What tests of training runs share."""

from pathlib import Path

import torch

from robustflow.models import weights
from robustflow.training import checkpoint


def folder_of(options):
    return Path(options.path.experiments) / options.name


def weights_at(options, iteration):
    return weights.read(checkpoint.weights_file(folder_of(options), iteration))[0]


def average_at(options, iteration):
    return weights.read(checkpoint.ema_file(folder_of(options), iteration))[0]


def saved_at(options, iteration):
    return torch.load(checkpoint.state_file(folder_of(options), iteration), weights_only=True)


def state_at(options, iteration):
    return saved_at(options, iteration)["optimizer"]["state"]


def assert_equal(tensors, others):
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


def assert_same_end(options, others, iteration=6):
    assert_equal(weights_at(options, iteration), weights_at(others, iteration))
    states, other_states = state_at(options, iteration), state_at(others, iteration)
    assert states.keys() == other_states.keys()
    for number, state in states.items():
        assert_equal(state, other_states[number])
