"""The toy's tables."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from robustflow.options.toy import ToyOptions
from robustflow.report.columns import cell
from robustflow.report.tables import align
from robustflow.toy.measure import HeldOut
from robustflow.toy.points import AREA, WINDOW, M
from robustflow.toy.run import Given, Trial

COLUMNS = {
    "bits_per_dim": "bits/dim",
    "bits_gap": "above exact",
    "spread": "spread",
    "spread_ratio": "spread / true",
    "centre_error": "centre off by",
    "jump": "layer jump",
    "outside": "% outside",
    "max_abs": "max abs",
}


def name_level(level: float | None) -> str:
    """A noise level in words."""
    return "in distribution" if level is None else f"σ = {level:g}"


def line(run: Trial) -> str:
    """A trial in one line."""
    level = max(run.levels, key=lambda level: level or 0)
    ours, ood = run.levels[None].figures, run.levels[level].figures
    return (
        f"{ours['bits_per_dim']:.3f} bits/dim, spread {cell(ours['spread'])}, at {name_level(level)} "
        f"{cell(ood['spread'])}; {run.seconds:.0f} s"
    )


def record(options: ToyOptions, given: Given, trials: Sequence[Trial]) -> dict[str, Any]:
    """Every figure of every run; non-finite numbers as text."""
    return {
        "name": options.name,
        "condition": options.data.condition,
        "exact_bits_per_dim": {name_level(level): at_level.bits_per_dim for level, at_level in given.items()},
        "runs": [
            {
                "coupling": run.coupling,
                "seed": run.seed,
                "seconds": round(run.seconds, 1),
                "levels": {name_level(level): _plain(measured.figures) for level, measured in run.levels.items()},
                "layers": run.levels[None].layers,
                "variances": {
                    name_level(level): [[_number(v) for v in row] for row in measured.variances.tolist()]
                    for level, measured in run.levels.items()
                },
            }
            for run in trials
        ],
    }


def _plain(figures: dict[str, Any]) -> dict[str, Any]:
    return {key: _number(value) if isinstance(value, float) else value for key, value in figures.items()}


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def markdown(options: ToyOptions, given: Given, trials: Sequence[Trial], seconds: float) -> str:
    """All tables with what they mean."""
    runs = f"{options.train.niter} iterations of {options.train.batch_size} points; {len(trials)} runs, {seconds:.0f} s"
    sections = [_section(options, at_level, trials, level) for level, at_level in given.items()]
    return "\n".join(
        [f"# {options.name}\n", f"{_WHAT[options.data.condition]} {runs}.\n", _LEGEND, *sections, _explain()]
    )


def _section(options: ToyOptions, given: HeldOut, trials: Sequence[Trial], level: float | None) -> str:
    rows = []
    for coupling in options.couplings:
        own = [run for run in trials if run.coupling == coupling]
        figures = [run.levels[level].figures for run in own]
        rows += [[coupling, str(run.seed), *_cells(f), f["jump_layer"]] for run, f in zip(own, figures, strict=True)]
        median = {key: statistics.median(f[key] for f in figures) for key in COLUMNS}
        rows.append([f"**{coupling}**", "**median**", *(f"**{text}**" for text in _cells(median)), ""])
    table = align(rows, ["coupling", "seed", *COLUMNS.values(), "jump at"], 2, "github")
    truth = math.sqrt(float(given.var.mean()))
    exact = f"Exact: {given.bits_per_dim:.3f} bits/dim, spread {truth:.3f}."
    return f"## {name_level(level)}\n\n{exact}\n\n{table}\n"


def _cells(figures: dict[str, Any]) -> list[str]:
    return [cell(100 * figures[key] if key == "outside" else figures[key]) for key in COLUMNS]


_WHAT = {
    "noisy": "Points x on a parallelogram, seen through y = (x₁ + σn, σ), n ~ N(0, 1), σ ~ U(0, σ_max) in training.",
    "independent": "Points x on a parallelogram; y = (σn, σ) knows nothing of x, σ ~ U(0, σ_max) in training.",
    "constant": "Points x on a parallelogram; y = (0, 0) in training, y = (σn, σ) out of distribution.",
}
_LEGEND = f"""- bits/dim: of held-out points; above exact: less that of the true posterior.
- spread: standard deviation of the samples about their own centre at fixed y, pooled over y and both coordinates;
  spread / true: over that of the true posterior (1 is right).
- centre off by: RMS distance of a sample's centre from the mean of the true posterior.
- layer jump: largest factor by which one layer multiplies the total variance along sampling; jump at: which one.
- % outside: samples outside the window [−{WINDOW}, {WINDOW}]²; max abs: of all coordinates. Both grow with |y| in every
  map, as its shift t does: a compact sample can lie far out.
"""


def _explain() -> str:
    first, second = (math.sqrt((row[0] ** 2 + row[1] ** 2) / 3) for row in M)
    pooled = math.sqrt((first**2 + second**2) / 2)
    return f"""## Compact is not correct

For σ → ∞ the input says nothing: the true posterior is the whole parallelogram (area {AREA:.1f}), with standard
deviations {first:.3f} (x₁) and {second:.3f} (x₂), {pooled:.3f} pooled, centred at 0. A sample that stays compact
has not exploded; it is correct only if "spread / true" is near 1 and "centre off by" near 0 as well.
"""
