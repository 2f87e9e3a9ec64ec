import math

import pytest
import torch

from robustflow.evaluation.metrics.robustness import failures

BASE = torch.full((3, 4, 5), 0.25)


def with_values(*values):
    """Return a sample of 0.5 whose first pixels have these values in their last channel."""
    sample = torch.full((3, 4, 5), 0.5)
    for column, value in enumerate(values):
        sample[2, 0, column] = value
    return sample


def test_nothing_fails():
    failed = failures(with_values(), BASE)
    assert (failed.finite, failed.pixel_errors, failed.n_pixels) == (True, 0, 20)
    assert (failed.max_abs, failed.max_residual) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("value", "has_inf", "has_nan"), [(math.inf, True, False), (-math.inf, True, False), (math.nan, False, True)]
)
def test_a_value_that_is_not_finite(value, has_inf, has_nan):
    failed = failures(with_values(value), BASE)
    assert (failed.has_inf, failed.has_nan, failed.finite) == (has_inf, has_nan, False)
    assert failed.pixel_errors == 1
    assert failed.max_abs == failed.max_residual == math.inf


@pytest.mark.parametrize(("value", "errors"), [(1.5, 0), (-0.5, 0), (1.5000002, 1), (-0.50000006, 1), (-1e30, 1)])
def test_the_borders_of_the_range_belong_to_it(value, errors):
    failed = failures(with_values(value), BASE)
    assert failed.finite
    assert failed.pixel_errors == errors


def test_pixels_are_counted_once_whatever_their_channels():
    sample = with_values(2.0, math.nan, -3.0)
    sample[0, 0, 0] = -2.0
    assert failures(sample, BASE).pixel_errors == 3


def test_largest_values_have_no_sign():
    failed = failures(with_values(-3.0, 2.0), BASE)
    assert (failed.max_abs, failed.max_residual) == (3.0, 3.25)
