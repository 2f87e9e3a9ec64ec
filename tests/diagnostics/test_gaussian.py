"""The Gaussian of the out-of-distribution score, on vectors whose mean and covariance are known."""

import math

import numpy as np
import pytest
import torch

from robustflow.diagnostics.ood import mahalanobis
from robustflow.diagnostics.ood.gaussian import fit_gaussian, shrinkage_of, squared_mahalanobis
from robustflow.utils.errors import UserError


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Far from the origin, directions of very different size.
VECTORS = normal(90, 6) @ normal(6, 6, seed=1) * torch.tensor([1e-3, 1, 1, 1, 10, 1e3]) + 1e4


def test_mean_and_covariance_are_numpys():
    mean, factor, used = fit_gaussian(VECTORS, 0.0)
    assert used == 0
    np.testing.assert_allclose(mean, VECTORS.numpy().mean(0), rtol=1e-13)
    expected = np.cov(VECTORS.numpy(), rowvar=False)
    size = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    np.testing.assert_allclose((factor @ factor.T).numpy() / size, expected / size, atol=1e-9)


def test_a_shrunk_covariance_has_less_of_itself_and_more_of_the_identity():
    _, factor, _ = fit_gaussian(normal(90, 6), 0.25)
    covariance = np.cov(normal(90, 6).numpy(), rowvar=False)
    expected = 0.75 * covariance + 0.25 * np.trace(covariance) / 6 * np.eye(6)
    np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-12)


@pytest.mark.parametrize("vectors", [normal(90, 6), VECTORS, VECTORS - 1e4, normal(90, 6).exp() + 3, normal(90, 200)])
def test_shrinkage_is_that_of_the_definition(vectors):
    n, c = vectors.shape
    x = vectors - vectors.mean(0)
    s = x.T @ x / n
    spread = (s - s.trace() / c * torch.eye(c)).square().sum() / c
    error = sum((torch.outer(y, y) - s).square().sum() / c for y in x) / n**2
    expected = min(error, spread) / spread
    assert 0 < expected <= 1
    assert shrinkage_of(vectors) == pytest.approx(expected.item(), rel=1e-9)
    assert fit_gaussian(vectors)[2] == shrinkage_of(vectors)


@pytest.mark.parametrize("shrinkage", [None, 0.0])
@pytest.mark.parametrize("c", [64, 256])
def test_score_of_gaussian_vectors_is_about_their_dimension(c, shrinkage):
    n, n_new = 20_000, 2_000
    root = normal(c, 2 * c, seed=1) / math.sqrt(2 * c)
    covariance, mean = root @ root.T, normal(c, seed=2)
    factor = torch.linalg.cholesky(covariance)
    old, new = (mean + normal(count, c, seed=seed) @ factor.T for count, seed in ((n, 3), (n_new, 4)))
    center, lower, used = fit_gaussian(old, shrinkage)
    assert used == 0 if shrinkage == 0 else 0 < used < 0.1
    score = squared_mahalanobis(new, center, lower)

    # x'Ax with x ~ N(m, C): mean tr AC + m'Am, variance 2 tr ACAC + 4 m'ACAm.
    product = torch.cholesky_solve(covariance, lower)
    offset = mean - center
    solved = torch.cholesky_solve(offset[:, None], lower)[:, 0]
    expected = (product.trace() + offset @ solved).item()
    variance = 2 * (product @ product).trace() + 4 * solved @ covariance @ solved
    assert score.mean().item() == pytest.approx(expected, abs=4 * math.sqrt(variance / n_new))
    assert score.mean().item() == pytest.approx(c, rel=0.04)
    if shrinkage == 0:  # the inverse of a Wishart matrix has the mean inverse n / (n − c − 2), less shrinkage
        assert score.mean().item() == pytest.approx(c * (n - 1) / (n - c - 2), abs=4 * math.sqrt(2 * c / n_new) + 0.5)


def test_mean_scores_are_those_that_are_documented():
    c, n, new = 256, 1000, 1000
    features = normal(n, c, seed=5)
    mean, factor, used = fit_gaussian(features, 0.0)
    assert used == 0
    own = squared_mahalanobis(features, mean, factor).mean().item()
    assert own == pytest.approx(256, abs=1)
    # In sample whatever the distribution.
    skewed = features[:, :40].exp()
    own_of_skewed = squared_mahalanobis(skewed, *fit_gaussian(skewed, 0.0)[:2]).mean().item()
    assert own_of_skewed == pytest.approx(40 * (n - 1) / n, rel=1e-9)

    def expected(n):
        return c * (n**2 - 1) / (n * (n - c - 2))

    scores = squared_mahalanobis(normal(new, c, seed=6), mean, factor).mean().item()
    assert scores == pytest.approx(expected(n), rel=0.01)
    assert mahalanobis.cross_score(features, 0.0).mean().item() == pytest.approx(expected(0.9 * n), rel=0.01)
    assert [round(expected(n)) for n in (1000, 2000, 10_000)] == [345, 294, 263]
    assert [round(expected(0.9 * n)) for n in (1000, 2000, 10_000)] == [359, 299, 264]


def test_scores_of_the_fitted_are_as_those_of_new_ones():
    c, n = 40, 500
    own, crossed, new = [], [], []
    for seed in range(10):
        features = normal(n, c, seed=seed)
        mean, factor, _ = fit_gaussian(features, 0.0)
        crossed.append(mahalanobis.cross_score(features, 0.0).mean())
        for found, x in ((own, features), (new, normal(2000, c, seed=100 + seed))):
            found.append(squared_mahalanobis(x, mean, factor).mean())
    own, crossed, new = (torch.stack(found).mean().item() for found in (own, crossed, new))
    assert own == pytest.approx(c * (n - 1) / n, rel=1e-9)
    # About c n / (n − c − 2); the ones left out by fits to nine tenths.
    assert new == pytest.approx(c * n / (n - c - 2), rel=0.01)
    assert crossed == pytest.approx(c * 450 / (450 - c - 2), rel=0.01)


def test_fewer_patches_than_features():
    assert shrinkage_of(normal(20, 64)) > 0.1
    assert mahalanobis.cross_score(normal(20, 64)).isfinite().all()
    with pytest.raises(UserError, match="vary in all 64 directions, got 18"):
        mahalanobis.cross_score(normal(20, 64), 0.0)
    # Of as many vectors as dimensions the rank is one too low, which rounding may hide.
    with pytest.raises(UserError, match=r"vary in all 3 directions, got 3 that do not .*a shrunk covariance"):
        fit_gaussian(torch.eye(3, dtype=torch.float64) + 0.1, 0.0)


@pytest.mark.parametrize("features", [torch.ones(20, 3).double(), torch.full((20, 3), math.nan).double()])
def test_features_that_are_alike_or_not_finite(features):
    with pytest.raises(UserError, match="expected finite features that vary"):
        mahalanobis.cross_score(features)


def test_a_single_vector():
    with pytest.raises(UserError, match="at least 2 feature vectors to fit a Gaussian to, got 1"):
        fit_gaussian(normal(1, 3))
