"""Watching every layer while a flow samples: what leaves it, its slopes, and how it stretches differences."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.base import Bijection
from robustflow.bijections.coupling import Coupling
from robustflow.bijections.injector import Injector
from robustflow.bijections.squeeze import Squeeze
from robustflow.flows.conditional_flow import ConditionalFlow
from robustflow.flows.prior import SplitPrior
from robustflow.flows.step import FlowStep, Mixing, TransitionStep

Layer = Bijection | SplitPrior
# Called with a layer's place in ``layers`` and what it did to n·b samples: what left it, (n·b, c, h, w); log|dx/dz| of
# the elements (or directions) that it scales, any shape; and by how much it lengthened a small random perturbation of
# the latents, natural logarithm, (n·b,), the parameters of all elementwise maps held, infinite or NaN where the samples
# are.
See = Callable[[int, Tensor, Tensor, Tensor], object]


def layers(flow: ConditionalFlow) -> dict[str, Layer]:
    """The layers of a flow by name, latent to data as in sampling; squeezes, which change nothing, left out.

    Names are such as "level 1 step 3 coupling"; levels (finest first), steps and transitions count from 1.
    """
    found: dict[str, Layer] = {}
    for number, level in reversed(list(enumerate(flow.levels, start=1))):
        if level.split_prior is not None:
            found[f"level {number} split prior"] = level.split_prior
        n = len(level.transitions)
        for k, step in reversed(list(enumerate(level.mixing_steps, start=1))):
            place = f"level {number} " + (f"step {k - n}" if isinstance(step, FlowStep) else f"transition {k}")
            for module in reversed(step.layers):
                noisy = isinstance(step, FlowStep) and module is step.noise_coupling
                found[f"{place} {'noise ' if noisy else ''}{_name(module)}"] = module
    return found


def kind_of(name: str) -> str:
    """What kind of layer has a name: its last part."""
    return re.sub(r"^level \d+ ((step|transition) \d+ )?", "", name)


def _name(module: Bijection) -> str:
    names = {ActNorm: "ActNorm", Coupling: "coupling", Injector: "injector"}
    return next((name for known, name in names.items() if isinstance(module, known)), "1x1 convolution")


@contextlib.contextmanager
def probing(flow: ConditionalFlow, see: See) -> Iterator[None]:
    """Call ``see`` for each layer of every ``decode`` inside the ``with`` block, without autograd.

    The flow itself knows nothing of it: layers are wrapped inside the block only.
    """
    perturbation = _Perturbation()
    with contextlib.ExitStack() as stack:
        _wrap(stack, flow, "decode", perturbation.decode)
        for level in flow.levels:
            _wrap(stack, level.squeeze, "inverse", functools.partial(perturbation.unsqueeze, level.squeeze))
            for step in level.mixing_steps:
                _wrap(stack, step, "unmix", functools.partial(_unmix, step))
        for place, layer in enumerate(layers(flow).values()):
            watched = _Watched(place, layer, perturbation, see)
            _wrap(stack, layer, watched.method, watched.run)
            if isinstance(layer, Coupling | Injector):
                _wrap(stack, layer.elementwise, "inverse", watched.run_elementwise)
        yield


def _wrap(stack: contextlib.ExitStack, module: nn.Module, method: str, wrapper: Callable[..., Any]) -> None:
    """Let ``wrapper(original, *arguments)`` stand for a method of this module until the stack is left."""
    module.__dict__[method] = functools.partial(wrapper, getattr(module, method))
    stack.callback(module.__dict__.pop, method)


class _Perturbation:
    """A small difference between two sets of latents on its way through the layers.

    Only its direction is kept: lengths may exceed what numbers hold. Latents that no level has merged yet belong to it.
    """

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.current = torch.empty(0)
        self.pending: list[Tensor] = []

    def decode(self, original: Callable[..., Any], latents: list[Tensor], *arguments: Any, **named: Any) -> Any:
        drawn = [torch.randn(z.shape, generator=self.generator, dtype=torch.float64).to(z.device) for z in latents]
        *self.pending, self.current = drawn
        self.growth()
        with torch.no_grad():
            return original(latents, *arguments, **named)

    def unsqueeze(self, squeeze: Squeeze, inverse: Callable[..., Any], z: Tensor) -> Any:
        self.current, _ = Squeeze.inverse(squeeze, self.current)
        return inverse(z)

    def growth(self) -> Tensor:
        """Log length since the last call, (n·b,); the length is 1 again."""
        parts = [self.current, *self.pending]
        length = torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0).sqrt()
        per_item = (1 / length).view(-1, 1, 1, 1)
        self.current, *self.pending = (part * per_item for part in parts)
        return length.log()


def _unmix(step: TransitionStep, unmix: Callable[..., Tensor], z: Tensor, unmixing: Mixing) -> Tensor:
    """Let the layers that sampling joins be seen one by one."""
    step.actnorm.inverse(step.permutation.inverse(z)[0])
    return unmix(z, unmixing)


class _Watched:
    """One layer under watch: runs it, moves the perturbation on, and tells."""

    def __init__(self, place: int, module: Layer, perturbation: _Perturbation, see: See) -> None:
        self.place, self.module, self.perturbation, self.see = place, module, perturbation, see
        self.method = {Injector: "untransform", SplitPrior: "merge"}.get(type(module), "inverse")
        self._log_slopes = torch.empty(0)
        self._linear: tuple[Tensor, Tensor] | None = None

    def run_elementwise(self, inverse: Callable[..., Any], y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        x, log_slopes = inverse(y, params)
        self._log_slopes = log_slopes.flatten(0, 1) if isinstance(self.module, Injector) else log_slopes
        return x, log_slopes

    def run(self, original: Callable[..., Any], z: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        value, log_det = original(z, *arguments)
        log_slopes = self._stretch(z, original, *arguments)
        self.see(self.place, value, log_slopes, self.perturbation.growth())
        return value, log_det

    def _stretch(self, z: Tensor, inverse: Callable[..., Any], *arguments: Any) -> Tensor:
        """Move the perturbation through the layer; return the log-slopes."""
        module, moved = self.module, self.perturbation
        if isinstance(module, SplitPrior):
            _, log_slopes = module.unscale(z, *arguments)
            moved.current = torch.cat([moved.current, moved.pending.pop() * log_slopes.double().exp()], dim=1)
        elif isinstance(module, Coupling):
            kept, mapped = moved.current.tensor_split([module.kept_channels], dim=1)
            log_slopes = self._log_slopes
            moved.current = torch.cat([kept, mapped * log_slopes.double().exp()], dim=1)
        elif isinstance(module, Injector):
            log_slopes = self._log_slopes
            moved.current = moved.current * log_slopes.double().exp()
        else:
            matrix, log_slopes = self._linear_map(z, inverse)
            moved.current = torch.matmul(matrix, moved.current.flatten(2)).view(moved.current.shape)
        return log_slopes

    def _linear_map(self, z: Tensor, inverse: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        """Matrix (c, c) of a layer that mixes or scales channels, float64, and its log singular values, (c,)."""
        if self._linear is None:
            if isinstance(self.module, ActNorm):
                matrix = torch.diag(torch.exp(-self.module.logs.detach().double()))
            else:
                unit = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[..., None]
                matrix = inverse(unit)[0][..., 0].T.double()
            self._linear = (matrix, torch.linalg.svdvals(matrix).log())
        return self._linear
