"""Confidence intervals of rates."""

import math


def wilson(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a rate (Wilson, 1927), in percent; (0, 100) if nothing was counted.

        (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n),  p = successes / n

    Args:
        successes: How many of ``n`` were counted.
        n: How many there are.
        z: Quantile of the normal distribution; 1.96 for 95 %.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"expected between 0 and n = {n} successes, got {successes}")
    if n == 0:
        return 0.0, 100.0
    p, spread = successes / n, z * z / n
    half = z * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    low, high = ((p + spread / 2 + side) / (1 + spread) for side in (-half, half))
    # Exact, but for rounding.
    return 0.0 if successes == 0 else 100 * low, 100.0 if successes == n else 100 * high
