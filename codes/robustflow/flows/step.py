"""Steps of the flow, and what is made for many of them at once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.base import Bijection
from robustflow.bijections.coupling import Coupling
from robustflow.bijections.injector import Injector
from robustflow.bijections.networks import Context
from robustflow.bijections.permutation import Permutation
from robustflow.nn.convolutions import mix_channels

# ActNorm and 1×1 convolution as one map, z = matrix·x + shift, or the inverse of that: matrix and shift.
Mixing = tuple[Tensor, Tensor]

# What one step needs of the condition: elementwise parameters of the injector, context of the self coupling, and that
# of the noise coupling, or None without.
StepCondition = tuple[Tensor, Context | Tensor, Context | Tensor | None]


class TransitionStep(nn.Module):
    """ActNorm → 1×1 convolution, without coupling (SRFlow's ``additionalFlowNoAffine``)."""

    def __init__(self, actnorm: ActNorm, permutation: Permutation) -> None:
        super().__init__()
        self.actnorm = actnorm
        self.permutation = permutation

    @property
    def layers(self) -> list[Bijection]:
        """The layers, data to latent."""
        return [self.actnorm, self.permutation]

    def mix(self, x: Tensor, mixing: Mixing | None) -> Tensor:
        """Both as one map or, without it, one after the other: an ActNorm may set itself then."""
        if mixing is None:
            return self.permutation(self.actnorm(x)[0])[0]
        return mix_channels(x, *mixing)

    def unmix(self, z: Tensor, unmixing: Mixing) -> Tensor:
        """Undo ``mix``, given the inverse."""
        return mix_channels(z, *unmixing)


class FlowStep(TransitionStep):
    """ActNorm → 1×1 convolution → injector → noise coupling → self coupling, data to latent.

    Lugmayr et al., SRFlow, ECCV 2020; the noise coupling is that of Kim & Son, NCSR, CVPRW 2021.
    """

    def __init__(
        self,
        actnorm: ActNorm,
        permutation: Permutation,
        injector: Injector,
        coupling: Coupling,
        noise_coupling: Coupling | None = None,
    ) -> None:
        super().__init__(actnorm, permutation)
        self.injector = injector
        self.noise_coupling = noise_coupling
        self.coupling = coupling

    @property
    def layers(self) -> list[Bijection]:
        """The layers, data to latent."""
        noisy = [] if self.noise_coupling is None else [self.noise_coupling]
        return [*super().layers, self.injector, *noisy, self.coupling]

    def couple(self, x: Tensor, cond: StepCondition, mixing: Mixing | None) -> tuple[Tensor, Tensor]:
        """All layers, see ``mix``; return z and log|det| of injector and couplings, (b,)."""
        params, context, noise = cond
        x, total = self.injector.transform(self.mix(x, mixing), params)
        if self.noise_coupling is not None:
            x, log_det = self.noise_coupling(x, noise)
            total = total + log_det
        x, log_det = self.coupling(x, context)
        return x, total + log_det

    def uncouple(self, z: Tensor, cond: StepCondition, unmixing: Mixing) -> tuple[Tensor, Tensor]:
        """Undo ``couple``, given the inverse of the mixing; return x and log|det| of the inverse, (b,), likewise."""
        params, context, noise = cond
        z, total = self.coupling.inverse(z, context)
        if self.noise_coupling is not None:
            z, log_det = self.noise_coupling.inverse(z, noise)
            total = total + log_det
        z, log_det = self.injector.untransform(z, params)
        return self.unmix(z, unmixing), total + log_det


def fold_mixing(steps: Sequence[TransitionStep]) -> list[Mixing]:
    """z = W·((x + b)·exp(logs)) of steps of one size, all at once."""
    logs, bias, weights = _stack(steps)
    matrices = weights * torch.exp(logs)[:, None]
    return list(zip(matrices.unbind(), (matrices @ bias[..., None])[..., 0].unbind(), strict=True))


def fold_unmixing(steps: Sequence[TransitionStep]) -> list[Mixing]:
    """x = (W⁻¹·z)·exp(−logs) − b of steps of one size, all at once."""
    logs, bias, weights = _stack(steps)
    matrices = _kind(steps).invert_weights(weights).to(logs.dtype) * torch.exp(-logs)[..., None]
    return list(zip(matrices.unbind(), (-bias).unbind(), strict=True))


def mixing_log_det(steps: Sequence[TransitionStep]) -> Tensor:
    """log|det| of all ActNorms and 1×1 convolutions for each position, scalar: Σ logs + Σ log|det W|."""
    logs, _, weights = _stack(steps)
    return logs.sum() + _kind(steps).log_abs_det(weights).sum().to(logs.dtype)


def _kind(steps: Sequence[TransitionStep]) -> type[Permutation]:
    """Whose inverses and determinants are those of all steps: of any matrix, if they differ."""
    kinds = {type(step.permutation) for step in steps}
    return kinds.pop() if len(kinds) == 1 else Permutation


def _stack(steps: Sequence[TransitionStep]) -> tuple[Tensor, Tensor, Tensor]:
    """logs, b (n, c) and W (n, c, c)."""
    norms = [step.actnorm for step in steps]
    logs, bias = torch.stack([norm.logs for norm in norms]), torch.stack([norm.bias for norm in norms])
    return logs, bias, torch.stack([step.permutation.weight for step in steps]).to(logs.dtype)
