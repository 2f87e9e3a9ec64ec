"""Slope audit: how much a trained flow can amplify, whatever the input, and how much it did on a data set.

Amplification: by how much sampling lengthens a difference between two sets of latents while the parameters of every
elementwise map, which networks choose, are held.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from robustflow.diagnostics.trace.probe import Layer
from robustflow.diagnostics.trace.trace import LayerTrace, median

# Why the inverse of a kind of layer may stretch, and what training does about it.
PARTS = {
    "coupling": "elementwise map, its parameters from the condition and the other half of the channels",
    "noise coupling": "elementwise map, its parameters from the other half of the channels",
    "injector": "elementwise map, its parameters from the condition",
    "split prior": "exp(log-std), from the channels that stay",
    "1x1 convolution": "the inverse of a learned matrix: the same for every input, bounded by nothing in training",
    "ActNorm": "exp(-logs) per channel, learned: the same for every input, bounded by nothing in training",
}


class Bound(NamedTuple):
    """What sampling can do to a difference d of latents: ‖Δx‖ ≤ 10^factor·‖d‖ + 10^offset·√n.

    Attributes:
        factor: log₁₀; without the layers that have no bound.
        offset: log₁₀; −∞ for none.
        unbounded: Kinds of layers without a bound, in the order of sampling.
        by_kind: Kind → number of layers, and log₁₀ of their factors' product.
    """

    factor: float
    offset: float
    unbounded: tuple[str, ...]
    by_kind: dict[str, tuple[int, float]]


def bound_of(layers: Sequence[Layer]) -> Bound:
    """Compose the layers' bounds, in the order of sampling."""
    factor, offset = 0.0, -math.inf
    unbounded: dict[str, None] = {}
    by_kind: dict[str, tuple[int, float]] = {}
    for layer in layers:
        bound = layer.bound
        if bound is None:
            unbounded[layer.kind] = None
            continue
        own = math.log10(bound.factor)
        factor += own
        added = math.log10(bound.offset) if bound.offset > 0 else -math.inf
        offset = float(np.logaddexp2((offset + own) / _LOG10_2, added / _LOG10_2) * _LOG10_2)
        n, product = by_kind.get(layer.kind, (0, 0.0))
        by_kind[layer.kind] = (n + 1, product + own)
    return Bound(factor, offset, tuple(unbounded), by_kind)


_LOG10_2 = math.log10(2)


def sentences(bound: Bound) -> list[str]:
    """What the bound means, in plain words."""
    if bound.unbounded:
        parts = ", ".join(f"{kind} ({PARTS.get(kind, 'no bound given')})" for kind in bound.unbounded)
        first = f"In the worst case this model can amplify without limit: no bound for {parts}."
        first += f" All other layers together: at most 10^{bound.factor:.1f}."
    else:
        first = f"In the worst case this model can amplify by 10^{bound.factor:.1f}."
    shares = ", ".join(f"{kind} 10^{product:.1f} ({n} layers)" for kind, (n, product) in bound.by_kind.items())
    found = [first, f"Largest factors: {shares}."]
    if bound.offset > -math.inf:
        found.append(
            "Splines have slope 1 outside their box; inside, a difference grows by the box's width at most, which the "
            f"layers after it amplify: up to 10^{bound.offset:.1f} in all, whatever the input."
        )
    found.append(
        "Not in these figures: what the shifts t, and the split priors' means, add; they grow with the condition."
    )
    return found


def contributions(found: Sequence[LayerTrace], kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each kind of layer: its share in a perturbation's growth, and its steepest inverse slope.

    Returns:
        Kind → log₁₀ growth in all layers of the kind, median and largest over samples, and log₁₀ of the largest inverse
        slope that occurred.
    """
    of_kind: dict[str, Any] = {}
    for kind in dict.fromkeys(kinds):
        own = [layer for layer, its in zip(found, kinds, strict=True) if its == kind]
        growths = np.array([layer.log_growths for layer in own]).sum(0).tolist()
        of_kind[kind] = {
            "log10_growth_median": median(growths),
            "log10_growth_max": max(growths),
            "log10_inverse_slope_max": max(layer.log_slopes[1] for layer in own),
        }
    return of_kind


def as_plain(bound: Bound) -> Mapping[str, Any]:
    """The bound's entry in trace.json."""
    return {
        "log10_factor": None if bound.unbounded else bound.factor,
        "log10_factor_of_bounded_layers": bound.factor,
        "log10_offset": bound.offset if bound.offset > -math.inf else None,
        "unbounded": list(bound.unbounded),
        "by_kind": {kind: {"layers": n, "log10_factor": value} for kind, (n, value) in bound.by_kind.items()},
        "sentences": sentences(bound),
    }
