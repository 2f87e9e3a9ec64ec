"""Training steps and large samples: time, memory, kernels, and how far from what the device's convolutions allow."""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from benchmarks import agreement, captured, cost, jobs, networks, throughput
from benchmarks.cost import Call, Cost
from benchmarks.networks import COUPLINGS, GPU_WAYS, TRAINING_WAYS, WAYS, Network
from benchmarks.setting import Row, Setting, reporting

SIDE, TINY_SIDE = 256, 16
SAMPLES = (1, 10)
NOTE = (
    "kernels: of one call, copies included. peak: of torch's allocations in the first call, beyond weights. "
    "floor: what ours needs at the speed of the fastest big 3×3 convolution in the same precision, {rates}."
)
PUBLISHED = (
    "For comparison, published code, H200, torch 2.11, TF32: affine, training step on 16 crops 428 ms and 16.4 GB, on "
    "1 crop 360 ms; one sample of a 256×256 LR image 252 ms (affine), 1289 ms (spline)."
)


@dataclass(frozen=True)
class Work:
    """What is measured of all ways.

    Attributes:
        title: Of the table.
        name: Of the work, in short.
        column: What ``sizes`` count.
        sizes: Of the work; the first one is measured first.
        of_plain: Those that the plain way is measured at.
        call: Makes the call of a way and its network, of a size.
        flops: What a call takes, of a network and a size.
        decoding: Whether decoding must agree, too.
        search: Whether cuDNN tries its kernels for each shape, as it does in training, and not in sampling.
        note: Of the table.
    """

    title: str
    name: str
    column: str
    sizes: Sequence[int]
    of_plain: Sequence[int]
    call: Callable[[str, Network, int], Call | None]
    flops: Callable[[Network, int], float]
    decoding: bool
    search: bool
    note: str = ""


def train(setting: Setting) -> None:
    """Loss and gradients of all parameters, the encoder's included, of 160×160 crops."""
    sizes, title = (16, 1) if setting.on_cuda else (1, 2), "train: forward and backward, 160×160 crops"
    of_crop = cache(lambda network: cost.flops(_step(network, 1, setting)))
    work = Work(
        *(title, "train", "batch", sizes, sizes),
        call=lambda way, network, batch: _training(way, network, batch, setting),
        flops=lambda network, batch: batch * of_crop(network),
        decoding=False,
        search=True,
    )
    _measure(work, GPU_WAYS if setting.on_cuda else TRAINING_WAYS, setting)


def headline(setting: Setting) -> None:
    """1 and 10 samples of a 256×256 LR image."""
    side = TINY_SIDE if setting.tiny else SIDE
    work = Work(
        *(f"headline: {side}×{side} LR, 4x", "headline", "samples", SAMPLES, SAMPLES[:1]),
        call=lambda way, network, n: _sampling(way, network, n, side, setting),
        flops=cache(lambda network, n: cost.flops(partial(jobs.samples, network, _lr(side, setting), n))),
        decoding=True,
        search=False,
        note="The plain way makes 10 samples by 10 calls.\n",
    )
    _measure(work, GPU_WAYS, setting)


def _measure(work: Work, names: Sequence[str], setting: Setting) -> None:
    """Measure all ways of both couplings, and print a row for each."""
    if setting.on_cuda:
        cost.attach_profiler()
    rates = _rates(names, setting)
    differing: list[str] = []
    agreed = cache(lambda coupling: _agreed(coupling, names, work, setting, differing))
    found: defaultdict[tuple[str, int], dict[str, Cost]] = defaultdict(dict)
    with reporting(setting, work.title, f"{work.note}{_note(rates)}") as rows:
        for size in work.sizes:
            # Torch compiles a function for a few shapes and types only.
            torch.compiler.reset()
            for coupling, ways in _turns(work, size, names, setting):
                makers = {way: partial(work.call, way, agreed(coupling)[way], size) for way in ways}
                found[coupling, size] |= _costs(f"{work.name}, {coupling}, {size}", makers, work, setting)
                needed = work.flops(agreed(coupling)["ours fp32"], size)
                others = [row for row in rows if (row["coupling"], row[work.column]) != (coupling, size)]
                what: Row = {"coupling": coupling, work.column: size}
                rows[:] = [*others, *_rows(what, found[coupling, size], needed, rates)]
    if differing:
        raise SystemExit("\n".join(differing))


