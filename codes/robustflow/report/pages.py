"""A results folder as one page."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from robustflow.evaluation.metrics import Column
from robustflow.models import protocol
from robustflow.report import pictures, sections, tables
from robustflow.report.columns import NO_HEAT, cell, column, columns_of, count, lines, mark, protocol_of, say_bars
from robustflow.report.results import Results, read
from robustflow.utils.files import write_atomically
from robustflow.utils.yaml_tree import show

# Sub-folder of a results folder with pages of what else was done with the model; the report names them.
APPLICATIONS = "apply"
_ARROWS = {"low": "↓", "high": "↑", None: ""}
_WORDS = {"low": "lower is better", "high": "higher is better", None: ""}


def write(folder: Path) -> Path:
    """Write report.html into a results folder, from what lies there alone, and return its path.

    Raises:
        UserError: for a folder without results, or with damaged ones.
    """
    results = read(folder)
    path = folder / "report.html"
    write_atomically(path, render("report.html.j2", **content(results)))
    return path


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package; every value is escaped unless it is `Markup`."""
    place = resources.files("robustflow.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (place / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    parts = {name: Markup((place / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")}
    return environment.get_template(template).render(css=parts["page.css"], js=parts["page.js"], **values)


def content(results: Results) -> dict[str, Any]:
    """What the template shows of one run."""
    metrics = results.metrics
    budget = pictures.Budget()
    sets = {name: results.of_set(name) for name in metrics["datasets"]}
    found = pictures.galleries(
        sets, results, lambda dataset, image: pictures.list_parts(results, dataset, image), budget
    )
    return {
        "title": metrics["name"],
        "facts": _facts(results),
        "overview": overview(metrics),
        "sets": [
            {
                "name": name,
                "about": about(metrics["protocol"], name),
                "n_images": dataset["n_images"],
                "heats": [_title(heat) for heat in lines(metrics, name)],
                "figures": list_figures(name, metrics),
                "over": over_how_many(name, metrics),
                "gallery": found[name],
            }
            for name, dataset in metrics["datasets"].items()
        ],
        "settings": settings(metrics["protocol"]),
        "non_finite": metrics["protocol"]["non_finite"],
        "plots": sections.sections(results),
        "applications": [
            f"{APPLICATIONS}/{page.name}" for page in sorted((results.folder / APPLICATIONS).glob("*.html"))
        ],
        "options": results.options,
        "versions": versions(metrics),
        "limits": limits(budget),
    }


def _facts(results: Results) -> list[str]:
    described, datasets = results.metrics["protocol"], results.metrics["datasets"]
    counts = [dataset["n_images"] for dataset in datasets.values()]
    facts = [count(len(counts), "data set"), count(sum(counts), "image")]
    if results.protocol.deterministic:
        return [*facts, "one image per input"]
    if "n_sample" in described:
        facts.append(f"{count(described['n_sample'], 'sample')} each")
    facts.append(f"τ = {', '.join(results.heats)}")
    if "seed" in described:
        facts.append(f"seed {described['seed']}")
    return facts


def overview(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Headings and rows of the table of all data sets, one row per temperature, or mean of samples."""
    columns, frame = tables.choose_columns(metrics), tables.to_frame([metrics])
    rows = [(row["dataset"], row["heat"], [figure(row, one) for one in columns]) for row in frame.to_dict("records")]
    return {"headers": [heading(one) for one in columns], "rows": rows, "bars": say_bars(columns)}


def heading(one: Column) -> tuple[str, str, str]:
    """Label of a column, an arrow for its better direction, and the same in words."""
    return one.label, _ARROWS[one.better], _WORDS[one.better]


def figure(values: Mapping[str, Any], one: Column) -> tuple[str, str]:
    """A figure as text, and its confidence interval where the summary has one, else ""."""
    key = one.key
    interval = values.get(f"{key.removesuffix('_pct')}_ci", values.get(f"{key}_ci"))
    text = f"{cell(interval[0])} to {cell(interval[1])}" if isinstance(interval, list) else ""
    return mark(values.get(key), one), text


def list_figures(name: str, metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All figures of a data set of metrics.json, with how they were measured."""
    by_heat, columns = list(lines(metrics, name).values()), columns_of(metrics)
    found = []
    for key in {key: None for values in by_heat for key in values}:
        is_count = key.endswith("_ci") or key.startswith("n_")
        if is_count or any(isinstance(values.get(key), list | dict) for values in by_heat):
            continue
        one = column(columns, key)
        label, arrow, direction = heading(one)
        how = protocol_of(key, metrics["protocol"])
        values = [
            ("not computed", "") if how.startswith("not computed") else figure(of_heat, one) for of_heat in by_heat
        ]
        found.append({"label": label, "arrow": arrow, "direction": direction, "figures": values, "protocol": how})
    return found


def _title(heat: str) -> str:
    return "one image" if heat == NO_HEAT else f"τ = {heat}"


def over_how_many(name: str, metrics: Mapping[str, Any]) -> list[str]:
    """How many inputs and samples the means of each temperature are over."""
    texts, dataset = [], metrics["datasets"][name]
    fixed = protocol.read(metrics).deterministic
    for heat, values in dataset["heats"].items():
        text = f"{values['n_finite']} finite of {values['n_samples']} samples"
        if "n_images_finite" in values:
            text += f", {values['n_images_finite']} of {dataset['n_images']} inputs with finite samples alone"
        texts.append(f"{_title(NO_HEAT if fixed else heat)}: {text}")
    return texts


def about(protocol: Mapping[str, Any], name: str) -> str:
    """What is special about a data set, in one line: its options that are not at their usual value."""
    options = protocol.get("datasets", {}).get(name, {})
    usual = {"name": name, "seed": 0, "lr_noise": 0.0, "lr_gain": 1.0}
    special = {
        key: value
        for key, value in options.items()
        if value is not None and value is not False and not (key in usual and value == usual[key])
    }
    return ", ".join(f"{key}: {show(value) if isinstance(value, list) else value}" for key, value in special.items())


def settings(protocol: Mapping[str, Any]) -> dict[str, str]:
    """The protocol but for the data sets, which have a place of their own."""
    return {key: "–" if value is None else str(value) for key, value in protocol.items() if key != "datasets"}


def versions(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What made the results, as far as it was recorded."""
    recorded = {key: str(value) for key, value in metrics.get("versions", {}).items()}
    return {**dict.fromkeys(("robustflow", "torch", "device", "python"), "not recorded"), **recorded}


def limits(budget: pictures.Budget) -> str:
    """What bounds the number of pictures, for the page."""
    used = (pictures.BUDGET - budget.left) / 1e6
    return (
        f"Of each data set at most {pictures.MAX_IMAGES} inputs: the worst by each criterion, then evenly spread ones; "
        f"at most {pictures.BUDGET / 1e6:.0f} MB of pictures in the page ({used:.1f} MB used). "
        "All pictures are in the results folder."
    )
