"""A Gaussian fitted to a stream of vectors, with a covariance that can be inverted."""

import torch
from torch import Tensor

from robustflow.utils.errors import UserError


class GaussianFit:
    """Mean and covariance of vectors that come in batches, and how far the covariance is to be trusted.

    Sums of powers about the mean are kept and moved to the new mean when batches are joined (Chan, Golub, LeVeque,
    1979), in float64: with y = x − mean, Σyyᵀ, Σ|y|²y and Σ|y|⁴. The last two serve the shrinkage alone.

    Args:
        dimension: Length c of the vectors.

    Attributes:
        n: Vectors seen.
        mean: Their mean (c,).
    """

    def __init__(self, dimension: int) -> None:
        self.n = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64)
        self._square = torch.zeros(dimension, dimension, dtype=torch.float64)
        self._cubic = torch.zeros(dimension, dtype=torch.float64)
        self._quartic = torch.zeros((), dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Take in vectors (b, c)."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"expected vectors (b, {len(self.mean)}), got {tuple(features.shape)}")
        if len(features) == 0:
            return
        batch = GaussianFit(features.shape[1])
        x = features.detach().to("cpu", torch.float64)
        batch.n, batch.mean = len(x), x.mean(0)
        y = x - batch.mean
        length = y.square().sum(1)
        batch._square, batch._cubic, batch._quartic = y.T @ y, length @ y, length.square().sum()
        self.merge(batch)

    def merge(self, other: "GaussianFit") -> None:
        """Take in all that another fit has seen."""
        n = self.n + other.n
        if n == 0:
            return
        mean = self.mean + (other.mean - self.mean) * (other.n / n)
        pairs = zip(self._about(mean), other._about(mean), strict=True)
        self._square, self._cubic, self._quartic = (ours + theirs for ours, theirs in pairs)
        self.n, self.mean = n, mean

    def _about(self, center: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The sums about another point: y becomes y − d, where Σy = 0."""
        d = center - self.mean
        along, trace, length = self._square @ d, self._square.trace(), d @ d
        square = self._square + self.n * torch.outer(d, d)
        cubic = self._cubic - trace * d - 2 * along - self.n * length * d
        quartic = self._quartic - 4 * (d @ self._cubic) + 4 * (d @ along) + 2 * length * trace + self.n * length**2
        return square, cubic, quartic

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (c, c), as numpy.cov gives it; at least two vectors."""
        return self._square / (self.n - 1)

    def ledoit_wolf(self) -> float:
        """Share of the scaled identity in the estimate of least expected squared error, in [0, 1].

        With S = Σyyᵀ/n, m = tr S / c and ‖A‖² = tr AAᵀ / c: min(b², d²) / d², where d² = ‖S − mI‖² is the spread of
        S about the identity and b² = Σ‖yyᵀ − S‖² / n² = (Σ|y|⁴/(c n) − ‖S‖²) / n its error. Ledoit, Wolf, "A
        well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Anal. 88 (2004), section
        3.2. Exact however the vectors were batched.
        """
        c, s = len(self.mean), self._square / self.n
        spread = (s - s.trace() / c * torch.eye(c, dtype=s.dtype)).square().sum() / c
        error = (self._quartic / self.n - s.square().sum()) / (c * self.n)
        return 1.0 if spread <= error else float((error / spread).clamp(min=0))

    def factor(self, shrinkage: float) -> Tensor:
        """Cholesky factor (c, c), lower, of (1 − ρ)·covariance + ρ·m·I, m the mean variance, ρ the shrinkage.

        UserError if that has no inverse: vectors all alike, or fewer than dimensions without shrinkage.
        """
        if self.n < 2:
            raise UserError(f"expected at least 2 feature vectors to fit a Gaussian to, got {self.n}: use more patches")
        covariance = self.covariance
        target = covariance.trace() / len(covariance) * torch.eye(len(covariance), dtype=covariance.dtype)
        lower, failed = torch.linalg.cholesky_ex(torch.lerp(covariance, target, shrinkage))
        if failed or not lower.isfinite().all():
            raise UserError(
                f"expected finite features that vary in all {len(covariance)} directions, got {self.n} that do not "
                f"(shrinkage {shrinkage:.3g}): use more patches, or other images if they are all alike"
            )
        return lower


def squared_mahalanobis(features: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """(x − mean)ᵀ C⁻¹ (x − mean) of vectors (b, c), as (b,); ``factor`` (c, c) is C's lower Cholesky factor."""
    return torch.linalg.solve_triangular(factor, (features - mean).T, upper=False).square().sum(0)
