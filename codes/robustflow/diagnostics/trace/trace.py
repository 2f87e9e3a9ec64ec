"""Layer traces: what every layer does along sampling, in and out of distribution, and which one explodes first."""

import logging
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.data import EvaluationSet
from robustflow.diagnostics import audit
from robustflow.diagnostics.trace.probe import kind_of, layers, probing
from robustflow.evaluation.sampling import draw_samples
from robustflow.models import FlowModel

log = logging.getLogger(__name__)

# A layer explodes if an activation behind it is so many times the largest one of the reference inputs, or not finite.
EXPLODED = 100.0
PERCENTS = (0.0, 1.0, 50.0, 99.0, 99.9, 100.0)
_LOG10 = math.log(10)
_EDGES = np.linspace(-12, 24, 1801)  # of log10 inverse slopes; what lies outside counts at the ends


@dataclass
class LayerTrace:
    """What one layer did on one data set.

    Attributes:
        max_abs: Largest |activation| behind it, for each input; infinite if one is not finite.
        variances: Of the activations, for each sample.
        log_slopes: Smallest and largest log₁₀ inverse slope |dx/dz|, exactly.
        counts: Histogram of them.
        log_growths: log₁₀ of the growth of a random perturbation, for each sample.
    """

    max_abs: list[float] = field(default_factory=list)
    variances: list[float] = field(default_factory=list)
    log_slopes: tuple[float, float] = (math.inf, -math.inf)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(len(_EDGES) - 1, dtype=np.int64))
    log_growths: list[float] = field(default_factory=list)

    def add(self, value: Tensor, log_slopes: Tensor, log_growth: Tensor) -> None:
        """Note what was seen of samples of the newest input, see `probe.See`."""
        largest = _not_finite_as_infinite(value.abs().flatten(1).amax(1)).max()
        self.max_abs[-1] = max(self.max_abs[-1], float(largest))
        self.variances += _not_finite_as_infinite(value.double().flatten(1).var(1)).tolist()
        slopes = (_not_finite_as_infinite(log_slopes.double()) / _LOG10).flatten().cpu().numpy()
        low, high = self.log_slopes
        self.log_slopes = min(low, float(slopes.min())), max(high, float(slopes.max()))
        self.counts += np.histogram(np.clip(slopes, _EDGES[0], _EDGES[-1]), _EDGES)[0]
        self.log_growths += (_not_finite_as_infinite(log_growth) / _LOG10).tolist()

    @property
    def variance(self) -> float:
        """Mean over the samples."""
        return float(np.mean(self.variances))

    @property
    def smallest_slope(self) -> float:
        """Smallest |dz/dx|; 0 where it is below what numbers hold."""
        return 10.0 ** -min(self.log_slopes[1], 300.0) if self.log_slopes[1] < math.inf else 0.0

    def quantiles(self) -> list[float]:
        """log₁₀ inverse slopes at PERCENTS; exact at 0 and 100, to 0.02 between."""
        reached = 100 * self.counts.cumsum() / self.counts.sum()
        inner = [float(_EDGES[int(np.searchsorted(reached, percent)) + 1]) for percent in PERCENTS[1:-1]]
        low, high = self.log_slopes
        return [low, *(min(max(value, low), high) for value in inner), high]


def _not_finite_as_infinite(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)


def find_explosion(of: Sequence[LayerTrace], reference: Sequence[LayerTrace], names: Sequence[str]) -> dict[str, Any]:
    """Compare the layers of a data set, in the order of sampling, with those of the reference; see EXPLODED.

    Returns:
        ``exploding_images``: inputs with a layer that explodes; ``first_exploding_layer``: the one that is most often
        their first, None if no input has any; ``first_exploding_images``: for how many of them; ``largest_ratio``:
        largest |activation| over the reference's largest of the same layer, over all layers; ``largest_ratio_layer``.
    """
    usual = np.array([[max(layer.max_abs)] for layer in reference])
    ratios = np.nan_to_num(np.array([layer.max_abs for layer in of]) / usual, nan=math.inf, posinf=math.inf)
    exploded = ratios > EXPLODED
    firsts = Counter(int(column.argmax()) for column in exploded.T if column.any())
    first, n_first = firsts.most_common(1)[0] if firsts else (None, 0)
    by_layer = ratios.max(1)
    return {
        "exploding_images": int(exploded.any(0).sum()),
        "first_exploding_layer": None if first is None else names[first],
        "first_exploding_images": n_first,
        "largest_ratio": float(by_layer.max()),
        "largest_ratio_layer": names[int(by_layer.argmax())],
    }


