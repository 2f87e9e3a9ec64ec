"""Loss and gradients of a training step: forward and backward pass, on GPUs captured as a CUDA graph."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.models import LossInputs, Model
from robustflow.nn.graphs import Graphed
from robustflow.options.schema import RunOptions
from robustflow.utils import distributed, precision

# A model may take its prior mean from either of two places, each a graph of its own.
_GRAPHS = 2


class Step(NamedTuple):
    """What a training step is given besides the network.

    Attributes:
        iteration: Its number, from 1.
        gt: HR crops of the batch, (b, 3, H, W) in [0, 1].
        lr: LR crops, (b, 3, h, w) in [0, 1].
        seed: Of the generator of the training noise, which is on the device of the crops.
        first: Place of the first crop in the batch of all processes.
    """

    iteration: int
    gt: Tensor
    lr: Tensor
    seed: int
    first: int = 0

    def gather(self) -> "Step":
        """The step of all processes, in each of them."""
        if distributed.size() == 1:
            return self
        shares = distributed.gather((self.gt.cpu(), self.lr.cpu()))
        gt, lr = (torch.cat(parts).to(self.gt.device) for parts in zip(*shares, strict=True))
        return self._replace(gt=gt, lr=lr, first=0)


class Gradients:
    """Computes them, the same for a step whenever it is called.

    Args:
        model: In training mode.
        options: Of the run.
    """

    def __init__(self, model: Model, options: RunOptions) -> None:
        self.model, self.options = model, options
        # Found once: to look for thousands takes the host as long as to use them.
        self._parameters, self._encoder = list(model.parameters()), list(model.encoder.parameters())
        self._norms = [module for module in model.modules() if isinstance(module, ActNorm)]
        self._compute = partial(_compute, model, self._parameters, options)
        self._graphed = Graphed(self._compute, options.cuda_graphs == "auto", capacity=_GRAPHS)
        self._before: dict[str, Tensor] | None = None

    def __call__(self, step: Step) -> Tensor:
        """Set the gradients of this process's share of a step; return its loss, which the next call alters.

        Nothing waits for the device, unless ActNorms have yet to be initialised.
        """
        learns = _freeze(self._encoder, self.options, step.iteration)
        ready = all(norm.is_initialized() for norm in self._norms)
        self._before = None if ready else {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        if not ready and distributed.size() > 1:
            self._initialise(step)
        inputs = self._inputs(step)
        with fastest_convolutions(self._graphed.active and step.gt.is_cuda):
            captures = ready and self._graphed.captures(step.gt.device)
            loss, gradients = self._graphed(*inputs, key=learns) if captures else self._compute(*inputs)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if parameter.grad is not gradient:
                parameter.grad = gradient
        return self._with_weights(loss)

    @property
    def initialised(self) -> bool:
        """Whether the last call has initialised ActNorms: changed weights before the loss was known."""
        return self._before is not None

    def undo(self) -> None:
        """Take back what the last call has initialised."""
        if self._before is not None:
            self.model.load_state_dict(self._before)

    def tensors(self) -> list[Tensor]:
        """The gradients that there are."""
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def drop(self) -> None:
        """Forget gradients and graphs, whose memory is then there for other work; the next call captures anew."""
        for parameter in self._parameters:
            parameter.grad = None
        self._graphed.drop()

    def compute_uncaptured(self, step: Step) -> Tensor:
        """Likewise, by calling every module, and each parameter's hooks."""
        _freeze(self._encoder, self.options, step.iteration)
        return self._with_weights(self._compute(*self._inputs(step))[0])

    def _initialise(self, step: Step) -> None:
        """Show ActNorms of all processes the crops that one process would initialise them from.

        These are the first ``micro_batch`` of the whole batch, or all of it; without autograd, which takes less memory
        than a training step of as many crops.
        """
        whole, n = step.gather(), self.options.train.micro_batch

        @torch.no_grad()
        def show() -> None:
            generator = torch.Generator(step.gt.device).manual_seed(step.seed)
            self.model.loss(whole.gt[:n], whole.lr[:n], generator)

        distributed.on_main(show)
        distributed.share(self.model)

    def _inputs(self, step: Step) -> LossInputs:
        generator = torch.Generator(step.gt.device).manual_seed(step.seed)
        self.model.skip_noise(step.gt, step.lr, generator, step.first)
        return self.model.loss_inputs(step.gt, step.lr, generator)

    def _with_weights(self, loss: Tensor) -> Tensor:
        """Add the gradients of ``weight_loss`` and return the whole loss."""
        of_weights = self.model.weight_loss()
        if of_weights is None:
            return loss
        of_weights.backward()
        return loss + of_weights.detach()


# A function, not a method: in a cycle with what captures it, graphs and their memory would outlive the training.
def _compute(
    model: Model, parameters: Sequence[nn.Parameter], options: RunOptions, *inputs: Tensor | None
) -> tuple[Tensor, list[Tensor | None]]:
    """Mean loss and its gradients, from pieces of at most ``micro_batch`` crops; nothing is read from the device.

    The gradients are new tensors, so that a replay writes them anew instead of adding.
    """
    for parameter in parameters:
        parameter.grad = None
    whole = next(len(part) for part in inputs if part is not None)
    size, losses = options.train.micro_batch or whole, []
    with precision.using(options.precision, training=True):
        for first in range(0, whole, size):
            piece = tuple(None if part is None else part[first : first + size] for part in inputs)
            share = min(size, whole - first) / whole
            loss = share * model.data_loss(piece)
            loss.backward()
            losses.append(loss.detach())
    return torch.stack(losses).sum(), [parameter.grad for parameter in parameters]


def _freeze(encoder: Sequence[nn.Parameter], options: RunOptions, iteration: int) -> bool:
    """Let the encoder learn from train_RRDB_delay·niter on; frozen, it runs without autograd. Return which it is."""
    network = options.network_G
    learns = network.train_RRDB and iteration > network.train_RRDB_delay * options.train.niter
    for parameter in encoder:
        if parameter.requires_grad != learns:
            parameter.requires_grad_(learns)
    return learns


@contextlib.contextmanager
def fastest_convolutions(active: bool) -> Iterator[None]:
    """Let cuDNN try its kernels for each new shape and keep the fastest, which may not be the same in the next run."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = active or before
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
