"""Every bijection and every elementwise map of the project keeps its contract."""

import math

import pytest
import torch
from torch import nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.base import Bijection
from robustflow.bijections.coupling import Coupling
from robustflow.bijections.elementwise import Affine, ExpAffine, InverseAffine, RationalQuadratic, SoftAffine
from robustflow.bijections.injector import Injector
from robustflow.bijections.networks import ConvNetwork
from robustflow.bijections.permutation import FixedOrthogonal, InvertibleConv
from robustflow.bijections.squeeze import Squeeze
from robustflow.flows.step import FlowStep, TransitionStep, fold_mixing, fold_unmixing, mixing_log_det
from robustflow.testing import check_bijection, check_elementwise

ELEMENTWISE = {
    "affine": Affine,
    "bounded affine": lambda: Affine(eps=0.1),
    "rq_spline": RationalQuadratic,
    "exp_affine": ExpAffine,
    "inverse_affine": InverseAffine,
    "soft_affine": SoftAffine,
    "soft_affine, s up to 1.5": lambda: SoftAffine(B=0.5, eps=0.5),
    "rq_spline, asymmetric box": lambda: RationalQuadratic(bounds=(-1.0, 0.25), eps=0.05),
}
HIDDEN = 5


class FullyConnected(nn.Module):
    """Parameter network of vectors."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, 8), nn.Tanh(), nn.Linear(8, out_features))

    def forward(self, x_a, cond):
        return self.layers(cond if x_a is None else torch.cat([x_a, cond], dim=1))


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def image_coupling(elementwise, channels=5, kept=2):
    network = ConvNetwork(kept, HIDDEN, elementwise.num_params * (channels - kept))
    return Coupling(elementwise, network, kept)


def image_injector(elementwise, channels=3):
    return Injector(elementwise, ConvNetwork(0, HIDDEN, elementwise.num_params * channels))


class Folded(Bijection):
    """A step as a level applies it, ActNorm and 1×1 convolution in one."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def mixed(self, x):
        return x[0, 0].numel() * mixing_log_det([self.step])

    def forward(self, x, cond=None):
        (mixing,) = fold_mixing([self.step])
        if cond is None:
            return self.step.mix(x, mixing), self.mixed(x).expand(len(x))
        z, log_det = self.step.couple(x, cond, mixing)
        return z, log_det + self.mixed(x)

    def inverse(self, z, cond=None):
        (unmixing,) = fold_unmixing([self.step])
        if cond is None:
            return self.step.unmix(z, unmixing), -self.mixed(z).expand(len(z))
        x, log_det = self.step.uncouple(z, cond, unmixing)
        return x, log_det - self.mixed(z)


def step(elementwise, noisy):
    noise_coupling = image_coupling(elementwise, 4) if noisy else None
    injector = image_injector(elementwise, 4)
    return Folded(FlowStep(ActNorm(4), InvertibleConv(4), injector, image_coupling(elementwise, 4), noise_coupling))


def step_condition(elementwise, noisy):
    params, context = normal(2, elementwise.num_params, 4, 2, 3), normal(2, HIDDEN, 2, 3)
    return params, context, context.flip(1) if noisy else None


# Name → function of an elementwise map that returns the bijection, x and the condition.
WITH_ELEMENTWISE = {
    "coupling": lambda e: (image_coupling(e), 0.5 * normal(2, 5, 3, 4), normal(2, HIDDEN, 3, 4)),
    "coupling without condition": lambda e: (image_coupling(e), 0.5 * normal(2, 5, 3, 4), None),
    "coupling of vectors": lambda e: (
        Coupling(e, FullyConnected(2 + 3, 4 * e.num_params), 2),
        0.5 * normal(3, 6),
        normal(3, 3),
    ),
    "injector": lambda e: (image_injector(e), 0.5 * normal(2, 3, 3, 4), normal(2, HIDDEN, 3, 4)),
    "injector of vectors": lambda e: (
        Injector(e, FullyConnected(3, 4 * e.num_params)),
        0.5 * normal(3, 4),
        normal(3, 3),
    ),
    "step": lambda e: (step(e, noisy=False), 0.5 * normal(2, 4, 2, 3), step_condition(e, noisy=False)),
    "step with noise coupling": lambda e: (step(e, noisy=True), 0.5 * normal(2, 4, 2, 3), step_condition(e, True)),
}
PLAIN = {
    "actnorm": lambda: (ActNorm(3), normal(2, 3, 2, 4)),
    "actnorm of vectors": lambda: (ActNorm(3), normal(4, 3)),
    "invertible conv": lambda: (InvertibleConv(4), normal(2, 4, 2, 3)),
    "invertible conv of vectors": lambda: (InvertibleConv(4), normal(2, 4)),
    "fixed orthogonal": lambda: (FixedOrthogonal(4), normal(2, 4, 2, 3)),
    "fixed orthogonal of vectors": lambda: (FixedOrthogonal(4), normal(2, 4)),
    "squeeze": lambda: (Squeeze(), normal(2, 3, 4, 2)),
    "transition": lambda: (Folded(TransitionStep(ActNorm(4), InvertibleConv(4))), normal(2, 4, 2, 3)),
    "transition, fixed": lambda: (Folded(TransitionStep(ActNorm(4), FixedOrthogonal(4))), normal(2, 4, 2, 3)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_bijection(name, perturb):
    bijection, x = PLAIN[name]()
    check_bijection(perturb(bijection), x)


@pytest.mark.parametrize("elementwise", [name for name in ELEMENTWISE if "," not in name])
@pytest.mark.parametrize("name", WITH_ELEMENTWISE)
def test_bijection_with_elementwise_map(name, elementwise, perturb):
    bijection, x, cond = WITH_ELEMENTWISE[name](ELEMENTWISE[elementwise]())
    # A step is given the injector's parameters, so it does not run the network they come from.
    dead = [key for key, _ in bijection.named_parameters() if name.startswith("step") and "injector" in key]
    bijection = perturb(bijection, std=0.3)
    check_bijection(bijection, x, cond, dead_parameters=dead)


def test_actnorm_initialised_from_data_in_training_mode():
    check_bijection(ActNorm(3).double().train(), 3 + 2 * normal(2, 3, 2, 4))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_infinite_values_stay_infinite(name):
    elementwise, largest = ELEMENTWISE[name](), torch.finfo(torch.float32).max
    x = torch.tensor([[math.inf, -math.inf, largest, -largest]])
    params = 3 * normal(1, elementwise.num_params, 4).float()
    for direction in (elementwise, elementwise.inverse):
        y, log_slope = direction(x, params)
        assert y[0, :2].tolist() == [math.inf, -math.inf] and y.sign().tolist() == x.sign().tolist()
        assert bool(log_slope.isfinite().all())


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_map(name):
    check_elementwise(ELEMENTWISE[name]())
