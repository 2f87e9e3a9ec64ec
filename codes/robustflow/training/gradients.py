"""Loss and gradients of a training step: forward and backward pass, on GPUs captured as a CUDA graph."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.models import LossInputs, Model
from robustflow.nn.graphs import Graphed
from robustflow.options.schema import RunOptions
from robustflow.training.failures.dump import Step
from robustflow.utils import precision

# Low light takes its prior mean from either of two places, each a graph of its own.
_GRAPHS = 2


class Gradients:
    """Computes them, the same for a step whenever it is called.

    Args:
        model: In training mode.
        options: Of the run.
    """

    def __init__(self, model: Model, options: RunOptions) -> None:
        self.model, self.options = model, options
        self._parameters = list(model.parameters())
        self._norms = [module for module in model.modules() if isinstance(module, ActNorm)]
        self._graphed = Graphed(self._of_data, options.cuda_graphs == "auto", capacity=_GRAPHS)

    def __call__(self, step: Step) -> Tensor:
        """Set the gradients of a step, or of this process's share of it; return its loss, which the next call alters.

        Nothing waits for the device, unless ActNorms have yet to be initialised.
        """
        learns = freeze_encoder(self.model.encoder, self.options, step.iteration)
        inputs = _inputs(self.model, step)
        with fastest_convolutions(self._graphed.active and step.gt.is_cuda):
            if all(norm.is_initialized() for norm in self._norms):
                loss, gradients = self._graphed(*inputs, key=learns)
            else:
                loss, gradients = self._of_data(*inputs)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if parameter.grad is not gradient:
                parameter.grad = gradient
        return _with_weights(self.model, loss)

    def drop(self) -> None:
        """Forget gradients and graphs, whose memory is then there for other work; the next call captures anew."""
        for parameter in self._parameters:
            parameter.grad = None
        self._graphed.drop()

    def watched(self, step: Step) -> Tensor:
        """Add the gradients of a step to what is there, by calling every module; return its loss."""
        freeze_encoder(self.model.encoder, self.options, step.iteration)
        with precision.using(self.options.precision, training=True):
            loss = data_gradients(self.model, _inputs(self.model, step), self.options.train.micro_batch)
        return _with_weights(self.model, loss)

    def _of_data(self, *inputs: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        """Data loss and gradients; these are new tensors, so that a replay writes them anew instead of adding."""
        for parameter in self._parameters:
            parameter.grad = None
        with precision.using(self.options.precision, training=True):
            loss = data_gradients(self.model, inputs, self.options.train.micro_batch)
        return loss, [parameter.grad for parameter in self._parameters]


def accumulate_gradients(
    model: Model, gt: Tensor, lr: Tensor, generator: torch.Generator, micro_batch: int | None
) -> Tensor:
    """Add the gradients of a batch's mean loss, piece by piece of at most ``micro_batch`` crops; return that loss."""
    inputs = model.loss_inputs(gt, lr, generator)
    return _with_weights(model, data_gradients(model, inputs, micro_batch))


def data_gradients(model: Model, inputs: LossInputs, micro_batch: int | None) -> Tensor:
    """Add the gradients of ``data_loss``, piece by piece; return it. Nothing is read back from the device."""
    tensors = [part for part in inputs if part is not None]
    whole = len(tensors[0])
    size, losses = whole if micro_batch is None else micro_batch, []
    for pieces in zip(*(part.split(size) for part in tensors), strict=True):
        rest = iter(pieces)
        piece = tuple(part if part is None else next(rest) for part in inputs)
        loss = len(pieces[0]) / whole * model.data_loss(piece)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def freeze_encoder(encoder: nn.Module, options: RunOptions, iteration: int) -> bool:
    """Let the encoder learn from train_RRDB_delay·niter on; frozen, it runs without autograd. Return which it is."""
    network = options.network_G
    learns = network.train_RRDB and iteration > network.train_RRDB_delay * options.train.niter
    encoder.requires_grad_(learns)
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


def _inputs(model: Model, step: Step) -> LossInputs:
    generator = torch.Generator(step.gt.device).manual_seed(step.seed)
    model.skip_noise(step.gt, step.lr, generator, step.first)
    return model.loss_inputs(step.gt, step.lr, generator)


def _with_weights(model: Model, loss: Tensor) -> Tensor:
    """Add the gradients of ``weight_loss`` and return the whole loss."""
    of_weights = model.weight_loss()
    if of_weights is None:
        return loss
    of_weights.backward()
    return loss + of_weights.detach()
