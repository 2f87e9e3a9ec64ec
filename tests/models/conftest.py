import pytest
import torch
from random_networks import built

from robustflow.options.schema import RunOptions


@pytest.fixture
def make_options():
    """Make the options of a tiny model."""

    def make(model="FS-NCSR", *, coupling="affine", scale=4, L=2, S=(0, 1), nf=8, K=1):
        flow = {"K": K, "L": L, "S": S, "hidden_channels": 8, "coupling": coupling}
        network = {"nf": nf, "nb": 1, "gc": 4, "flow": flow}
        return RunOptions.model_validate({"name": "tiny", "model": model, "scale": scale, "network_G": network})

    return make


@pytest.fixture
def make_model(make_options):
    """Make a tiny model whose weights are random: no layer is left at its initial identity."""

    def make(model="FS-NCSR", **options):
        run = make_options(model, **options)
        return built(run, 0.05)

    return make


@pytest.fixture
def images():
    """Two images (2, 3, 32, 32) and their LR images (2, 3, 8, 8), float64; LR is not the downsampled HR."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(2, 3, side, side, generator=generator, dtype=torch.float64) for side in (32, 8))
