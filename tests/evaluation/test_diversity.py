import numpy as np
import pytest
import torch

from robustflow.evaluation.metrics import diversity
from robustflow.evaluation.metrics.diversity import score, sigma


def test_sigma_is_the_mean_deviation_of_a_pixel():
    samples = np.random.default_rng(0).random((5, 3, 4, 6))
    expected = (samples * 255).std(axis=0).mean()
    assert sigma(torch.from_numpy(samples)) == pytest.approx(expected, rel=1e-12)
    assert sigma(torch.from_numpy(samples).float()) == pytest.approx(expected, rel=1e-6)


def test_sigma_of_one_of_equal_and_of_no_samples():
    image = torch.rand(1, 3, 4, 6)
    assert sigma(image) == 0
    assert sigma(image.expand(4, 3, 4, 6)) == 0
    assert sigma(image[:0]) is None


def test_sigma_of_large_equal_offsets_is_exact():
    samples = torch.full((2, 3, 2, 2), 0.5)
    samples[1] += 2 / 255
    assert sigma(samples) == pytest.approx(1, rel=1e-5)


def test_score_follows_its_definition():
    maps = np.random.default_rng(0).random((5, 7, 8))
    best_sample, best_pixels = min(m.mean() for m in maps), np.min(maps, axis=0).mean()
    expected = 100 * (best_sample - best_pixels) / best_sample
    assert score(torch.from_numpy(maps)) == pytest.approx(expected, rel=1e-12)


def test_score_of_samples_that_complement_each_other():
    left = torch.zeros(2, 4)
    left[:, 2:] = 1
    assert score(torch.stack([left, 1 - left])) == 100
    assert score(torch.stack([left, 1 - left]) + 1) == pytest.approx(100 / 3)


def test_score_of_one_of_equal_of_perfect_and_of_no_samples():
    maps = torch.rand(1, 4, 6)
    assert score(maps) == 0
    assert score(maps.expand(3, 4, 6)) == 0
    assert score(torch.stack([maps[0], torch.zeros(4, 6)])) is None
    assert score(maps[:0]) is None


def test_spread_is_the_standard_deviation_of_finite_samples():
    samples = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    spread = diversity.Spread()
    assert spread.picture() is None
    for sample in (*samples, torch.full((3, 4, 6), torch.nan), torch.full((3, 4, 6), torch.inf)):
        spread.add(sample)
    expected = samples.clamp(0, 1).double().std(0, correction=0).mean(0)
    assert spread.n == 5
    for channel in spread.picture():
        torch.testing.assert_close(channel * diversity.WHITE, expected)
