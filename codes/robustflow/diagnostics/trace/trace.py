"""Layer traces: what every layer does along sampling, in and out of distribution, and which one explodes first."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from robustflow.data import EvaluationSet
from robustflow.diagnostics.trace.probe import Seen, layers, probing
from robustflow.evaluation.sampling import draw_samples
from robustflow.models import FlowModel
from robustflow.options.schema import ValOptions

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

    def add(self, seen: Seen) -> None:
        """Note what was seen of samples of the newest input."""
        largest = _not_finite_as_infinite(seen.value.abs().flatten(1).amax(1)).max()
        self.max_abs[-1] = max(self.max_abs[-1], float(largest))
        self.variances += _not_finite_as_infinite(seen.value.double().flatten(1).var(1)).tolist()
        slopes = (_not_finite_as_infinite(seen.log_slopes.double()) / _LOG10).flatten().cpu().numpy()
        low, high = self.log_slopes
        self.log_slopes = min(low, float(slopes.min())), max(high, float(slopes.max()))
        self.counts += np.histogram(np.clip(slopes, _EDGES[0], _EDGES[-1]), _EDGES)[0]
        self.log_growths += (_not_finite_as_infinite(seen.log_growth) / _LOG10).tolist()

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


class Explosion(NamedTuple):
    """How the layers of a data set compare with the reference.

    Attributes:
        n_inputs: Inputs with a layer that explodes.
        first: The layer that is most often their first one; None if no input has any.
        n_first: For how many of them.
        largest_ratio: Largest |activation| over the reference's largest of the same layer, over all layers.
        ratio_layer: The layer of that ratio.
    """

    n_inputs: int
    first: str | None
    n_first: int
    largest_ratio: float
    ratio_layer: str


def explosion(of: Sequence[LayerTrace], reference: Sequence[LayerTrace], names: Sequence[str]) -> Explosion:
    """Find the first layer along sampling that explodes, for each input, see EXPLODED."""
    usual = np.array([[max(layer.max_abs)] for layer in reference])
    ratios = np.array([layer.max_abs for layer in of]) / usual
    ratios = np.nan_to_num(ratios, nan=math.inf, posinf=math.inf)
    exploded = ratios > EXPLODED
    firsts = Counter(int(column.argmax()) for column in exploded.T if column.any())
    first, n_first = firsts.most_common(1)[0] if firsts else (None, 0)
    by_layer = ratios.max(1)
    highest = int(by_layer.argmax())
    name = None if first is None else names[first]
    return Explosion(int(exploded.any(0).sum()), name, n_first, float(by_layer[highest]), names[highest])


def median(values: Sequence[float]) -> float:
    """The upper median: infinite if half of the values are."""
    return statistics.median_high(values)


@torch.no_grad()
def traced(
    model: FlowModel, items: EvaluationSet, options: ValOptions, name: str
) -> tuple[list[LayerTrace], list[float]]:
    """Sample a data set as a test does, at the largest temperature, and note what every layer does.

    Returns:
        One trace per layer in the order of sampling, and log₁₀ of the whole flow's growth of a perturbation, for each
        sample.
    """
    flow = model.flow
    found = [LayerTrace() for _ in layers(flow)]
    heat = max(options.heats)
    with probing(flow, lambda seen: found[seen.place].add(seen)):
        for item in tqdm(items, total=len(items), desc=f"trace {name}", leave=False, unit="image", disable=None):
            for layer in found:
                layer.max_abs.append(0.0)
            drawn = draw_samples(
                model,
                item.condition.to(model.device),
                name=item.name,
                heats=(heat,),
                n=options.n_sample,
                seed=options.seed,
                batch=options.sample_batch,
                tile=options.tile,
                overlap=options.tile_overlap,
            )
            for _ in drawn:
                pass
    growths = np.array([layer.log_growths for layer in found]).sum(0)
    return found, np.nan_to_num(growths, nan=math.inf, posinf=math.inf).tolist()


def as_plain(found: Sequence[LayerTrace], growths: Sequence[float], compared: Explosion) -> dict[str, Any]:
    """One data set's entry in trace.json."""
    return {
        "n_images": len(found[0].max_abs),
        "n_samples": len(growths),
        "exploding_images": compared.n_inputs,
        "first_exploding_layer": compared.first,
        "first_exploding_images": compared.n_first,
        "largest_ratio": compared.largest_ratio,
        "largest_ratio_layer": compared.ratio_layer,
        "max_abs": [max(layer.max_abs) for layer in found],
        "variance": [layer.variance for layer in found],
        "smallest_slope": [layer.smallest_slope for layer in found],
        "log10_inverse_slope_quantiles": [layer.quantiles() for layer in found],
        "log10_growth_median": [median(layer.log_growths) for layer in found],
        "log10_growth_max": [max(layer.log_growths) for layer in found],
        "total_log10_growth_median": median(growths),
        "total_log10_growth_max": max(growths),
    }


def told(name: str, entry: Mapping[str, Any], reference: str) -> str:
    """One data set's sentence."""
    if entry["first_exploding_layer"] is None:
        most = f"at most {entry['largest_ratio']:.3g} times {reference}, behind {entry['largest_ratio_layer']}"
        return f"{name}: no layer explodes ({most})"
    return (
        f"{name}: explodes for {entry['exploding_images']} of {entry['n_images']} inputs, first in "
        f"{entry['first_exploding_layer']} ({entry['first_exploding_images']} of them)"
    )
