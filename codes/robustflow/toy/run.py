"""One run of the toy: a coupling, a seed."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from robustflow.options.toy import ToyOptions
from robustflow.registry import ELEMENTWISE
from robustflow.toy.flow import ToyFlow
from robustflow.toy.measure import Inputs, Measurement, inputs, measure
from robustflow.toy.points import Observation, draw_points
from robustflow.utils.errors import RunFailed
from robustflow.utils.seeds import derive_seed

# By noise level; None: as in training.
Given = dict[float | None, Inputs]


class Job(NamedTuple):
    """A run to be done."""

    coupling: str
    seed: int


class Finished(NamedTuple):
    """A run that is done; ``levels``: by noise level, as in ``Given``. ``seconds``: of wall clock."""

    job: Job
    levels: dict[float | None, Measurement]
    seconds: float


def jobs(options: ToyOptions) -> list[Job]:
    """All runs, coupling by coupling."""
    return [Job(coupling, seed) for coupling in options.couplings for seed in options.train.seeds]


def perform(options: ToyOptions, given: Given, job: Job) -> Finished:
    """Train and measure one run, on one thread; the same numbers for the same options and job."""
    start = time.perf_counter()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        flow = train(options, job).eval()
        measured = {
            level: measure(flow, at_level, options.val.n_sample, _generator("latents", options.val.seed))
            for level, at_level in given.items()
        }
    return Finished(job, measured, time.perf_counter() - start)


def train(options: ToyOptions, job: Job) -> ToyFlow:
    """Maximum likelihood with Adam. RunFailed if the loss is no longer finite."""
    o, condition = options.train, Observation.from_name(options.data.condition, options.data.sigma_max)
    flow = build(options, job).train()
    adam = torch.optim.Adam(flow.parameters(), o.lr_G, (o.beta1, o.beta2), fused=True)
    x = draw_points(options.data.n_points, _generator("points", job.seed))
    generator = _generator("training", job.seed)
    for iteration in range(1, o.niter + 1):
        # Draw a batch and what is seen of it.
        x_batch = x[torch.randint(len(x), (o.batch_size,), generator=generator)]
        y = condition.draw(x_batch, None, generator)

        # Forward and backward.
        loss = -flow.log_prob(x_batch, y).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        if not torch.isfinite(loss):
            place = f"{job.coupling}, seed {job.seed}, iteration {iteration}"
            raise RunFailed(f"{place}: the loss is {loss.item()}; lower train.lr_G (now {o.lr_G:g})")

        # Update weights.
        adam.step()
    return flow


def build(options: ToyOptions, job: Job) -> ToyFlow:
    """The untrained flow of a run; draws from torch's global generator, which it seeds."""
    network, coupling = options.network_G, options.couplings[job.coupling]
    torch.manual_seed(derive_seed("initialisation", job.seed))
    return ToyFlow(lambda: ELEMENTWISE.build(coupling), network.K, network.hidden_channels, network.hidden_layers)


def held_out(options: ToyOptions) -> Given:
    """Held-out points and their inputs at every noise level, the same for all runs."""
    val, condition = options.val, Observation.from_name(options.data.condition, options.data.sigma_max)
    x = draw_points(val.n_held_out, _generator("held-out points", val.seed))
    return {
        level: inputs(x, condition, level, val.n_conditions, _generator(f"inputs at {level}", val.seed))
        for level in (None, *val.sigma_ood)
    }


def _generator(purpose: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(purpose, seed))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """More threads cost more than they bring on a network this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
