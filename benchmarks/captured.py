"""Training steps and samples captured as CUDA graphs, by what the package captures with."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.jobs import TEMPERATURE
from benchmarks.networks import Network
from robustflow.nn.graphs import Graphed
from robustflow.utils import precision


class Captured:
    """A call that draws its inputs and replays what a function does with them.

    Args:
        function: Of tensors on the device and None.
        prepare: Makes its arguments, uncaptured.
        graphed: What captures.
        finish: Called with what the function returns, uncaptured; gives what is returned.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        prepare: Callable[[], Sequence[Tensor | None]],
        graphed: Callable[..., Any],
        finish: Callable[[Any], Any] | None = None,
    ) -> None:
        self._graphed, self._prepare, self._finish = graphed(function, active=True), prepare, finish

    @property
    def failed(self) -> bool:
        """Whether a capture was tried and did not work: the function is just called then."""
        return not self._graphed.active

    def __call__(self) -> Any:
        """What the function returns; the next call overwrites it."""
        result = self._graphed(*self._prepare())
        return result if self._finish is None else self._finish(result)


def training(network: Network, gt: Tensor, lr: Tensor, graphed: Callable[..., Any] = Graphed) -> Captured:
    """As ``jobs.training_step``; the noise is drawn outside of the graph, where the log-determinants of weights are."""
    network.flow.train()

    def prepare() -> Sequence[Tensor | None]:
        return network.model.loss_inputs(gt, lr, torch.Generator(gt.device).manual_seed(0))

    def gradients(*inputs: Tensor | None) -> Tensor:
        # The gradients are made in the graph's memory, where each replay writes them.
        network.flow.zero_grad(set_to_none=True)
        with precision.using(network.precision, training=True):
            loss = network.model.data_loss(inputs)
            loss.backward()
        return loss.detach()

    def finish(loss: Tensor) -> Tensor:
        of_weights = network.model.weight_loss()
        of_weights.backward()
        return loss + of_weights.detach()

    return Captured(gradients, prepare, graphed, finish)


def sampling(network: Network, lr: Tensor, n: int, graphed: Callable[..., Any] = Graphed) -> Captured:
    """As ``jobs.samples``, of an lr whose sides the flow takes; latents are drawn outside of the graph."""
    model, flow = network.model, network.flow.eval()
    size = (lr.shape[-2] * model.scale, lr.shape[-1] * model.scale)

    def prepare() -> Sequence[Tensor]:
        draws = [flow.draw_latents(size, torch.Generator(lr.device).manual_seed(number)) for number in range(n)]
        return [lr, *(TEMPERATURE * torch.cat(of_level) for of_level in zip(*draws, strict=True))]

    @torch.no_grad()
    def decode(lr: Tensor, *latents: Tensor) -> Tensor:
        with precision.using(network.precision, training=False):
            return model.image(flow.decode(list(latents), flow.condition(lr))[0], lr)

    return Captured(decode, prepare, graphed)
