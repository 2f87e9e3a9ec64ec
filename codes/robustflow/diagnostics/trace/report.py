"""Layer trace and slope audit of a model, for the command line: trace.json, trace.md, trace.png, growth.png."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from robustflow.data import EvaluationSet
from robustflow.diagnostics import audit
from robustflow.diagnostics.trace import plot, trace
from robustflow.diagnostics.trace.probe import Layer, layers
from robustflow.evaluation.records import to_json
from robustflow.models import FlowModel, data_sets, require_flow
from robustflow.models.loading import load_model
from robustflow.options.schema import RunOptions
from robustflow.report import plots
from robustflow.utils.errors import UserError
from robustflow.utils.files import write_atomically

log = logging.getLogger(__name__)


def write(options: RunOptions, sets: Mapping[str, EvaluationSet], folder: Path) -> str:
    """Trace the model on data sets and audit its slopes; write all files to ``folder`` and return trace.md.

    The reference, in distribution, is the validation set, or else the first data set.
    """
    model = require_flow(load_model(options), "--trace")
    options, flow = model.options, model.flow
    log.info("%s: %s", options.name, model.file)
    named, sets = _with_reference(options, sets)
    found = layers(flow)
    report: dict[str, Any] = {
        "name": options.name,
        "weights": str(model.file),
        "temperature": max(options.val.heats),
        "reference": named,
        "exploded_above": trace.EXPLODED,
        "layers": [{"name": layer.name, "kind": layer.kind} for layer in found],
        "bound": audit.as_plain(audit.bound_of(found)),
        "datasets": _traced(options, model, sets, named, found),
    }
    text = _markdown(report)
    write_atomically(folder / "trace.json", to_json(report).encode())
    write_atomically(folder / "trace.md", text.encode())
    plots.save_png(plot.traces(report), folder / "trace.png")
    plots.save_png(plot.growths(report), folder / "growth.png")
    return text


def _with_reference(options: RunOptions, sets: Mapping[str, EvaluationSet]) -> tuple[str, dict[str, EvaluationSet]]:
    if "val" not in options.datasets:
        return next(iter(sets)), dict(sets)
    name = options.datasets["val"].name or "validation"
    if name in sets:
        raise UserError(f"datasets.val.name: '{name}' names two data sets")
    return name, {name: data_sets.evaluation_set(options, options.datasets["val"]), **sets}


def _traced(
    options: RunOptions,
    model: FlowModel,
    sets: Mapping[str, EvaluationSet],
    reference: str,
    of_flow: Sequence[Layer],
) -> dict[str, Any]:
    names, kinds = [layer.name for layer in of_flow], [layer.kind for layer in of_flow]
    usual: list[trace.LayerTrace] = []
    entries: dict[str, Any] = {}
    for name, items in sets.items():
        found, growths = trace.traced(model, items, options.val, name)
        # The reference comes first.
        usual = found if name == reference else usual
        compared = trace.explosion(found, usual, names)
        entries[name] = {
            **trace.as_plain(found, growths, compared),
            "by_kind": audit.contributions(found, kinds),
        }
        log.info(trace.told(name, entries[name], reference))
    return entries


def _markdown(report: Mapping[str, Any]) -> str:
    sets, reference = report["datasets"], report["reference"]
    lines = [f"# Layers of {report['name']} along sampling, τ = {report['temperature']:g}", ""]
    lines += [f"- {trace.told(name, entry, reference)}" for name, entry in sets.items()]
    lines += [
        "",
        f"A layer explodes if an activation behind it is more than {report['exploded_above']:g} times the largest one "
        f"of '{reference}', or not finite.",
        "",
        "## What every data set did",
        "",
        _table(sets),
        "",
        "- ratio: largest |activation| over that of the reference behind the same layer, over all layers.",
        "- growth: by how much sampling lengthened a random small difference of latents, the parameters of all "
        "elementwise maps held; over samples.",
        "",
        "## Which parts stretch",
        "",
        "log₁₀ of the growth in all layers of a kind, median over samples (largest); of the steepest inverse slope.",
        "",
        _kinds_table(sets),
        "",
        "## What it can do in the worst case",
        "",
        *(f"- {sentence}" for sentence in report["bound"]["sentences"]),
        "",
    ]
    return "\n".join(lines)


def _table(sets: Mapping[str, Any]) -> str:
    headers = [
        "data set",
        "inputs exploding",
        "first layer",
        "ratio",
        "largest activation",
        "log₁₀ growth, median",
        "largest",
    ]
    rows = [
        [
            name,
            f"{entry['exploding_images']} of {entry['n_images']}",
            entry["first_exploding_layer"] or "–",
            f"{entry['largest_ratio']:.3g}",
            f"{max(entry['max_abs']):.3g}",
            _short(entry["total_log10_growth_median"]),
            _short(entry["total_log10_growth_max"]),
        ]
        for name, entry in sets.items()
    ]
    return tabulate(rows, headers, "github", disable_numparse=True)


def _kinds_table(sets: Mapping[str, Any]) -> str:
    kinds = list(next(iter(sets.values()))["by_kind"])
    rows = [
        [
            name,
            *(
                f"{_short(of['log10_growth_median'])} ({_short(of['log10_growth_max'])}); "
                f"{_short(of['log10_inverse_slope_max'])}"
                for of in (entry["by_kind"][kind] for kind in kinds)
            ),
        ]
        for name, entry in sets.items()
    ]
    return tabulate(rows, ["data set", *kinds], "github", disable_numparse=True)


def _short(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 1000 else f"{value:.3g}"
    return text.removeprefix("-") if float(text) == 0 else text
