import math

import pytest
import torch
from benchmarks import networks

from robustflow.bijections.networks import ConvNetwork
from robustflow.flows import build
from robustflow.options.schema import FlowOptions, NetworkOptions, SplitOptions

AFFINE, BOUNDED, SPLINE = {"type": "affine"}, {"type": "affine", "eps": 0.1}, {"type": "rq_spline"}

# With an encoder that gives one; it reads six channels.
MEAN = {"encoder": "low_light", "split": SplitOptions(enable=False)}

# Name → scale, sides of x, options of the flow.
CASES = {
    "affine 4x": (4, 8, {"coupling": AFFINE, "L": 2}),
    "bounded 4x": (4, 8, {"coupling": BOUNDED, "L": 3, "K": 1}),
    "spline 4x": (4, 8, {"coupling": SPLINE, "L": 3}),
    "affine 4x, noise": (4, 8, {"coupling": AFFINE, "L": 3, "S": (0, 2, 1), "K": 2}),
    "spline 4x, noise, all splits": (
        4,
        8,
        {"coupling": SPLINE, "L": 3, "S": 1, "split": SplitOptions(correct_splits=True)},
    ),
    "affine 4x, all splits": (4, 8, {"coupling": AFFINE, "L": 2, "split": SplitOptions(correct_splits=True)}),
    "spline 4x, bounded split priors": (
        4,
        8,
        {"coupling": SPLINE, "L": 3, "S": 1, "split": SplitOptions(correct_splits=True, max_log_scale=0.05)},
    ),
    "affine 4x, no split": (4, 8, {"coupling": AFFINE, "L": 3, "split": SplitOptions(enable=False)}),
    "spline 4x, fixed permutations": (4, 8, {"coupling": SPLINE, "L": 2, "permutation_train": False}),
    "spline 8x": (8, 16, {"coupling": SPLINE, "L": 4, "K": 1, "S": (0, 0, 1, 1)}),
    "bounded 8x, all splits": (
        8,
        16,
        {"coupling": BOUNDED, "L": 4, "K": 1, "split": SplitOptions(correct_splits=True)},
    ),
    "spline 2x": (2, 8, {"coupling": SPLINE, "L": 3, "additionalFlowNoAffine": 0}),
    "affine 1x, prior mean": (1, 8, {"coupling": AFFINE, "L": 3, "K": 1, **MEAN}),
    "spline 1x, prior mean": (1, 8, {"coupling": SPLINE, "L": 2, **MEAN}),
}
B = 2


def options(encoder="RRDB", **flow):
    flow = FlowOptions(**{"K": 2, "hidden_channels": 5, **flow})
    return NetworkOptions(encoder=encoder, nf=4, nb=2, gc=3, flow=flow)


def images(batch, side, seed=0, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, side, side, dtype=torch.float64, generator=generator) - 0.5


def generic(flow, perturb):
    """No parameter special, and no layer of ReLUs dead. (A batch this small is unfit to initialise ActNorms.)"""
    flow = perturb(flow, std=0.05)
    for part in flow.modules():
        if isinstance(part, ConvNetwork):
            part.norm_in.bias.data += 0.1
            part.norm_mid.bias.data += 0.1
    return flow


