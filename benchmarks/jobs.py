"""The calls that are measured: one description for timing here and for the peak of memory in a fresh process."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import networks
from benchmarks.networks import SCALE, Network
from benchmarks.setting import Setting
from robustflow.bijections.base import Elementwise
from robustflow.registry import ELEMENTWISE
from robustflow.utils import precision

TEMPERATURE = 0.9
ELEMENTS = (40, 500, 500)
TINY_ELEMENTS = (40, 50, 50)
# Enough for an elementwise map to be compiled.
WARM_UP_ELEMENTS = (8, 200, 200)


@dataclass(frozen=True)
class Job:
    """One kind of work in one way.

    Attributes:
        work: "train", "sample", "forward+backward" or "inverse" (the last two: an elementwise map alone).
        way: Key of ``networks.WAYS``.
        coupling: Key of ``networks.CONFS``, or any name of the registry.
        items: Images of a batch, or samples of one image.
        height: Of the LR image; likewise ``width``.
    """

    work: str
    way: str
    coupling: str
    items: int = 1
    height: int = 40
    width: int = 40


def prepare(
    job: Job, setting: Setting, stored: Path | None = None, warm_up: bool = False, idle: bool = False
) -> Callable[[], Any]:
    """Make network and inputs of a job; the call that is returned does the work.

    Args:
        job: The work.
        setting: Device and size.
        stored: File of weights, see ``networks.store``; None: the seeded weights are made here.
        warm_up: Do the work with small inputs first: libraries are loaded and code is compiled, whose memory
            and time then do not count as the job's.
        idle: Return a call that holds what every way of the job needs, inputs and gradients to return, and computes
            nothing.
    """
    if job.work in ("forward+backward", "inverse"):
        return _elementwise(job, setting, warm_up, idle)
    network = networks.network(job.coupling, job.way, setting, stored)
    if warm_up:
        _warm_up_map(replace(job, work="forward+backward" if job.work == "train" else "inverse"), setting)
        _network_call(network, replace(job, items=1, height=8, width=8), setting)()
        network.flow.zero_grad(set_to_none=True)
    call = _network_call(network, job, setting)
    return (lambda: call) if idle else call


def _network_call(network: Network, job: Job, setting: Setting) -> Callable[[], Any]:
    batch = job.items if job.work == "train" else 1
    gt, lr = (image.to(setting.device) for image in networks.images(batch, job.height, job.width))
    if job.work == "train":
        return lambda: training_step(network, gt, lr)
    return lambda: samples(network, lr, job.items)


def training_step(network: Network, gt: Tensor, lr: Tensor) -> float:
    """Loss and its gradients with respect to all parameters; returns the loss, bits per dimension."""
    generator = torch.Generator(gt.device).manual_seed(0)
    network.flow.train().zero_grad(set_to_none=True)
    with precision.using(network.precision, training=True):
        loss = _loss(network, gt, lr, generator)
        loss.backward()
    return loss.item()


def _loss(network: Network, gt: Tensor, lr: Tensor, generator: torch.Generator) -> Tensor:
    if network.plain is None:
        return network.model.loss(gt, lr, generator)
    network.plain.zero_grad()
    inputs = network.model.inputs(gt, lr, generator)
    _, log_prob = network.plain.encode(inputs.x, inputs.condition, inputs.noise)
    return -log_prob.mean() / (math.log(2) * gt[0].numel())


@torch.no_grad()
def samples(network: Network, lr: Tensor, n: int) -> Tensor:
    """Samples (n, 3, H, W) of one lr (1, 3, h, w), from noise seeded 0 to n − 1."""
    generators = [torch.Generator(lr.device).manual_seed(number) for number in range(n)]
    if network.flow.training:
        network.flow.eval()  # forgets what is made of the weights once
    with precision.using(network.precision, training=False):
        if network.plain is None:
            return network.model.prepare(lr, *network.tile)(TEMPERATURE, generators)
        x = network.plain.sample(lr, TEMPERATURE, generators)
    return x + torch.nn.functional.interpolate(lr, scale_factor=SCALE, mode="bicubic", align_corners=False)


def _map_of(job: Job, setting: Setting) -> Elementwise:
    elementwise: Elementwise = ELEMENTWISE.build(
        networks.options_of(job.coupling, setting.tiny).network_G.flow.coupling
    )
    return elementwise


def _warm_up_map(job: Job, setting: Setting) -> None:
    elementwise = _map_of(job, setting)
    _elementwise_call(job, elementwise, _elementwise_inputs(job, elementwise, setting, WARM_UP_ELEMENTS))()


def _elementwise(job: Job, setting: Setting, warm_up: bool, idle: bool) -> Callable[[], Any]:
    elementwise = _map_of(job, setting)
    if warm_up:
        _warm_up_map(job, setting)
    inputs = _elementwise_inputs(job, elementwise, setting, TINY_ELEMENTS if setting.tiny else ELEMENTS)
    if not idle:
        return _elementwise_call(job, elementwise, inputs)
    returned = inputs[:2] if job.work == "forward+backward" else ()
    return lambda: (inputs, [torch.ones_like(part) for part in returned])


def _elementwise_inputs(
    job: Job, elementwise: Elementwise, setting: Setting, shape: tuple[int, int, int]
) -> tuple[Tensor, ...]:
    """x and params; for "forward+backward" both differentiable, and the gradients of y and log-slope."""
    generator = torch.Generator(setting.device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.empty(1, *sizes, device=setting.device).normal_(0, 0.5, generator=generator)

    x, params = normal(*shape), normal(elementwise.num_params, *shape)
    if job.work == "inverse":
        return x, params
    return x.requires_grad_(), params.requires_grad_(), normal(*shape), normal(*shape)


def _elementwise_call(
    job: Job, elementwise: Elementwise, inputs: tuple[Tensor, ...]
) -> Callable[[], tuple[Tensor, ...]]:
    x, params, *grads = inputs
    plain = networks.plain_map(elementwise) if networks.WAYS[job.way].plain else None

    def forward_and_backward() -> tuple[Tensor, ...]:
        outputs = elementwise(x, params) if plain is None else plain.forward(x, params)
        return *(output.detach() for output in outputs), *torch.autograd.grad(outputs, (x, params), grads)

    @torch.no_grad()
    def inverse() -> tuple[Tensor, ...]:
        return (elementwise if plain is None else plain).inverse(x, params)

    return inverse if job.work == "inverse" else forward_and_backward
