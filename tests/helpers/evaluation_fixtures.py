from functools import partial

import pytest
import tiny


@pytest.fixture
def make_options(tmp_path):
    """Make the options of a tiny model and its test sets, see `tiny.evaluation_options`."""
    return partial(tiny.evaluation_options, tmp_path)


@pytest.fixture
def make_model():
    """Make the model of options, with random weights."""

    def make(options):
        return tiny.built(options, 0.05)

    return make
