"""Peaks of memory, each in a fresh process, and how time and memory grow with the work."""

from dataclasses import replace

from benchmarks import measure
from benchmarks.jobs import Job
from benchmarks.measure import Children
from benchmarks.networks import COUPLINGS, SCALE, TRAINING_WAYS
from benchmarks.setting import Row, Setting, report

MB = 1e6
SIDES = (20, 40, 80, 160)
SAMPLES = (1, 2, 5, 10, 20)
LARGE_WAYS = ("ours fp32", "ours bf16", "ours, tiles of 128, overlap 32")
LARGE = (339, 510)


def memory(setting: Setting) -> None:
    """Growth of a training step's peak per further 160×160 crop."""
    rows: list[Row] = []
    with Children(setting) as children:
        for coupling in COUPLINGS:
            jobs = {way: Job("train", way, coupling) for way in TRAINING_WAYS}
            growth = {way: children.growth(job, replace(job, items=3)) / MB for way, job in jobs.items()}
            ratios = measure.ratios(growth, "plain")
            rows += [
                {"coupling": coupling, "way": way, "MB per further image": growth[way], "of plain": ratios[way]}
                for way in TRAINING_WAYS
            ]
    report(setting, "memory: training, 160×160 crops, (peak of 3 − peak of 1) / 2", rows)


def scaling(setting: Setting) -> None:
    """Ours: cost against the LR side with one sample, and against the number of samples at 40×40."""
    with Children(setting, setting.repeats) as children:
        by_side = [_by_side(children, coupling, side) for coupling in COUPLINGS for side in SIDES]
        by_number = [_by_number(children, coupling, n) for coupling in COUPLINGS for n in SAMPLES]
    note = "Peak: above that of a process with network and input only."
    report(setting, "scaling: one sample against the LR side", by_side, note)
    report(setting, "scaling: samples of a 40×40 LR image", by_number, note)


def _by_side(children: Children, coupling: str, side: int) -> Row:
    peak, seconds = children.extra(Job("sample", "ours fp32", coupling, 1, side, side))
    pixels = (SCALE * side) ** 2
    return {
        "coupling": coupling,
        "LR side": side,
        "seconds": seconds,
        "µs / HR pixel": 1e6 * seconds / pixels,
        "peak MB": peak / MB,
        "bytes / HR pixel": peak / pixels,
    }


def _by_number(children: Children, coupling: str, n: int) -> Row:
    peak, seconds = children.extra(Job("sample", "ours fp32", coupling, n))
    return {
        "coupling": coupling,
        "samples": n,
        "seconds": seconds,
        "seconds / sample": seconds / n,
        "peak MB": peak / MB,
        "MB / sample": peak / MB / n,
    }


def large(setting: Setting) -> None:
    """One sample of a 510×339 LR image, 2040×1356 HR, in a fresh process."""
    rows: list[Row] = []
    with Children(setting) as children:
        for coupling in COUPLINGS:
            for way in LARGE_WAYS:
                peak, seconds = children.run(Job("sample", way, coupling, 1, *LARGE))
                rows.append({"coupling": coupling, "way": way, "seconds": seconds, "peak MB": peak / MB})
    note = "One call each, after a warm-up with small images."
    report(setting, "large: one sample of a 510×339 LR image (2040×1356 HR)", rows, note)
