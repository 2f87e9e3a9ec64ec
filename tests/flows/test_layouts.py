"""Channels last, the layout on GPUs, and planes, that on CPUs, give the same numbers."""

import pytest
import torch

from robustflow.bijections import networks
from robustflow.bijections.coupling import Coupling
from robustflow.bijections.elementwise import Affine, ExpAffine, RationalQuadratic, SoftAffine
from robustflow.bijections.injector import Injector
from robustflow.bijections.networks import ConvNetwork
from robustflow.flows import build, level
from robustflow.flows.prior import SplitPrior
from robustflow.flows.step import FlowStep
from robustflow.nn.convolutions import mix_channels
from robustflow.options.schema import FlowOptions, NetworkOptions, SplitOptions

AFFINE, BOUNDED, SPLINE = {"type": "affine"}, {"type": "affine", "eps": 0.1}, {"type": "rq_spline"}
ALL_SPLITS, NO_SPLIT = SplitOptions(correct_splits=True), SplitOptions(enable=False)
# Name → scale, sides of y, encoder, options of the flow.
CASES = {
    "affine 4x": (4, (2, 4), "RRDB", {"L": 3, "S": (0, 1, 2), "coupling": AFFINE, "split": ALL_SPLITS}),
    "bounded 4x": (4, (4, 6), "RRDB", {"L": 2, "coupling": BOUNDED, "additionalFlowNoAffine": 0}),
    # 1×1 positions at the coarsest level.
    "spline 4x": (4, (2, 2), "RRDB", {"L": 3, "S": (0, 2, 1), "coupling": SPLINE, "split": ALL_SPLITS}),
    "spline 2x": (2, (4, 6), "RRDB", {"L": 1, "S": 1, "coupling": SPLINE}),
    "spline 2x, grey": (2, (4, 6), "RRDB", {"L": 2, "coupling": SPLINE, "split": ALL_SPLITS}),
    "affine 2x, one row": (2, (2, 6), "RRDB", {"L": 2, "S": 1, "coupling": AFFINE}),
    "spline 8x, fixed permutations": (
        8,
        (2, 2),
        "RRDB",
        {"L": 4, "K": 1, "S": (0, 0, 1, 1), "coupling": SPLINE, "permutation_train": False},
    ),
    "spline 1x, prior mean": (1, (8, 16), "low_light", {"L": 3, "coupling": SPLINE, "split": NO_SPLIT}),
}
IMAGE_CHANNELS = {"spline 2x, grey": 1}
B, SAMPLES = 2, 3


def draw(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Case:
    def __init__(self, name, perturb, batch=B, samples=SAMPLES, **computation):
        scale, size, encoder, flow = CASES[name]
        options = FlowOptions(**{"K": 2, "hidden_channels": 5, **flow})
        network = NetworkOptions(encoder=encoder, nf=4, nb=2, gc=3, flow=options)
        channels = IMAGE_CHANNELS.get(name, 3)
        torch.manual_seed(0)
        self.flow = perturb(build(network, scale, channels, **computation), std=0.05)
        for part in self.flow.modules():
            if isinstance(part, ConvNetwork):
                part.norm_in.bias.data += 0.1
                part.norm_mid.bias.data += 0.1
        height, width = (side * scale for side in size)
        self.x = draw(batch, channels, height, width, seed=1)
        self.y = draw(batch, 6 if encoder == "low_light" else 3, *size, seed=2)
        self.noise = 0.1 * draw(batch, 3, height, width, seed=3) if flow.get("S") else None
        shapes = self.flow.latent_shapes(height, width)
        self.latents = [draw(samples * batch, *shape, seed=4 + number) for number, shape in enumerate(shapes)]

    def results(self):
        """Latents, log-likelihoods, samples that share conditions, and the gradients of all of these."""
        self.flow.zero_grad()
        x = self.x.clone().requires_grad_()
        latents = [z.clone().requires_grad_() for z in self.latents]
        encoding = self.flow.encode(x, self.y, self.noise)
        samples, log_det = self.flow.decode(latents, self.y, self.noise)
        loss = encoding.log_prob.sum() + log_det.sum()
        for value in (*encoding.latents, samples):
            loss = loss + (value * draw(*value.shape, seed=9)).sum()
        loss.backward()
        values = {"log_prob": encoding.log_prob, "samples": samples, "log_det": log_det, "x": x.grad}
        values |= {f"latent {number}": value for number, value in enumerate(encoding.latents)}
        values |= {f"gradient by latent {number}": z.grad for number, z in enumerate(latents)}
        values |= {name: parameter.grad for name, parameter in self.flow.named_parameters()}
        assert all(value is not None for value in values.values())
        return {name: value.detach().clone() for name, value in values.items()}


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def channels_last(monkeypatch):
    """A function that lets CPUs lay flows out as GPUs do."""

    def switch():
        for module in (networks, level):
            monkeypatch.setattr(module, "flow_format", lambda x: torch.channels_last)

    return switch


def assert_close(found, expected, limit):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=limit, atol=limit, msg=lambda m, name=name: f"{name}: {m}")


