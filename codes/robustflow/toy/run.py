"""One run of the toy: a coupling, a seed."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from robustflow.options.toy import ToyDataOptions, ToyOptions
from robustflow.registry import ELEMENTWISE
from robustflow.toy.flow import ToyFlow
from robustflow.toy.measure import HeldOut, Measurement, measure
from robustflow.toy.points import draw_points, exact_bits_per_dim, observe, posterior
from robustflow.utils.errors import RunFailed
from robustflow.utils.seeds import derive_seed

# By noise level; None: as in training.
Given = dict[float | None, HeldOut]


class Trial(NamedTuple):
    """A run that is done; ``levels``: by noise level, as in ``Given``. ``seconds``: of wall clock."""

    coupling: str
    seed: int
    levels: dict[float | None, Measurement]
    seconds: float


def perform(options: ToyOptions, given: Given, coupling: str, seed: int) -> Trial:
    """Train and measure one run, on one thread; the same numbers for the same arguments."""
    start = time.perf_counter()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        flow = train(options, coupling, seed).eval()
        measured = {
            level: measure(flow, at_level, options.val.n_sample, _generator("latents", options.val.seed))
            for level, at_level in given.items()
        }
    return Trial(coupling, seed, measured, time.perf_counter() - start)


def train(options: ToyOptions, coupling: str, seed: int) -> ToyFlow:
    """Maximum likelihood with Adam. RunFailed if the loss is no longer finite."""
    o = options.train
    flow = build(options, coupling, seed).train()
    adam = torch.optim.Adam(flow.parameters(), o.lr_G, (o.beta1, o.beta2), fused=True)
    x = draw_points(options.data.n_points, _generator("points", seed))
    generator = _generator("training", seed)
    for iteration in range(1, o.niter + 1):
        # Draw a batch and what is seen of it.
        x_batch = x[torch.randint(len(x), (o.batch_size,), generator=generator)]
        y = draw_inputs(options.data, x_batch, None, generator)

        # Forward and backward.
        loss = -flow.log_prob(x_batch, y).mean()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        if not torch.isfinite(loss):
            place = f"{coupling}, seed {seed}, iteration {iteration}"
            raise RunFailed(f"{place}: the loss is {loss.item()}; lower train.lr_G (now {o.lr_G:g})")

        # Update weights.
        adam.step()
    return flow


def build(options: ToyOptions, coupling: str, seed: int) -> ToyFlow:
    """The untrained flow of a run; draws from torch's global generator, which it seeds."""
    network, elementwise = options.network_G, options.couplings[coupling]
    torch.manual_seed(derive_seed("initialisation", seed))
    return ToyFlow(lambda: ELEMENTWISE.build(elementwise), network.K, network.hidden_channels, network.hidden_layers)


def draw_held_out(options: ToyOptions) -> Given:
    """Held-out points and their inputs at every noise level, the same for all runs."""
    val, sees_x = options.val, options.data.sees_x
    x = draw_points(val.n_held_out, _generator("held-out points", val.seed))
    given: Given = {}
    for level in (None, *val.sigma_ood):
        y = draw_inputs(options.data, x, level, _generator(f"inputs at {level}", val.seed))
        mean, var, _ = posterior(y[: val.n_conditions], sees_x)
        given[level] = HeldOut(x, y, mean, var, exact_bits_per_dim(x, y, sees_x))
    return given


def draw_inputs(data: ToyDataOptions, x: Tensor, sigma: float | None, generator: torch.Generator) -> Tensor:
    """Inputs of points x, (b, 2), at one noise level, or at those of training (None)."""
    n, largest = len(x), data.sigma_of_training
    sigmas = torch.rand(n, generator=generator) * largest if sigma is None else torch.full((n,), sigma)
    return observe(x, sigmas, data.sees_x, generator)


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
