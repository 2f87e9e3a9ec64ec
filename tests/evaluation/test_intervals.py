import pytest

from robustflow.evaluation.metrics.intervals import wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 20, 0, 16.113), (20, 20, 83.887, 100), (10, 20, 29.930, 70.070), (1, 1, 20.654, 100), (7, 100, 3.432, 13.750)],
)
def test_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-3)


def test_the_ends_satisfy_the_score_equation():
    # |p̂ − p| = z √(p (1 − p) / n) defines the interval.
    for end in wilson(3, 17, z=2.5):
        p = end / 100
        assert abs(3 / 17 - p) == pytest.approx(2.5 * (p * (1 - p) / 17) ** 0.5)


def test_nothing_counted():
    assert wilson(0, 0) == (0, 100)


@pytest.mark.parametrize("n", range(1, 200))
def test_no_and_all_end_at_the_bounds(n):
    (low, _), (_, high) = wilson(0, n), wilson(n, n)
    assert 0 <= low < 1e-12
    assert 100 - 1e-12 < high <= 100


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_refuses(successes, n):
    with pytest.raises(ValueError, match="expected between 0"):
        wilson(successes, n)
