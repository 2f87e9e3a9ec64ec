import pytest
import tiny
import torch


@pytest.fixture
def make_options():
    """Make the options of a tiny model, see `tiny.options`."""
    return tiny.options


@pytest.fixture
def make_model():
    """Make a tiny model whose weights are random: no layer is left at its initial identity."""

    def make(model="FS-NCSR", **changes):
        return tiny.built(tiny.options(model, **changes), 0.05)

    return make


@pytest.fixture
def images():
    """Two images (2, 3, 32, 32) and their LR images (2, 3, 8, 8), float64; LR is not the downsampled HR."""
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(2, 3, side, side, generator=generator, dtype=torch.float64) for side in (32, 8))
