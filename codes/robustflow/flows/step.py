"""One step of the flow."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustflow.bijections.base import Bijection
from robustflow.bijections.coupling import Coupling
from robustflow.bijections.injector import Injector


@dataclass(frozen=True)
class StepCondition:
    """What one step needs of the condition.

    Attributes:
        injector: Elementwise parameters of the injector.
        coupling: Context of the self coupling: the condition's part of its first convolution.
        noise: Context of the noise coupling, or None where the noise is zero.
    """

    injector: Tensor
    coupling: Tensor
    noise: Tensor | None = None


class FlowStep(Bijection):
    """ActNorm → 1×1 convolution → injector → noise coupling → self coupling, data to latent.

    Lugmayr et al., SRFlow, ECCV 2020; the noise coupling is that of Kim & Son, NCSR, CVPRW 2021.
    """

    def __init__(
        self,
        actnorm: Bijection,
        permutation: Bijection,
        injector: Injector,
        coupling: Coupling,
        noise_coupling: Coupling | None = None,
    ) -> None:
        super().__init__()
        self.actnorm = actnorm
        self.permutation = permutation
        self.injector = injector
        self.noise_coupling = noise_coupling
        self.coupling = coupling

    @property
    def layers(self) -> list[Bijection]:
        """The layers, data to latent."""
        noisy = [] if self.noise_coupling is None else [self.noise_coupling]
        return [self.actnorm, self.permutation, self.injector, *noisy, self.coupling]

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det|, (b,); ``cond`` is a StepCondition."""
        x, total = self.actnorm(x)
        x, log_det = self.permutation(x)
        total = total + log_det
        x, log_det = self.injector.transform(x, cond.injector)
        total = total + log_det
        if self.noise_coupling is not None:
            x, log_det = self.noise_coupling(x, cond.noise)
            total = total + log_det
        x, log_det = self.coupling(x, cond.coupling)
        return x, total + log_det

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det| of the inverse, (b,); ``cond`` is a StepCondition."""
        z, total = self.coupling.inverse(z, cond.coupling)
        if self.noise_coupling is not None:
            z, log_det = self.noise_coupling.inverse(z, cond.noise)
            total = total + log_det
        z, log_det = self.injector.untransform(z, cond.injector)
        total = total + log_det
        z, log_det = self.permutation.inverse(z)
        total = total + log_det
        z, log_det = self.actnorm.inverse(z)
        return z, total + log_det


class TransitionStep(Bijection):
    """ActNorm → 1×1 convolution, without coupling (SRFlow's ``additionalFlowNoAffine``)."""

    def __init__(self, actnorm: Bijection, permutation: Bijection) -> None:
        super().__init__()
        self.actnorm = actnorm
        self.permutation = permutation

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return z and log|det|, (b,)."""
        x, first = self.actnorm(x)
        x, second = self.permutation(x)
        return x, first + second

    def inverse(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and log|det| of the inverse, (b,)."""
        z, first = self.permutation.inverse(z)
        z, second = self.actnorm.inverse(z)
        return z, first + second