def test_both_layouts_give_the_same(name, perturb, channels_last):
    case = Case(name, perturb)
    expected = case.results()
    channels_last()
    assert_close(case.results(), expected, 1e-10)


@pytest.mark.parametrize("checkpointing", ["step", "level"])
def test_both_layouts_give_the_same_with_checkpoints(checkpointing, perturb, channels_last):
    expected = Case("spline 4x", perturb).results()
    channels_last()
    assert_close(Case("spline 4x", perturb, checkpointing=checkpointing).results(), expected, 1e-10)


@pytest.mark.parametrize(("batch", "samples"), [(2, 3), (1, 3), (1, 1)])
def test_layouts_are_as_said(name, perturb, channels_last, monkeypatch, batch, samples):
    """So that the tests above compare two layouts indeed. Of a batch of one, torch takes odd strides for planes."""
    case, seen = Case(name, perturb, batch, samples), []

    def watch(method):
        original = getattr(FlowStep, method)

        def watched(self, x, *others):
            seen.append(x)
            return original(self, x, *others)

        monkeypatch.setattr(FlowStep, method, watched)

    watch("couple")
    watch("uncouple")
    for last in (False, True):
        seen.clear()
        case.flow.encode(case.x, case.y, case.noise)
        case.flow.decode(case.latents, case.y, case.noise)
        assert len(seen) == 2 * sum(len(own.steps) for own in case.flow.levels)
        for x in seen:
            assert x.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        channels_last()


@pytest.mark.parametrize("batch", [2, 1])
def test_gradients_are_laid_out_as_variables_are(name, perturb, channels_last, monkeypatch, batch):
    """Else elementwise maps read two layouts at once in the backward pass, from where one came out of the wrong one."""
    case, seen, hooks = Case(name, perturb, batch), [], []
    couple = FlowStep.couple

    def watched(self, x, *others):
        z, log_det = couple(self, x, *others)
        # Data have no gradient.
        hooks.extend(value.register_hook(seen.append) for value in (x, z) if value.requires_grad)
        return z, log_det

    monkeypatch.setattr(FlowStep, "couple", watched)
    channels_last()
    # CPUs convolve float64 in planes.
    case.flow.float()
    noise = None if case.noise is None else case.noise.float()
    case.flow.encode(case.x.float(), case.y.float(), noise, mixing=False).log_prob.mean().backward()
    assert len(seen) == len(hooks) >= 2 * sum(len(own.steps) for own in case.flow.levels) - 1
    for gradient in seen:
        assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layouts_of_inputs_change_nothing(layout, name, perturb):
    case = Case(name, perturb)
    expected = case.results()
    given = (case.x, case.y, *case.latents)
    case.x, case.y, *case.latents = (value.contiguous(memory_format=layout) for value in given)
    assert_close(case.results(), expected, 1e-10)


