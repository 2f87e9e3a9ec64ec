from functools import partial

import pytest
import torch

from robustflow.bijections.elementwise import Affine, ExpAffine, InverseAffine, RationalQuadratic, SoftAffine
from robustflow.testing import check_bijection
from robustflow.toy.flow import ToyFlow

MAPS = {
    "affine": Affine,
    "bounded": partial(Affine, eps=0.1),
    "rq_spline": RationalQuadratic,
    "exp_affine": ExpAffine,
    "inverse_affine": InverseAffine,
    "soft_affine": SoftAffine,
}


def given(n=6):
    generator = torch.Generator().manual_seed(1)
    x, y = (0.3 * torch.randn(2, n, 2, dtype=torch.float64, generator=generator)).unbind()
    return x, y


@pytest.mark.parametrize("name", MAPS)
def test_flow_keeps_the_contract(name, perturb):
    check_bijection(perturb(ToyFlow(MAPS[name], 4, 8, 2)), *given())


def test_coupling_starts_as_the_identity():
    x, y = given()
    coupling = ToyFlow(RationalQuadratic, 1, 8, 2).double().layers[2]
    z, log_det = coupling(x, y)
    assert torch.allclose(z, x)
    assert torch.allclose(log_det, torch.zeros(6, dtype=torch.float64))


def test_trace_ends_in_the_sample(perturb):
    flow = perturb(ToyFlow(Affine, 4, 8, 2))
    z, y = given()
    names, values = zip(*flow.trace(z, y), strict=True)
    assert torch.equal(values[-1], flow.inverse(z, y)[0])
    assert (names[0], names[-1], len(names)) == ("coupling 4", "ActNorm 1", 12)


def test_density_integrates_to_one(perturb):
    flow = perturb(ToyFlow(RationalQuadratic, 2, 8, 2))
    axis = torch.linspace(-6, 6, 127, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    density = flow.log_prob(x, torch.full_like(x, 0.2)).detach().exp()
    assert density.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=5e-3)
