"""Our way on the GPU in float32 against the published way on the CPU in float64."""

import copy
import math

import pytest
import torch
from benchmarks import networks
from benchmarks.setting import Setting

from robustflow.nn import fused

# CPUs reach 1e-6 in all. Rounding may put an element on the other side of a spline's knot.
LIMITS = {"affine": 1e-5, "bounded": 1e-5, "rq": 1e-4}
GRADIENT_LIMIT = 1e-3


class Case:
    """A tiny flow, two crops large enough for elementwise maps to be compiled, and the answers expected."""

    def __init__(self, coupling, device):
        self.coupling, self.device = coupling, device
        built = networks.network(coupling, "ours fp32", Setting(threads=1, tiny=True))
        self.model = copy.deepcopy(built.model).to(device).eval()
        self.flow = self.model.flow
        self.exact = built.flow.double().eval()
        self.plain = networks.plain_of(self.exact)
        gt, self.lr = networks.images(2, 24, 32)
        self.inputs = self.model.inputs(gt, self.lr, torch.Generator().manual_seed(0))
        draws = [self.flow.draw_latents((96, 128), torch.Generator().manual_seed(n)) for n in range(2)]
        self.latents = [0.9 * torch.cat(level) for level in zip(*draws, strict=True)]

    def on_device(self):
        return (part.to(self.device) for part in (self.inputs.x, self.inputs.condition, self.inputs.noise))

    def in_float64(self):
        return (part.double() for part in (self.inputs.x, self.inputs.condition, self.inputs.noise))


@pytest.fixture(scope="module", params=networks.CONFS)
def case(request, device):
    # Made before the fixture that keeps CPUs from compiling, which takes longer than these tests.
    with fused.expecting(0):
        return Case(request.param, device)


def difference(found, expected):
    return ((found.cpu().double() - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def test_latents_and_likelihood(case):
    encoding = case.flow.encode(*case.on_device())
    latents, log_prob = case.plain.encode(*case.in_float64())
    for found, expected in zip(encoding.latents, latents, strict=True):
        assert difference(found, expected) <= LIMITS[case.coupling]
    assert difference(encoding.log_prob, log_prob) <= LIMITS[case.coupling]


@torch.no_grad()
def test_decoding(case):
    x, log_det = case.flow.decode([z.to(case.device) for z in case.latents], case.lr.to(case.device))
    expected, expected_log_det = case.plain.decode([z.double() for z in case.latents], case.lr.double())
    assert difference(x, expected) <= LIMITS[case.coupling]
    assert difference(log_det, expected_log_det) <= LIMITS[case.coupling]


@torch.no_grad()
def test_samples_round_trip(case):
    x, _ = case.flow.decode([z.to(case.device) for z in case.latents], case.lr.to(case.device))
    back = case.flow.encode(x, case.lr.to(case.device)).latents
    for found, expected in zip(back, case.latents, strict=True):
        assert difference(found, expected.double()) <= 10 * LIMITS[case.coupling]


def test_gradients(case):
    def gradients(flow, inputs):
        x, condition, noise = inputs
        flow.zero_grad(set_to_none=True)
        (-flow.encode(x, condition, noise).log_prob.mean() / (math.log(2) * x[0].numel())).backward()
        return torch.cat([parameter.grad.flatten().cpu().double() for parameter in flow.parameters()])

    expected = gradients(case.exact, case.in_float64())
    found = gradients(case.flow, case.on_device())
    assert (found - expected).norm() <= GRADIENT_LIMIT * expected.norm()


@torch.no_grad()
def test_bf16_is_close_and_finite(case):
    built = networks.network(case.coupling, "ours bf16", Setting(threads=1, tiny=True))
    rough = built.flow.to(case.device).eval()
    found, expected = rough.encode(*case.on_device()).log_prob, case.flow.encode(*case.on_device()).log_prob
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0)
    assert not torch.equal(found, expected)
    x, _ = rough.decode([z.to(case.device) for z in case.latents], case.lr.to(case.device))
    assert x.isfinite().all()
