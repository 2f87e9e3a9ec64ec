import pytest
import torch
from benchmarks import networks, plain_maps
from benchmarks.measure import interleaved
from benchmarks.plain import PlainFlow
from benchmarks.setting import Setting

from robustflow.bijections.elementwise import Affine, RationalQuadratic

MAPS = {
    "affine": Affine(),
    "bounded": Affine(0.1),
    "rq": RationalQuadratic(),
    "box": RationalQuadratic((-1.0, 2.0), 0.01),
}


def close(found, expected, limit=1e-9):
    torch.testing.assert_close(found, expected, rtol=limit, atol=limit * expected.abs().max().item())


class Case:
    """A tiny flow in float64, the plain way of computing it, and inputs."""

    def __init__(self, coupling):
        built = networks.network(coupling, "ours fp32", Setting(threads=1, tiny=True))
        self.flow = built.flow.double().eval()
        self.plain = PlainFlow(self.flow)
        gt, lr = (image.double() for image in networks.images(2, 6, 8))
        inputs = built.model.inputs(gt, lr, torch.Generator().manual_seed(0))
        self.x, self.y, self.noise = inputs.x, inputs.condition, inputs.noise


@pytest.fixture(params=networks.CONFS)
def case(request):
    return Case(request.param)


@pytest.mark.parametrize("with_noise", [False, True])
@torch.no_grad()
def test_encodes_as_the_flow_does(case, with_noise):
    noise = case.noise if with_noise else None
    encoding = case.flow.encode(case.x, case.y, noise)
    latents, log_prob = case.plain.encode(case.x, case.y, noise)
    for found, expected in zip(latents, encoding.latents, strict=True):
        close(found, expected)
    close(log_prob, encoding.log_prob)


@torch.no_grad()
def test_decodes_as_the_flow_does(case):
    encoding = case.flow.encode(case.x, case.y)
    expected, expected_log_det = case.flow.decode(encoding.latents, case.y)
    x, log_det = case.plain.decode(encoding.latents, case.y)
    close(x, expected)
    close(log_det, expected_log_det)


@torch.no_grad()
def test_samples_as_the_flow_does(case):
    samples = case.plain.sample(case.y[:1], 0.9, [torch.Generator().manual_seed(k) for k in range(3)])
    expected = case.flow.sample(case.y[:1], 3, 0.9, torch.Generator().manual_seed(0))[0]
    assert samples.shape == expected.shape
    close(samples[0], expected[0])


def joined_gradients(flow):
    """Gradients of the flow's parts of the first kernels, joined as the plain way has them: per level and step."""
    joined = []
    for level in flow.levels:
        injectors, couplings = level.injector_projection, level.coupling_projection
        kernels = (injectors.native, injectors.taps, couplings.native, couplings.taps)
        parts = [p.grad.chunk(len(level.steps)) for p in kernels]
        noisy = [step for step in level.steps if step.noise_coupling is not None]
        noises = level.noise_projection.grad.chunk(len(noisy)) if noisy else ()
        for number, step in enumerate(level.steps):
            native, taps, coupling_native, coupling_taps = (part[number] for part in parts)
            joined.append(torch.cat([native, taps], 1))
            joined.append(torch.cat([step.coupling.network.conv_in.grad, coupling_native, coupling_taps], 1))
            if step.noise_coupling is not None:
                joined.append(torch.cat([step.noise_coupling.network.conv_in.grad, noises[noisy.index(step)]], 1))
    return joined


def test_gradients_are_those_of_the_flow(case):
    (-case.flow.encode(case.x, case.y, case.noise).log_prob.mean()).backward()
    expected = {name: p.grad for name, p in case.flow.named_parameters()}
    expected_kernels = joined_gradients(case.flow)
    case.flow.zero_grad(set_to_none=True)
    (-case.plain.encode(case.x, case.y, case.noise)[1].mean()).backward()
    found = {name: p.grad for name, p in case.flow.named_parameters() if p.grad is not None}
    in_kernels = {name for name in expected if name.endswith("conv_in") or "projection" in name}
    assert found.keys() == expected.keys() - in_kernels
    for name, gradient in found.items():
        close(gradient, expected[name])
    kernels = [step for level in case.plain.kernels for step in level]
    leaves = [leaf for step in kernels for leaf in (step.injector, step.coupling, step.noise) if leaf is not None]
    for leaf, gradient in zip(leaves, expected_kernels, strict=True):
        close(leaf.grad, gradient)


def test_encoder_runs_the_image_head_and_joins_all_features(case):
    assert [tuple(weight.shape[:2]) for weight in case.plain.encoder.head] == [(16, 16), (16, 16), (3, 16)]
    assert [tuple(f.shape) for f in case.plain.encoder.features(case.y)] == [
        (2, 48, 12, 16),
        (2, 48, 6, 8),
        (2, 48, 3, 4),
    ]


@pytest.mark.parametrize("name", MAPS)
def test_maps_agree_in_values_slopes_gradients_and_inverse(name):
    elementwise = MAPS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 20, 20, dtype=torch.float64, generator=generator).requires_grad_()
    shape = (2, elementwise.num_params, 3, 20, 20)
    params = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    for ours, plain in ((elementwise, plain_maps.forward), (elementwise.inverse, plain_maps.inverse)):
        expected, found = ours(x, params), plain(elementwise, x, params)
        grads = [torch.randn(x.shape, dtype=torch.float64, generator=generator) for _ in range(2)]
        for a, b in zip(found, expected, strict=True):
            close(a, b)
        of_found, of_expected = (torch.autograd.grad(values, (x, params), grads) for values in (found, expected))
        for a, b in zip(of_found, of_expected, strict=True):
            close(a, b)


@torch.no_grad()
def test_measured_networks_are_not_trivial(monkeypatch):
    """Elements lie inside and outside of the spline's box, and samples are finite."""
    built = networks.network("rq", "plain", Setting(threads=1, tiny=True))
    shares, forward = [], plain_maps.forward

    def recording(elementwise, x, params):
        shares.append((x.abs() < 0.5).double().mean().item())
        return forward(elementwise, x, params)

    monkeypatch.setattr(plain_maps, "forward", recording)
    gt, lr = networks.images(1, 40, 40)
    inputs = built.model.inputs(gt, lr, torch.Generator().manual_seed(0))
    built.plain.encode(inputs.x, inputs.condition, inputs.noise)
    assert 0.2 < sum(shares) / len(shares) < 0.8
    assert built.flow.eval().sample(lr, 2, 0.9, torch.Generator().manual_seed(0)).isfinite().all()


def test_ways_take_turns_after_a_warm_up():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = interleaved(ways, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
