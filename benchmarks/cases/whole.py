"""Training steps and large samples: time, memory, kernels, and how far from what the device's convolutions allow."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
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


def train(setting: Setting) -> None:
    """Loss and gradients of all parameters, the encoder's included, of 160×160 crops."""
    names = GPU_WAYS if setting.on_cuda else TRAINING_WAYS
    rates = _rates(names, setting)
    with reporting(setting, "train: forward and backward, 160×160 crops", _note(rates)) as rows:
        for coupling in COUPLINGS:
            built = _agreed(coupling, names, setting)
            needed = cost.flops(_step(built["ours fp32"], 1, setting))
            for batch in (16, 1) if setting.on_cuda else (1, 2):
                makers = {way: partial(_training, way, network, batch, setting) for way, network in built.items()}
                costs = _costs(f"train, {coupling}, {batch}", makers, setting)
                rows += _rows({"coupling": coupling, "batch": batch}, costs, batch * needed, rates)


def headline(setting: Setting) -> None:
    """1 and 10 samples of a 256×256 LR image."""
    side = TINY_SIDE if setting.tiny else SIDE
    rates = _rates(GPU_WAYS, setting)
    note = f"The plain way makes 10 samples by 10 calls.\n{_note(rates)}"
    with reporting(setting, f"headline: {side}×{side} LR, 4x", note) as rows:
        for coupling in COUPLINGS:
            built = _agreed(coupling, GPU_WAYS, setting)
            for n in SAMPLES:
                ways = built if n == 1 else {way: network for way, network in built.items() if network.plain is None}
                makers = {way: partial(_sampling, way, network, n, side, setting) for way, network in ways.items()}
                needed = cost.flops(partial(jobs.samples, built["ours fp32"], _lr(side, setting), n))
                costs = _costs(f"headline, {coupling}, {n}", makers, setting)
                rows += _rows({"coupling": coupling, "samples": n}, costs, needed, rates)


def _rates(names: Sequence[str], setting: Setting) -> dict[str, float]:
    """FLOP/s by precision. CPUs have no TF32."""
    used = dict.fromkeys(WAYS[way].precision for way in names)
    rates = {precision: throughput.fastest(precision, setting) for precision in used if precision != "tf32"}
    if "tf32" in used:
        rates["tf32"] = throughput.fastest("tf32", setting) if setting.on_cuda else rates["fp32"]
    return rates


def _agreed(coupling: str, names: Sequence[str], setting: Setting) -> dict[str, Network]:
    """Networks of all ways, after the plain way and ours were found to compute the same."""
    built = networks.ways(coupling, names, setting)
    gt, lr = (image.to(setting.device) for image in networks.images(1, 40, 40))
    agreement.require_networks(coupling, built["ours fp32"], built["plain"], gt, lr)
    return built


def _costs(what: str, makers: Mapping[str, Callable[[], Call | None]], setting: Setting) -> dict[str, Cost]:
    """Costs with the fastest convolutions that cuDNN finds."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
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
