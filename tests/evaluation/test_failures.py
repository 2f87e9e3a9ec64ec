import math

import pytest
import scipy.stats
import torch

from robustflow.data.images import to_uint8
from robustflow.evaluation.metrics import Sample, Target
from robustflow.evaluation.metrics.failures import measure_failures, wilson

BASE = torch.full((3, 4, 5), 0.25)


def failures(sample):
    return measure_failures(sample, BASE)


def finite(sample):
    return Sample(sample, Target(lr=to_uint8(BASE), upsampled=BASE, gt=None)).finite


def with_values(*values):
    """Return a sample of 0.5 whose first pixels have these values in their last channel."""
    sample = torch.full((3, 4, 5), 0.5)
    for column, value in enumerate(values):
        sample[2, 0, column] = value
    return sample


def test_nothing_fails():
    failed = failures(with_values())
    assert (finite(with_values()), failed["pixel_errors"], failed["n_pixels"]) == (True, 0, 20)
    assert (failed["max_abs"], failed["max_residual"]) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("value", "has_inf", "has_nan"), [(math.inf, True, False), (-math.inf, True, False), (math.nan, False, True)]
)
def test_a_value_that_is_not_finite(value, has_inf, has_nan):
    failed = failures(with_values(value))
    assert (failed["has_inf"], failed["has_nan"], finite(with_values(value))) == (has_inf, has_nan, False)
    assert failed["pixel_errors"] == 1
    assert failed["max_abs"] == failed["max_residual"] == math.inf


@pytest.mark.parametrize(("value", "errors"), [(1.5, 0), (-0.5, 0), (1.5000002, 1), (-0.50000006, 1), (-1e30, 1)])
def test_the_borders_of_the_range_belong_to_it(value, errors):
    failed = failures(with_values(value))
    assert finite(with_values(value))
    assert failed["pixel_errors"] == errors


def test_pixels_are_counted_once_whatever_their_channels():
    sample = with_values(2.0, math.nan, -3.0)
    sample[0, 0, 0] = -2.0
    assert failures(sample)["pixel_errors"] == 3


def test_largest_values_have_no_sign():
    failed = failures(with_values(-3.0, 2.0))
    assert (failed["max_abs"], failed["max_residual"]) == (3.0, 3.25)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 20, 0, 16.113), (20, 20, 83.887, 100), (10, 20, 29.930, 70.070), (1, 1, 20.654, 100), (7, 100, 3.432, 13.750)],
)
def test_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-3)


def test_the_ends_of_an_interval_satisfy_the_score_equation():
    # |p̂ − p| = z √(p (1 − p) / n) defines the interval.
    for end in wilson(3, 17):
        p = end / 100
        assert abs(3 / 17 - p) == pytest.approx(1.959964 * (p * (1 - p) / 17) ** 0.5)


def test_interval_of_nothing_counted():
    assert wilson(0, 0) == (0, 100)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 199])
def test_intervals_of_none_and_of_all_end_at_the_bounds(n):
    assert (wilson(0, n)[0], wilson(n, n)[1]) == (0, 100)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (1, -1)])
def test_intervals_of_what_cannot_be(successes, n):
    with pytest.raises(ValueError, match="must"):
        wilson(successes, n)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (1, 3), (7, 24), (24, 24), (5, 100_000)])
def test_wilson_interval_is_that_of_scipy(successes, n):
    expected = scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx([100 * expected.low, 100 * expected.high], rel=1e-12, abs=1e-12)
