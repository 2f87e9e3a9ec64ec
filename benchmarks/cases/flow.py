"""The whole network: agreement with the plain way, time of sampling and of training."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import agreement, jobs, measure, networks
from benchmarks.networks import COUPLINGS
from benchmarks.setting import Row, Setting, report

SAMPLING_WAYS = ("plain", "ours fp32", "ours bf16")


def agree(setting: Setting) -> None:
    """Latents, log-probability and decoded images of the plain way and ours."""
    gt, lr = (image.to(setting.device) for image in networks.images(2, 40, 40))
    rows: list[Row] = []
    for coupling in COUPLINGS:
        ours, plain = (networks.network(coupling, way, setting) for way in ("ours fp32", "plain"))
        rows += agreement.require_networks(coupling, ours, plain, gt, lr)
    report(setting, "agree: the plain way and ours, two 160×160 crops", rows)


def sample(setting: Setting) -> None:
    """1 and 10 samples of a 40×40 LR image."""
    rows = [row for n in (1, 10) for row in _sampling(setting, 40, n)]
    report(setting, "sample: 40×40 LR, 4x", rows, "The plain way makes n samples by n calls; ours by one.")


def sample128(setting: Setting) -> None:
    """10 samples of a 128×128 LR image."""
    report(setting, "sample128: 128×128 LR, 4x", _sampling(setting, 128, 10))


def _sampling(setting: Setting, side: int, n: int) -> list[Row]:
    """Time of all ways of both couplings, in turns."""
    gt, lr = (image.to(setting.device) for image in networks.images(1, side, side))
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for coupling in COUPLINGS:
        built = {way: networks.network(coupling, way, setting) for way in SAMPLING_WAYS}
        agreement.require_networks(coupling, built["ours fp32"], built["plain"], gt, lr)
        calls |= {(coupling, way): partial(jobs.samples, network, lr, n) for way, network in built.items()}
    times = measure.medians(calls, setting.repeats)
    return [
        {
            "samples": n,
            "coupling": coupling,
            "way": way,
            "seconds": seconds,
            "of plain": seconds / times[coupling, "plain"],
            "RQ / affine": seconds / times["affine", way] if coupling == "rq" else None,
        }
        for (coupling, way), seconds in times.items()
    ]
