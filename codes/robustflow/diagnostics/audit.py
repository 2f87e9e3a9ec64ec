"""Slope audit: how much a trained flow can amplify, whatever the input.

Amplification: by how much sampling lengthens a difference between two sets of latents while the parameters of every
elementwise map, which networks choose, are held.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from robustflow.diagnostics.trace.probe import Layer, kind_of
from robustflow.flows.prior import SplitPrior

# Why the inverse of a kind of layer may stretch, and what training does about it.
PARTS = {
    "coupling": "elementwise map, its parameters from the condition and the other half of the channels",
    "noise coupling": "elementwise map, its parameters from the other half of the channels",
    "injector": "elementwise map, its parameters from the condition",
    "split prior": "exp(log-std), from the channels that stay",
    "1x1 convolution": "the inverse of a learned matrix: the same for every input, bounded by nothing in training",
    "ActNorm": "exp(-logs) per channel, learned: the same for every input, bounded by nothing in training",
}


def bound_of(layers: Mapping[str, Layer]) -> dict[str, Any]:
    """What sampling can do to a difference d of latents, by the bounds of the layers, named, in the order of sampling.

    ‖Δx‖ ≤ 10^factor·‖d‖ + 10^offset·√n.

    Returns:
        The entry of trace.json. ``log10_factor``: None if any layer has no bound; ``log10_factor_of_bounded_layers``;
        ``log10_offset``: None for none; ``unbounded``: kinds of layers without a bound; ``by_kind``: number of layers,
        and log₁₀ of their factors' product; ``sentences``: the same in plain words.
    """
    rows: list[tuple[str, float, float]] = []
    unbounded: list[str] = []
    factor = 0.0
    for name, layer in layers.items():
        kind, bound = kind_of(name), layer.inverse_bound()
        if isinstance(layer, SplitPrior):
            # The latents that it brings in have not been shortened by the layers before it.
            factor = max(factor, 0.0)
        if bound is not None:
            factor += math.log10(bound.factor)
            rows.append((kind, bound.factor, bound.offset))
        elif kind not in unbounded:
            unbounded.append(kind)
    frame = pd.DataFrame(rows, columns=["kind", "factor", "offset"])
    frame["log10"] = np.log10(frame.factor)
    # What a layer adds is stretched by those after it.
    added = frame[frame.offset > 0]
    later = frame.log10[::-1].cumsum()[added.index] - added.log10
    offsets = (np.log10(added.offset) + later) * math.log(10)
    offset = float(special.logsumexp(offsets) / math.log(10)) if len(added) else None
    by_kind = {
        str(kind): {"layers": len(own), "log10_factor": float(own.sum())}
        for kind, own in frame.groupby("kind", sort=False).log10
    }
    return {
        "log10_factor": None if unbounded else factor,
        "log10_factor_of_bounded_layers": factor,
        "log10_offset": offset,
        "unbounded": unbounded,
        "by_kind": by_kind,
        "sentences": _explain(factor, offset, unbounded, by_kind),
    }


def _explain(
    factor: float, offset: float | None, unbounded: Sequence[str], by_kind: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    if unbounded:
        parts = ", ".join(f"{kind} ({PARTS.get(kind, 'no bound given')})" for kind in unbounded)
        first = f"In the worst case this model can amplify without limit: no bound for {parts}."
        first += f" All other layers together: at most 10^{factor:.1f}."
    else:
        first = f"In the worst case this model can amplify by 10^{factor:.1f}."
    shares = (f"{kind} 10^{of['log10_factor']:.1f} ({of['layers']} layers)" for kind, of in by_kind.items())
    sentences = [first, f"Largest factors: {', '.join(shares)}."]
    if offset is not None:
        sentences.append(
            "Splines and soft affine maps, of couplings or split priors, have slope 1 far out; nearer, a difference "
            "grows by the box's width, or 2B, at most, which the layers after it amplify: "
            f"up to 10^{offset:.1f} in all, whatever the input."
        )
    sentences.append(
        "Not in these figures: what the shifts t, and the split priors' means, add; they grow with the condition."
    )
    return sentences