# Single layers: odd numbers of channels, one channel, one position, one row

SIZES = [(5, 4, 3), (2, 3, 4), (7, 1, 1), (4, 1, 6), (3, 6, 1)]


def layer_results(layer, x, cond):
    """Both directions, and gradients by x, the context and the parameters."""
    layer.zero_grad()
    x, cond = (value.detach().requires_grad_() for value in (x, cond))
    z, log_det = layer(x, cond)
    back, inverse_log_det = layer.inverse(z.detach().requires_grad_(), cond)
    values = [z, log_det, back, inverse_log_det]
    torch.autograd.backward([(value * draw(*value.shape, seed=7)).sum() for value in values])
    return [value.detach() for value in (*values, x.grad, cond.grad, *(p.grad.clone() for p in layer.parameters()))]


def layouts(x):
    """x in planes, channels last, and as channels of wider tensors of both layouts."""
    wider = torch.cat([x, x, x], dim=1)
    channels = x.shape[1]
    for layout in (torch.contiguous_format, torch.channels_last):
        yield x.contiguous(memory_format=layout)
        yield wider.contiguous(memory_format=layout)[:, channels : 2 * channels]


@pytest.mark.parametrize("is_last", [False, True], ids=["planes", "channels last"])
@pytest.mark.parametrize("kind", ["coupling", "injector"])
@pytest.mark.parametrize(
    "elementwise", [Affine(), RationalQuadratic(), ExpAffine(), SoftAffine()], ids=lambda map: type(map).__name__
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_layers_take_every_layout(size, elementwise, kind, is_last, perturb, channels_last):
    (channels, height, width), n, hidden = size, SAMPLES * B, 3
    kept = channels // 2
    if kind == "coupling":
        network = ConvNetwork(kept, hidden, elementwise.num_params * (channels - kept))
        layer = perturb(Coupling(elementwise, network, kept))
    else:
        layer = perturb(Injector(elementwise, ConvNetwork(0, hidden, elementwise.num_params * channels)))
    x, cond = 0.3 * draw(n, *size, seed=1), draw(B, hidden, height, width, seed=2)
    expected = layer_results(layer, x, cond)
    if is_last:
        channels_last()
    for given in layouts(x):
        assert torch.equal(given, x)
        for features in layouts(cond):
            for found, value in zip(layer_results(layer, given, features), expected, strict=True):
                torch.testing.assert_close(found, value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mixing_and_splitting_take_every_layout(size, perturb):
    x, matrix, shift = draw(B, *size, seed=1), draw(size[0], size[0], seed=2), draw(size[0], seed=3)
    prior = perturb(SplitPrior(size[0], max_log_scale=2.0))
    expected = torch.einsum("ij,bjhw->bihw", matrix, x)
    kept, latent, log_det = prior.split(x)
    for given in layouts(x):
        torch.testing.assert_close(mix_channels(given, matrix), expected)
        torch.testing.assert_close(mix_channels(given, matrix, shift), expected + shift[:, None, None])
        torch.testing.assert_close(prior.split(given), (kept, latent, log_det))
        for other in layouts(latent):
            torch.testing.assert_close(prior.merge(given[:, : kept.shape[1]], other), (x, -log_det))


# Weights


def kernels(flow):
    return {name: tensor for name, tensor in flow.state_dict().items() if tensor.dim() == 4}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kernels_are_channels_last(name, perturb, precision):
    flow = Case(name, perturb, precision=precision).flow
    assert kernels(flow)
    for kernel in kernels(flow).values():
        assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_weights_in_planes_can_be_loaded(name, perturb):
    case = Case(name, perturb)
    expected, state = case.results(), case.flow.state_dict()
    planes = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in case.flow.parameters():
            parameter.zero_()
    case.flow.load_state_dict(planes)
    for kernel in kernels(case.flow).values():
        assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert_close(case.results(), expected, 1e-12)
