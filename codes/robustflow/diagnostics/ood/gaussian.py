"""A Gaussian fitted to vectors, with a covariance that can be inverted."""

import torch
from torch import Tensor

from robustflow.utils.errors import UserError


def shrinkage_of(vectors: Tensor) -> float:
    """Share of the scaled identity in the covariance's estimate of least expected squared error, in [0, 1].

    Of vectors x (n, c) with y = x − mean, S = Σyyᵀ/n, m = tr S / c and ‖A‖² = tr AAᵀ / c: min(b², d²) / d², where
    d² = ‖S − mI‖² is the spread of S about the identity and b² = Σ‖yyᵀ − S‖² / n² = (Σ|y|⁴/(c n) − ‖S‖²) / n its error.
    Ledoit, Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Anal. 88
    (2004), section 3.2.
    """
    n, c = vectors.shape
    y = vectors - vectors.mean(0)
    s = y.T @ y / n
    spread = (s - s.trace() / c * torch.eye(c, dtype=s.dtype)).square().sum() / c
    error = (y.square().sum(1).square().mean() - s.square().sum()) / (c * n)
    return 1.0 if spread <= error else float((error / spread).clamp(min=0))


def fit_gaussian(vectors: Tensor, shrinkage: float | None = None) -> tuple[Tensor, Tensor, float]:
    """Fit a Gaussian to vectors (n, c), float64.

    Args:
        vectors: At least 2.
        shrinkage: ρ; None: that of Ledoit and Wolf.

    Returns:
        Mean (c,); Cholesky factor (c, c), lower, of (1 − ρ)·covariance + ρ·m·I, m the mean variance; and ρ.

    Raises:
        UserError: It has no inverse: vectors all alike, or no more than dimensions without shrinkage.
    """
    n, c = vectors.shape
    if n < 2:
        raise UserError(f"expected at least 2 feature vectors to fit a Gaussian to, got {n}: use more patches")
    shrinkage = shrinkage_of(vectors) if shrinkage is None else shrinkage
    covariance = torch.cov(vectors.T).view(c, c)
    target = covariance.trace() / c * torch.eye(c, dtype=covariance.dtype)
    lower, failed = torch.linalg.cholesky_ex(torch.lerp(covariance, target, shrinkage))
    # Of too few vectors the rank is too low, which rounding may hide.
    if failed or not lower.isfinite().all() or (shrinkage == 0 and n <= c):
        raise UserError(
            f"expected finite features that vary in all {c} directions, got {n} that do not (shrinkage "
            f"{shrinkage:.3g}): use more patches, a shrunk covariance, or other images if they are all alike"
        )
    return vectors.mean(0), lower, shrinkage


def squared_mahalanobis(features: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """(x − mean)ᵀ C⁻¹ (x − mean) of vectors (b, c), as (b,); ``factor`` (c, c) is C's lower Cholesky factor."""
    return torch.linalg.solve_triangular(factor, (features - mean).T, upper=False).square().sum(0)
