import pytest
import tiny
import torch
from benchmarks import networks, plain_maps
from benchmarks.measure import interleaved
from benchmarks.plain import PlainFlow
from benchmarks.setting import Setting
from published_fixtures import CASES, bits_per_position, difference, fixture, needs_fixtures, noise_of
from published_fixtures import unused as unused_in

from robustflow.bijections.elementwise import Affine, ExpAffine, InverseAffine, RationalQuadratic, SoftAffine
from robustflow.interop import published

MAPS = {
    "affine": Affine(),
    "bounded": Affine(0.1),
    "rq": RationalQuadratic(),
    "box": RationalQuadratic((-1.0, 2.0), 0.01),
    "exp": ExpAffine(),
    "inverse": InverseAffine(),
    "soft": SoftAffine(0.5),
}


def close(found, expected, limit=1e-9):
    torch.testing.assert_close(found, expected, rtol=limit, atol=limit * expected.abs().max().item())


class Case:
    """A tiny flow in float64, the plain way of computing it, and inputs."""

    def __init__(self, coupling):
        built = networks.network(coupling, "ours fp32", Setting(threads=1, tiny=True))
        self.flow = built.flow.double().eval()
        self.plain = networks.plain_of(self.flow)
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


def test_gradients_are_those_of_the_flow(case):
    (-case.flow.encode(case.x, case.y, case.noise).log_prob.mean()).backward()
    (-case.plain.encode(case.x, case.y, case.noise)[1].mean()).backward()
    with torch.no_grad():
        for parameter in case.flow.parameters():
            parameter.copy_(parameter.grad)
    unused = unused_in(case.flow)
    for name, expected in published.write_back(case.flow).items():
        if name not in unused:
            close(case.plain.tensors[name].grad, expected)
    assert len(case.plain.tensors) - len(unused) > 200


def test_encoder_runs_the_image_head_and_joins_all_features(case, monkeypatch):
    heads = []
    monkeypatch.setattr(case.plain.encoder, "_image", heads.append)
    assert [tuple(f.shape) for f in case.plain.contexts(case.y)[0]] == [
        (2, 48, 12, 16),
        (2, 48, 6, 8),
        (2, 48, 3, 4),
    ]
    assert [tuple(x.shape) for x in heads] == [(2, 16, 24, 32)]


@pytest.mark.parametrize("name", MAPS)
def test_maps_agree_in_values_slopes_gradients_and_inverse(name):
    elementwise, plain = MAPS[name], networks.plain_map(MAPS[name])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 20, 20, dtype=torch.float64, generator=generator).requires_grad_()
    shape = (2, elementwise.num_params, 3, 20, 20)
    params = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    for ours, theirs in ((elementwise, plain.forward), (elementwise.inverse, plain.inverse)):
        expected, found = ours(x, params), theirs(x, params)
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
    shares, forward = [], plain_maps.Spline.forward

    def recording(spline, x, params):
        shares.append((x.abs() < 0.5).double().mean().item())
        return forward(spline, x, params)

    monkeypatch.setattr(plain_maps.Spline, "forward", recording)
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


@needs_fixtures
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_plain_way_computes_what_the_published_networks_do(name):
    """Straight from the published tensors, in float64."""
    found = fixture(name)
    options = found["options"]["network_G"]["flow"]
    noisy = options.get("S", [0] * options["L"])
    coupling = plain_maps.Spline() if "spline" in name else plain_maps.Affine()
    tensors = {key: tensor.double() for key, tensor in found["state_dict"].items()}
    plain = PlainFlow(tensors, coupling, found["build_args"]["scale"], options["stackRRDB"]["blocks"], noisy)
    gt, lr = (found["inputs"][key].double() for key in ("gt", "lr"))
    mean = plain.encoder.features(lr, plain.scale, len(plain.levels))[2]
    shift = 0 if mean is None else torch.nn.functional.pixel_unshuffle(mean, 8)
    latents = [z.double() for z in found["epses_rand"]]
    latents[-1] = latents[-1] - shift
    for mode, call in found["calls"].items():
        noise = noise_of(found, mode, torch.float64)
        log_prob = plain.encode(gt, lr, noise)[1]
        assert difference(bits_per_position(log_prob, gt), call["f64"]["fwd"]["nll"]) <= 1e-12
        assert difference(plain.decode(latents, lr, noise)[0], call["f64"]["rev_rand"]["sr"]) <= 1e-12


def test_soft_split_priors_have_no_opponent():
    flow = tiny.built(tiny.options(split={"correct_splits": True, "soft": 3.0}), 0.1).flow
    with pytest.raises(TypeError, match="expected split priors that scale, got soft ones"):
        networks.plain_of(flow)
