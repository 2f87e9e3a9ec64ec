"""How far from what the machine's convolutions allow."""

from benchmarks import cost, jobs, measure, networks, throughput
from benchmarks.jobs import Job
from benchmarks.networks import COUPLINGS
from benchmarks.setting import Row, Setting, report

WAYS = ("ours fp32", "ours bf16")
# Name → work, samples or crops.
WORK = {"1 sample": ("sample", 1), "10 samples": ("sample", 10), "training step, 1 crop": ("train", 1)}


def floor(setting: Setting) -> None:
    """FLOPs that our code needs, over what the fastest big convolution would do in the same time."""
    peaks = {way: throughput.fastest(networks.WAYS[way].precision, setting) for way in WAYS}
    rows = [row for coupling in COUPLINGS for name in WORK for row in _rows(setting, coupling, name, peaks)]
    note = "; ".join(f"{way}: {peak / 1e9:.4g} GFLOP/s" for way, peak in peaks.items())
    report(setting, "floor: 40×40 LR, 4x", rows, f"Peak, best of big 3×3 convolutions, channels last: {note}.")


def _rows(setting: Setting, coupling: str, name: str, peaks: dict[str, float]) -> list[Row]:
    work, items = WORK[name]
    calls = {way: jobs.prepare(Job(work, way, coupling, items), setting) for way in WAYS}
    needed = cost.flops(calls["ours fp32"])
    times = measure.medians(calls, setting.repeats)
    return [
        {
            "coupling": coupling,
            "work": name,
            "way": way,
            "needed GFLOP": needed / 1e9,
            "seconds": seconds,
            "needed / (peak · seconds)": needed / (peaks[way] * seconds),
        }
        for way, seconds in times.items()
    ]
