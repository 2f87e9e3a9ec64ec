"""The elementwise maps alone."""

from typing import cast

from benchmarks import agreement, jobs, measure
from benchmarks.jobs import Job
from benchmarks.measure import Children
from benchmarks.networks import MAPS
from benchmarks.setting import Row, Setting, report

WAYS = ("ours fp32", "plain")
WORK = ("forward+backward", "inverse")


def elementwise(setting: Setting) -> None:
    """Time and extra peak memory of the maps on 10 million elements, time also relative to that of the affine map."""
    with Children(setting) as children:
        rows = [row for coupling in MAPS for work in WORK for row in _rows(setting, children, coupling, work)]
    affine = {(row["work"], row["way"]): row["seconds"] for row in rows if row["map"] == "affine"}
    for row in rows:
        row["of affine"] = cast(float, row["seconds"]) / cast(float, affine[row["work"], row["way"]])
    note = "Extra peak: above that of a process with inputs and gradients only."
    report(setting, "elementwise: 10 million elements", rows, note)


def _rows(setting: Setting, children: Children, coupling: str, work: str) -> list[Row]:
    described = {way: Job(work, way, coupling) for way in WAYS}
    calls = {way: jobs.prepare(job, setting) for way, job in described.items()}
    results = (call() for call in calls.values())
    pairs = list(zip(*results, strict=True))
    agreement.require(coupling, {"value": pairs[0], "log-slope": pairs[1]})
    agreement.require_on_average(coupling, {f"gradient {number}": pair for number, pair in enumerate(pairs[2:])})
    del pairs
    times = measure.medians(calls, setting.repeats)
    del calls
    extra = {way: children.extra(job).peak / 1e6 for way, job in described.items()}
    time_ratios, memory_ratios = measure.ratios(times, "plain"), measure.ratios(extra, "plain")
    return [
        {
            "map": coupling,
            "work": work,
            "way": way,
            "seconds": times[way],
            "of plain": time_ratios[way],
            "extra peak MB": extra[way],
            "memory of plain": memory_ratios[way],
        }
        for way in reversed(WAYS)
    ]
