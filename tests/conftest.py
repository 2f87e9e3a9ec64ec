import os

# Tensors are tiny here: more threads cost more than they bring, in these processes and in those they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where photographs of the study in miniature would be: its option files can be read without any.
os.environ.setdefault("MINI_DATA", "datasets/mini")

import gc
import math

import pytest
import torch

from robustflow.nn import fused
from robustflow.registry import DATASETS, DEGRADATIONS, ELEMENTWISE, ENCODERS, METRICS, MODELS


class _AtOnce:
    """Tells why a test failed as soon as it has, for when the end of all may not be reached."""

    def __init__(self, config):
        self._config = config

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._config.pluginmanager.get_plugin("terminalreporter").write_line(f"\n{report.longreprtext}")


def pytest_configure(config):
    if "FAILURES_AT_ONCE" in os.environ:
        config.pluginmanager.register(_AtOnce(config))


def pytest_collection_modifyitems(items):
    """Run tests that fork first: what other tests do with autograd may leave threads, which forbid it in a fork.

    Then those of files that take long: begun last, all other processes would wait for them.
    """
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("forks", "long")])


def pytest_collection_finish():
    """Leave modules and tests out of what is searched for garbage: captures of graphs, and others, ask for it often."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def perturb():
    """A function that moves all parameters off their special initial values, and gives the module in float64."""

    def perturbed(module, std=0.1, seed=0):
        generator = torch.Generator().manual_seed(seed)
        module = module.double().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                # A large matrix needs smaller changes to stay well conditioned.
                scale = std / len(parameter) ** 0.5 if parameter.dim() == 2 else std
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return module

    return perturbed


@pytest.fixture(autouse=True)
def uncompiled(request):
    """Compiling takes longer than what most tests compute; those of compiled maps are marked."""
    compiles = request.node.get_closest_marker("compiles") is not None
    with fused.expecting(math.inf if compiles else 0):
        yield


@pytest.fixture(autouse=True)
def what_is_registered_goes(monkeypatch):
    """Entries that a test registers are there for it alone, whichever tests the same process runs next."""
    for registry in (DATASETS, DEGRADATIONS, ELEMENTWISE, ENCODERS, METRICS, MODELS):
        registry.names()  # registers what is built in
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture(autouse=True)
def same_seed():
    torch.manual_seed(0)
