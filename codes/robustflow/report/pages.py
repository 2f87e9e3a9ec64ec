"""A results folder as one page: `python -m robustflow.evaluation.report_html RESULTS` makes report.html again."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from robustflow.options.arguments import Parser
from robustflow.options.yaml_tree import show
from robustflow.report import pictures, sections
from robustflow.report.columns import cell, column, fidelity, lines, protocol_of, same_size, shown
from robustflow.report.columns import overview as overview_of
from robustflow.report.results import Results, read
from robustflow.utils import exit_status, paths
from robustflow.utils.files import write_atomically

# Sub-folder of a results folder with pages of what else was done with the model; the report names them.
APPLICATIONS = "apply"
_ARROWS = {"low": "↓", "high": "↑", None: ""}
_WORDS = {"low": "lower is better", "high": "higher is better", None: ""}


class Figure(NamedTuple):
    """One value of a table: as text, and its confidence interval."""

    text: str
    interval: str = ""


class Measured(NamedTuple):
    """One figure of a data set: name, direction, value per temperature, and how it was measured."""

    label: str
    arrow: str
    direction: str
    values: tuple[Figure, ...]
    protocol: str


def write(folder: Path) -> Path:
    """Write report.html into a results folder, from what lies there alone, and return its path.

    Raises:
        UserError: for a folder without results, or with damaged ones.
    """
    results = read(folder)
    path = folder / "report.html"
    write_atomically(path, render("report.html.j2", **content(results)).encode())
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
    parts_of = pictures.parts_of_enhanced if same_size(metrics) else pictures.parts_of
    parts = partial(parts_of, results.folder, heats=results.heats)
    found = pictures.galleries(results.images, parts, budget)
    return {
        "title": metrics["name"],
        "facts": _facts(results),
        "overview": overview(metrics),
        "sets": [
            {
                "name": name,
                "about": about(metrics["protocol"], name),
                "n_images": dataset["n_images"],
                "heats": list(lines(dataset)),
                "measured": measured(dataset, metrics["protocol"]),
                "over": over_how_many(dataset),
                "gallery": found[name],
            }
            for name, dataset in metrics["datasets"].items()
        ],
        "settings": settings(metrics["protocol"]),
        "plots": sections.sections(results),
        "applications": [
            f"{APPLICATIONS}/{page.name}" for page in sorted((results.folder / APPLICATIONS).glob("*.html"))
        ],
        "options": results.options,
        "versions": versions(metrics),
        "limits": limits(budget),
    }


def _facts(results: Results) -> list[str]:
    protocol, datasets = results.metrics["protocol"], results.metrics["datasets"]
    counts = [dataset["n_images"] for dataset in datasets.values()]
    facts = [f"{len(counts)} data set{'s' if len(counts) != 1 else ''}", f"{sum(counts)} images"]
    if "n_sample" in protocol:
        facts.append(f"{protocol['n_sample']} samples each")
    facts.append(f"τ = {', '.join(results.heats)}")
    if "seed" in protocol:
        facts.append(f"seed {protocol['seed']}")
    return facts


class Overview(NamedTuple):
    """The table of all data sets: heading and direction of each column, and rows."""

    headers: list[tuple[str, str, str]]
    rows: list[tuple[str, str, list[Figure]]]


def overview(metrics: Mapping[str, Any]) -> Overview:
    """Figures of the data sets of a metrics.json, one row per data set and temperature, or mean of samples."""
    keys = shown([metrics], (*overview_of(metrics), *fidelity(metrics), "ood_mean"))
    headers = [heading(key) for key in keys]
    rows = [
        (name, heat, [figure(values, key) for key in keys])
        for name, dataset in metrics["datasets"].items()
        for heat, values in lines(dataset).items()
    ]
    return Overview(headers, rows)


def heading(key: str) -> tuple[str, str, str]:
    """Label of a column, an arrow for its better direction, and the same in words."""
    found = column(key)
    return found.label, _ARROWS[found.better], _WORDS[found.better]


def figure(values: Mapping[str, Any], key: str) -> Figure:
    """A figure with its interval, where the summary has one."""
    interval = values.get(f"{key.removesuffix('_pct')}_ci", values.get(f"{key}_ci"))
    text = "" if interval is None else f"{cell(interval[0])} to {cell(interval[1])}"
    return Figure(cell(values.get(key)), text)


def measured(dataset: Mapping[str, Any], protocol: Mapping[str, Any]) -> list[Measured]:
    """All figures of a data set, with how they were measured."""
    by_heat = list(lines(dataset).values())
    keys = [key for key in {key: None for values in by_heat for key in values} if not _is_count(key)]
    keys = [key for key in keys if all(not isinstance(values.get(key), list | dict) for values in by_heat)]
    found = [Measured(*heading(key), *_values(key, by_heat, protocol_of(key, protocol))) for key in keys]
    if not same_size({"protocol": protocol}):
        return found
    # What the protocol does not have stands in metrics.json as null, all the same.
    return [one for one in found if any(value.text != cell(None) for value in one.values)]


def _values(key: str, by_heat: Sequence[Mapping[str, Any]], how: str) -> tuple[tuple[Figure, ...], str]:
    if how.startswith("not computed"):
        return tuple(Figure("not computed") for _ in by_heat), how
    return tuple(figure(values, key) for values in by_heat), how


def _is_count(key: str) -> bool:
    return key.endswith("_ci") or key.startswith("n_")


def over_how_many(dataset: Mapping[str, Any]) -> list[str]:
    """How many inputs and samples the means of each temperature are over."""
    told = []
    for heat, values in dataset["heats"].items():
        text = f"{values['n_finite']} finite of {values['n_samples']} samples"
        if "n_images_finite" in values:
            text += f", {values['n_images_finite']} of {dataset['n_images']} inputs with finite samples alone"
        told.append(f"τ = {heat}: {text}")
    return told


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a results folder's report.html again; return the exit status."""
    parser = Parser(prog="python -m robustflow.evaluation.report_html", description=__doc__)
    parser.add_argument("results", type=paths.of_flag, help="results folder, written by test.py")
    chosen = parser.parse_args(arguments)
    return exit_status.answered(lambda: print(write(chosen.results)))  # noqa: T201