def _turns(work: Work, size: int, names: Sequence[str], setting: Setting) -> list[tuple[str, list[str]]]:
    """Couplings, and ways that are measured together: on a GPU what matters most comes first, as time may run out."""
    ways = [way for way in names if size in work.of_plain or not WAYS[way].plain]
    if not setting.on_cuda:
        return [(coupling, ways) for coupling in COUPLINGS]
    captured = [way for way in ways if WAYS[way].captured]
    rest = [way for way in ways if way not in captured]
    return [(coupling, part) for part in (captured, rest) for coupling in reversed(COUPLINGS)]


def _rates(names: Sequence[str], setting: Setting) -> dict[str, float]:
    """FLOP/s by precision. CPUs have no TF32."""
    used = dict.fromkeys(WAYS[way].precision for way in names)
    rates = {precision: throughput.fastest(precision, setting) for precision in used if precision != "tf32"}
    if "tf32" in used:
        rates["tf32"] = throughput.fastest("tf32", setting) if setting.on_cuda else rates["fp32"]
    return rates


def _agreed(
    coupling: str, names: Sequence[str], work: Work, setting: Setting, differing: list[str]
) -> dict[str, Network]:
    """Networks of all ways, after the plain way and ours were found to compute the same.

    On a GPU, whose time is short and whose convolutions round otherwise, a difference is noted, and the times are
    measured all the same.
    """
    built = networks.ways(coupling, names, setting)
    gt, lr = (image.to(setting.device) for image in networks.images(1, 40, 40))
    try:
        agreement.require_networks(coupling, built["ours fp32"], built["plain"], gt, lr, decoding=work.decoding)
    except agreement.Disagreement as difference:
        if not setting.on_cuda:
            raise
        differing.append(str(difference))
        print(f"{work.name}, {difference}", file=sys.stderr, flush=True)
    return built


def _costs(what: str, makers: Mapping[str, Callable[[], Call | None]], work: Work, setting: Setting) -> dict[str, Cost]:
    """Costs, with convolutions as the work has them."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=work.search, allow_tf32=False):
        return cost.of_each(what, makers, setting)


def _step(network: Network, batch: int, setting: Setting) -> Callable[[], Any]:
    gt, lr = (image.to(setting.device) for image in networks.images(batch, 40, 40))
    return partial(jobs.training_step, network, gt, lr)


def _training(way: str, network: Network, batch: int, setting: Setting) -> Call | None:
    # What other ways left in the weights' gradients would count as there before.
    network.flow.zero_grad(set_to_none=True)
    if not WAYS[way].captured:
        return _step(network, batch, setting)
    if not setting.on_cuda:
        return None
    gt, lr = (image.to(setting.device) for image in networks.images(batch, 40, 40))
    return captured.training(network, gt, lr)


def _sampling(way: str, network: Network, n: int, side: int, setting: Setting) -> Call | None:
    lr = _lr(side, setting)
    if not WAYS[way].captured:
        return partial(jobs.samples, network, lr, n)
    return captured.sampling(network, lr, n) if setting.on_cuda else None


def _lr(side: int, setting: Setting) -> torch.Tensor:
    return networks.images(1, side, side)[1].to(setting.device)


def _rows(what: Row, costs: dict[str, Cost], needed: float, rates: dict[str, float]) -> list[Row]:
    plain = costs["plain"].seconds if "plain" in costs else None
    return [
        {
            **what,
            "way": way,
            "of plain": found.seconds and plain and found.seconds / plain,
            **found.columns(needed, rates[WAYS[way].precision]),
        }
        for way, found in costs.items()
    ]


def _note(rates: dict[str, float]) -> str:
    shown = ", ".join(f"{precision}: {rate / 1e12:.4g} TFLOP/s" for precision, rate in rates.items())
    return f"{NOTE.format(rates=shown)}\n{PUBLISHED}"