def sum_by_kind(found: Sequence[LayerTrace], kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each kind of layer: its share in a perturbation's growth, and its steepest inverse slope.

    Returns:
        Kind → log₁₀ growth in all layers of the kind, median and largest over samples, and log₁₀ of the largest inverse
        slope that occurred.
    """
    of_kind: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(kinds):
        own = [layer for layer, its in zip(found, kinds, strict=True) if its == kind]
        growths = _total_growths(own)
        of_kind[kind] = {
            "log10_growth_median": statistics.median_high(growths),
            "log10_growth_max": max(growths),
            "log10_inverse_slope_max": max(layer.log_slopes[1] for layer in own),
        }
    return of_kind


def _total_growths(found: Sequence[LayerTrace]) -> list[float]:
    growths = np.array([layer.log_growths for layer in found]).sum(0)
    return np.nan_to_num(growths, nan=math.inf, posinf=math.inf).tolist()


def trace(model: FlowModel, sets: Mapping[str, EvaluationSet]) -> dict[str, Any]:
    """Trace a model on data sets, sampled as a test does, and audit its slopes: the content of trace.json.

    The first data set is the reference, in distribution.
    """
    of_flow, reference = layers(model.flow), next(iter(sets))
    names, kinds = list(of_flow), list(map(kind_of, of_flow))
    usual: list[LayerTrace] = []
    entries: dict[str, Any] = {}
    for name, items in sets.items():
        found = trace_set(model, items, name)
        usual = usual or found
        entry = {**_describe(found), **find_explosion(found, usual, names), "by_kind": sum_by_kind(found, kinds)}
        entries[name] = {**entry, "sentence": _explain(name, entry, reference)}
        log.info(entries[name]["sentence"])
    return {
        "name": model.options.name,
        "weights": str(model.file),
        "temperature": max(model.options.val.heats),
        "reference": reference,
        "exploded_above": EXPLODED,
        "layers": [{"name": name, "kind": kind} for name, kind in zip(names, kinds, strict=True)],
        "bound": audit.bound_of(of_flow),
        "datasets": entries,
    }


@torch.no_grad()
def trace_set(model: FlowModel, items: EvaluationSet, name: str) -> list[LayerTrace]:
    """Sample a data set at the largest temperature; note what every layer does, in the order of sampling."""
    val, found = model.options.val, [LayerTrace() for _ in layers(model.flow)]
    with probing(model.flow, lambda place, *seen: found[place].add(*seen)):
        for item in tqdm(items, total=len(items), desc=f"trace {name}", leave=False, unit="image", disable=None):
            for layer in found:
                layer.max_abs.append(0.0)
            drawn = draw_samples(
                model,
                item.condition.to(model.device),
                name=item.name,
                heats=(max(val.heats),),
                n=val.n_sample,
                seed=val.seed,
                batch=val.sample_batch,
                tile=val.tile,
                overlap=val.tile_overlap,
            )
            for _ in drawn:
                pass
    return found


def _describe(found: Sequence[LayerTrace]) -> dict[str, Any]:
    growths = _total_growths(found)
    return {
        "n_images": len(found[0].max_abs),
        "n_samples": len(growths),
        "max_abs": [max(layer.max_abs) for layer in found],
        "variance": [layer.variance for layer in found],
        "smallest_slope": [layer.smallest_slope for layer in found],
        "log10_inverse_slope_quantiles": [layer.quantiles() for layer in found],
        # The upper median: infinite if half of the values are.
        "log10_growth_median": [statistics.median_high(layer.log_growths) for layer in found],
        "log10_growth_max": [max(layer.log_growths) for layer in found],
        "total_log10_growth_median": statistics.median_high(growths),
        "total_log10_growth_max": max(growths),
    }


def _explain(name: str, entry: Mapping[str, Any], reference: str) -> str:
    if entry["first_exploding_layer"] is None:
        most = f"at most {entry['largest_ratio']:.3g} times {reference}, behind {entry['largest_ratio_layer']}"
        return f"{name}: no layer explodes ({most})"
    return (
        f"{name}: explodes for {entry['exploding_images']} of {entry['n_images']} inputs, first in "
        f"{entry['first_exploding_layer']} ({entry['first_exploding_images']} of them)"
    )