class Case:
    """A generic flow with x, y and noise."""

    def __init__(self, name, perturb):
        scale, side, flow_options = CASES[name]
        self.scale, self.side = scale, side
        channels = 6 if "encoder" in flow_options else 3
        self.x, self.y = images(B, side), images(B, side // scale, seed=1, channels=channels)
        self.noise = images(B, side, seed=2) if flow_options.get("S") else None
        self.flow = generic(build(options(**flow_options), scale), perturb)

    def latents(self, n=1):
        generator = torch.Generator().manual_seed(3)
        shapes = self.flow.latent_shapes(self.side, self.side)
        return [torch.randn(n * B, *shape, dtype=torch.float64, generator=generator) for shape in shapes]


@pytest.fixture(params=CASES)
def case(request, perturb):
    return Case(request.param, perturb)


@pytest.fixture
def noisy(perturb):
    return Case("spline 4x, noise, all splits", perturb)


@pytest.fixture
def three_steps(perturb):
    """Case with K = 3 so that groups of two steps leave one over."""
    case = Case("affine 4x, noise", perturb)
    case.flow = generic(build(options(coupling=AFFINE, L=3, K=3, S=(0, 2, 1)), 4), perturb)
    return case


def close(found, expected, limit):
    torch.testing.assert_close(found, expected, rtol=limit, atol=limit)


# Every configuration


@torch.no_grad()
def test_decode_undoes_encode(case):
    encoding = case.flow.encode(case.x, case.y, case.noise)
    x, log_det = case.flow.decode(encoding.latents, case.y, case.noise)
    close(x, case.x, 1e-12)
    close(log_det, -encoding.log_det, 1e-12)


@torch.no_grad()
def test_encode_undoes_decode(case):
    latents = case.latents()
    x, log_det = case.flow.decode(latents, case.y, case.noise)
    encoding = case.flow.encode(x, case.y, case.noise)
    for found, expected in zip(encoding.latents, latents, strict=True):
        close(found, expected, 1e-12)
    close(log_det, -encoding.log_det, 1e-12)


def test_log_prob_is_that_of_the_full_jacobian(case):
    """Each row of the Jacobian from one copy of the item, all rows in one backward pass."""
    noise = None if case.noise is None else case.noise[:1]
    encoding = case.flow.encode(case.x[:1], case.y[:1], noise)
    n = case.x[0].numel()
    copies = case.x[:1].repeat(n, 1, 1, 1).requires_grad_()
    condition = case.flow.condition(case.y[:1].repeat(n, 1, 1, 1))
    repeated_noise = None if noise is None else noise.repeat(n, 1, 1, 1)
    z = torch.cat([part.flatten(1) for part in case.flow.encode(copies, condition, repeated_noise).latents], dim=1)
    (jacobian,) = torch.autograd.grad(z.diagonal().sum(), copies)
    log_det = torch.linalg.slogdet(jacobian.flatten(1))[1]
    prior = (-0.5 * z[0] ** 2 - 0.5 * math.log(2 * math.pi)).sum()
    close(encoding.log_det[0], log_det, 1e-11)
    close(encoding.log_prob[0], log_det + prior, 1e-11)


@torch.no_grad()
def test_equals_the_plain_reference(case):
    """Features entering a level once, unmaterialised upsampling and kept contexts change nothing."""
    encoding = case.flow.encode(case.x, case.y, case.noise)
    latents, log_prob = networks.plain_of(case.flow).encode(case.x, case.y, case.noise)
    for found, expected in zip(encoding.latents, latents, strict=True):
        close(found, expected, 1e-13)
    close(encoding.log_prob, log_prob, 1e-13)


@torch.no_grad()
def test_latent_shapes(case):
    encoding = case.flow.encode(case.x, case.y, case.noise)
    assert [tuple(latent.shape[1:]) for latent in encoding.latents] == case.flow.latent_shapes(case.side, case.side)


def test_every_parameter_gets_a_gradient(case):
    if case.noise is None:
        case.noise = torch.zeros_like(case.x)
    case.flow.encode(case.x, case.y, case.noise).log_prob.sum().backward()
    for name, parameter in case.flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_items_of_a_batch_do_not_see_one_another(case):
    whole = case.flow.encode(case.x, case.y, case.noise)
    latents = case.latents()
    x, _ = case.flow.decode(latents, case.y, case.noise)
    for i in range(B):
        noise = None if case.noise is None else case.noise[i : i + 1]
        alone = case.flow.encode(case.x[i : i + 1], case.y[i : i + 1], noise)
        close(alone.log_prob, whole.log_prob[i : i + 1], 1e-12)
        for found, expected in zip(alone.latents, whole.latents, strict=True):
            close(found, expected[i : i + 1], 1e-12)
        close(case.flow.decode([z[i : i + 1] for z in latents], case.y[i : i + 1], noise)[0], x[i : i + 1], 1e-12)


@torch.no_grad()
def test_samples_share_their_condition(case):
    n, latents = 3, case.latents(n=3)
    noise = None if case.noise is None else case.noise.repeat(n, 1, 1, 1)
    shared, log_det = case.flow.decode(latents, case.y, case.noise)
    x, expected = case.flow.decode(latents, case.y.repeat(n, 1, 1, 1), noise)
    close(shared, x, 1e-12)
    close(log_det, expected, 1e-12)


# Conditions


@torch.no_grad()
def test_contexts_of_a_level_equal_plain_convolutions(noisy):
    pyramid = noisy.flow.encoder(noisy.y)
    condition = noisy.flow.condition(noisy.y).with_noise(noisy.noise)
    for level, native, prepared in zip(noisy.flow.levels, pyramid.native, condition.levels, strict=True):
        taps = torch.nn.functional.interpolate(pyramid.taps, size=native.shape[-2:], mode="nearest")
        projection = level.coupling_projection
        kernel = torch.cat([projection.native, projection.taps], dim=1)
        # The ActNorm that follows is folded in.
        norms = [step.coupling.network.norm_in for step in level.steps]
        scale = torch.cat([norm.logs.exp() for norm in norms])
        shift = scale * torch.cat([norm.bias for norm in norms])
        kernel = kernel * scale[:, None, None, None]
        expected = torch.nn.functional.conv2d(torch.cat([native, taps], dim=1), kernel, shift, padding=1)
        (_, first, first_noise), (_, second, (noise_features, _)) = prepared.steps()
        close(torch.cat([first[0], second[0]], dim=1), expected, 1e-12)
        assert first_noise is None
        assert noise_features is not None


def values_and_gradients(case):
    case.flow.zero_grad()
    x, log_det = case.flow.decode(case.latents(n=2), case.y, case.noise)
    encoding = case.flow.encode(case.x, case.y, case.noise)
    (encoding.log_prob.sum() + x.sum()).backward()
    gradients = [parameter.grad.clone() for parameter in case.flow.parameters()]
    return [x.detach(), log_det.detach(), encoding.log_prob.detach(), *encoding.latents, *gradients]


@pytest.mark.parametrize("budget", [1, 2000, 20_000])
def test_projection_memory_changes_no_result(three_steps, budget):
    """From groups of one step at every level, over groups of two at some, to all three at once."""
    expected = values_and_gradients(three_steps)
    three_steps.flow.projection_memory = budget
    for found, value in zip(values_and_gradients(three_steps), expected, strict=True):
        close(found, value, 1e-12)


@torch.no_grad()
def test_small_budget_keeps_one_group_at_a_time(three_steps):
    for budget, kept in ((1, 1), (2**30, 3)):
        three_steps.flow.projection_memory = budget
        condition = three_steps.flow.condition(three_steps.y)
        three_steps.flow.decode(three_steps.latents(), condition)
        assert [len(level._made) for level in condition.levels] == [kept] * 3


@torch.no_grad()
def test_condition_is_reused(noisy, monkeypatch):
    expected = [noisy.flow.sample(noisy.y, 2, tau, torch.Generator().manual_seed(7)) for tau in (0.0, 0.9)]
    encoding = noisy.flow.encode(noisy.x, noisy.y, noisy.noise)
    condition = noisy.flow.condition(noisy.y)
    monkeypatch.setattr(noisy.flow.encoder, "forward", None)
    for tau, x in zip((0.0, 0.9), expected, strict=True):
        assert torch.equal(noisy.flow.sample(condition, 2, tau, torch.Generator().manual_seed(7)), x)
    assert torch.equal(noisy.flow.encode(noisy.x, condition, noisy.noise).log_prob, encoding.log_prob)
    # The noise of one call does not stay behind for the next.
    assert torch.equal(noisy.flow.sample(condition, 2, 0.9, torch.Generator().manual_seed(7)), expected[1])


@torch.no_grad()
def test_no_noise_is_zero_noise(noisy):
    zeros = torch.zeros_like(noisy.x)
    found, expected = noisy.flow.encode(noisy.x, noisy.y), noisy.flow.encode(noisy.x, noisy.y, zeros)
    close(found.log_prob, expected.log_prob, 1e-12)
    with_noise = noisy.flow.encode(noisy.x, noisy.y, noisy.noise)
    assert (with_noise.log_prob - expected.log_prob).abs().min() > 1e-6


# Sampling


def test_sample(noisy):
    def draw(seed, temperature=0.8, n=3):
        return noisy.flow.sample(noisy.y, n, temperature, torch.Generator().manual_seed(seed))

    x = draw(5)
    assert x.shape == (B, 3, 3, 8, 8)
    assert not x.requires_grad
    assert torch.equal(draw(5), x)
    assert not torch.allclose(draw(6), x)
    assert (x[:, 0] - x[:, 1]).abs().max() > 1e-3
    state = torch.get_rng_state()
    draw(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_temperature_0_gives_one_sample_only(noisy):
    x = noisy.flow.sample(noisy.y, 3, 0.0, torch.Generator().manual_seed(5))
    assert torch.equal(x, x[:, :1].expand_as(x))


@torch.no_grad()
def test_sample_decodes_scaled_normal_latents(noisy):
    x = noisy.flow.sample(noisy.y, 2, 0.5, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for s in range(2):
        for i in range(B):
            latents = [0.5 * z.double() for z in noisy.flow.draw_latents((8, 8), generator)]
            close(noisy.flow.decode(latents, noisy.y[i : i + 1])[0][0], x[i, s], 1e-12)


# Errors


@pytest.mark.parametrize(("scale", "levels", "size"), [(4, 3, (3, 4)), (4, 4, (4, 6)), (8, 4, (2, 3)), (2, 3, (6, 4))])
def test_sizes_that_cannot_be_squeezed_are_refused(scale, levels, size):
    flow = build(options(L=levels), scale)
    with pytest.raises(ValueError, match=f"multiples of {2**levels}, got {size[0] * scale}×{size[1] * scale}"):
        flow.condition(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("shape", [(2, 3, 16, 8), (1, 3, 8, 8), (2, 3, 4, 4)])
def test_x_that_does_not_fit_its_condition_is_refused(noisy, shape):
    with pytest.raises(ValueError, match=r"expected x of shape \(2, 3, 8, 8\) for this condition, got"):
        noisy.flow.encode(torch.zeros(shape, dtype=torch.float64), noisy.y)


# Building


@pytest.mark.parametrize(
    ("flow_options", "shapes"),
    [
        ({"L": 3}, [(6, 8, 12), (96, 2, 3)]),
        ({"L": 3, "split": SplitOptions(correct_splits=True)}, [(6, 8, 12), (12, 4, 6), (48, 2, 3)]),
        ({"L": 3, "split": SplitOptions(enable=False)}, [(192, 2, 3)]),
        ({"L": 2}, [(48, 4, 6)]),
        ({"L": 2, "split": SplitOptions(correct_splits=True)}, [(6, 8, 12), (24, 4, 6)]),
    ],
)
def test_split_levels(flow_options, shapes):
    assert build(options(**flow_options), 4).latent_shapes(16, 24) == shapes


@pytest.mark.parametrize(
    ("noisy_steps", "expected"), [((0,), [[], [], []]), ((0, 2, 1), [[], [1, 2], [2]]), ((1,), [[2], [2], [2]])]
)
def test_last_steps_of_a_level_have_noise_couplings(noisy_steps, expected):
    flow = build(options(L=3, K=3, S=noisy_steps), 4)
    found = [[k for k, step in enumerate(level.steps) if step.noise_coupling is not None] for level in flow.levels]
    assert found == expected


def test_same_seed_same_initial_weights_whatever_the_coupling():
    states = []
    for coupling in (AFFINE, SPLINE):
        torch.manual_seed(11)
        states.append(build(options(coupling=coupling, L=3, S=1), 4).state_dict())
    affine, spline = states
    assert affine.keys() == spline.keys()
    differing = [name for name in affine if not torch.equal(affine[name], spline[name])]
    assert differing
    assert all(".head." in name and affine[name].shape != spline[name].shape for name in differing)


def test_untrained_spline_flow_is_volume_preserving():
    flow = build(options(coupling=SPLINE, L=3), 4).double().eval()
    encoding = flow.encode(images(B, 8), images(B, 2))
    close(encoding.log_det, torch.zeros(B, dtype=torch.float64), 1e-5)


def test_first_training_batch_initialises_every_actnorm():
    flow = build(options(L=3, S=1), 4).train()
    initialized = [buffer for name, buffer in flow.named_buffers() if name.endswith("initialized")]
    assert not any(initialized)
    noise = 0.01 * torch.randn(B, 3, 8, 8)
    encoding = flow.encode(torch.rand(B, 3, 8, 8), torch.rand(B, 3, 2, 2), noise)
    assert encoding.log_prob.isfinite().all()
    assert all(initialized)


def test_state_dict_round_trip(noisy):
    other = build(options(**CASES["spline 4x, noise, all splits"][2]), 4).double().eval()
    other.load_state_dict(noisy.flow.state_dict())
    expected = noisy.flow.encode(noisy.x, noisy.y, noisy.noise).log_prob
    assert torch.equal(other.encode(noisy.x, noisy.y, noisy.noise).log_prob, expected)


@pytest.mark.parametrize(("coupling", "millions"), [("affine", 41.7 - 0.65), ("rq_spline", 46.6 - 0.65)])
def test_full_size_has_the_published_number_of_parameters(coupling, millions):
    """The published networks hold 0.6 to 0.7 M parameters more: image head and unused noise couplings."""
    with torch.device("meta"):
        flow = build(NetworkOptions(flow=FlowOptions(coupling=coupling, S=(0, 16, 16))), 4)
    assert sum(p.numel() for p in flow.parameters()) == pytest.approx(millions * 1e6, rel=0.015)
