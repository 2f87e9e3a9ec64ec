"""What the probe reports, against the flow's own arithmetic."""

import math

import pytest
import torch

from robustflow.bijections.base import Bijection
from robustflow.bijections.coupling import Coupling
from robustflow.diagnostics.trace.probe import kind_of, layers, probing
from robustflow.flows import build
from robustflow.options.schema import FlowOptions, NetworkOptions, SplitOptions

FLOWS = {
    "affine": {"coupling": {"type": "affine"}, "L": 3, "S": (0, 1, 1)},
    "spline": {"coupling": {"type": "rq_spline"}, "L": 2, "split": SplitOptions(correct_splits=True)},
    "soft": {
        "coupling": {"type": "soft_affine", "B": 0.5},
        "L": 2,
        "split": SplitOptions(correct_splits=True, soft=0.5),
    },
    "orthogonal": {"coupling": {"type": "affine", "eps": 0.1}, "L": 2, "S": 2, "permutation_train": False},
}


@pytest.fixture(params=FLOWS)
def flow(request, perturb):
    options = NetworkOptions(
        nf=4, nb=2, gc=3, flow=FlowOptions(**{"K": 2, "hidden_channels": 5, **FLOWS[request.param]})
    )
    return perturb(build(options, 4), std=0.05)


def inputs(flow, n=3):
    generator = torch.Generator().manual_seed(1)
    y = torch.rand(1, 3, 4, 4, dtype=torch.float64, generator=generator)
    shapes = flow.latent_shapes(16, 16)
    return [torch.randn(n, *shape, dtype=torch.float64, generator=generator) for shape in shapes], y


def probed(flow, latents, y):
    seen = []
    with probing(flow, lambda *one: seen.append(one)):
        x, _ = flow.decode(latents, y)
    return x, seen


def test_layers_are_seen_once_each_in_their_order_and_sampling_is_unchanged(flow):
    latents, y = inputs(flow)
    with torch.no_grad():
        expected, _ = flow.decode(latents, y)
    x, seen = probed(flow, latents, y)
    assert torch.equal(x, expected)
    assert [place for place, *_ in seen] == list(range(len(layers(flow))))
    assert all(growth.shape == (3,) for *_, growth in seen)


def test_every_layer_has_a_name_of_its_own(flow):
    found = layers(flow)
    inside = {
        id(part) for level in flow.levels for step in [*level.steps, *level.transitions] for part in step.children()
    }
    priors = {id(level.split_prior) for level in flow.levels if level.split_prior is not None}
    assert {id(layer) for layer in found.values()} == inside | priors
    first, *_, last = found
    assert first.startswith(f"level {len(flow.levels)} step 2 ")
    assert last == "level 1 transition 1 ActNorm"


def test_nothing_stays_wrapped(flow):
    latents, y = inputs(flow)
    probed(flow, latents, y)
    with pytest.raises(ZeroDivisionError), probing(flow, lambda *seen: 1 / 0):
        flow.decode(latents, y)
    for module in flow.modules():
        assert not {"inverse", "untransform", "merge", "decode", "unmix"} & module.__dict__.keys()


def test_log_slopes_are_those_of_the_log_determinant(flow):
    """Of layers that see few elements: their sum per sample is the layer's log-determinant."""
    latents, y = inputs(flow)
    determinants = []
    for name, layer in layers(flow).items():
        method = {"split prior": "merge", "injector": "untransform"}.get(kind_of(name), "inverse")
        original = getattr(layer, method)

        def noting(*arguments, original=original):
            value, log_det = original(*arguments)
            determinants.append(log_det)
            return value, log_det

        layer.__dict__[method] = noting
    steps = [step for level in flow.levels for step in level.mixing_steps]
    for step in steps:
        step.__dict__["unmix"] = lambda z, _, step=step: step.actnorm.inverse(step.permutation.inverse(z)[0])[0]
    with torch.no_grad():
        flow.decode(latents, y)
    for module in [*steps, *layers(flow).values()]:
        for method in ("merge", "untransform", "inverse", "unmix"):
            module.__dict__.pop(method, None)
    _, seen = probed(flow, latents, y)
    for (_, value, log_slopes, _), log_det, name in zip(seen, determinants, layers(flow), strict=True):
        if kind_of(name) in ("ActNorm", "1x1 convolution"):
            expected = log_slopes.sum() * value[0, 0].numel()
        else:
            expected = log_slopes.flatten(1).sum(1)
        torch.testing.assert_close(expected.expand(3), log_det)


def test_growth_is_that_of_the_jacobian_where_parameters_do_not_follow_the_latents(flow):
    """Couplings whose networks ignore their input: holding the parameters changes nothing."""
    for module in flow.modules():
        if isinstance(module, Coupling):
            module.network.get_submodule("head").weight.data.zero_()
    for level in flow.levels:
        if level.split_prior is not None:
            level.split_prior.network.weight.data.zero_()
    latents, y = inputs(flow, n=1)
    _, seen = probed(flow, latents, y)
    found = sum(float(growth) for *_, growth in seen)

    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(z.shape, generator=generator, dtype=torch.float64) for z in latents]
    length = math.sqrt(sum(float(part.square().sum()) for part in drawn))
    step = 1e-6
    with torch.no_grad():
        ahead, _ = flow.decode([z + step * part / length for z, part in zip(latents, drawn, strict=True)], y)
        behind, _ = flow.decode([z - step * part / length for z, part in zip(latents, drawn, strict=True)], y)
    assert found == pytest.approx(float(((ahead - behind) / (2 * step)).norm().log()), abs=1e-5)


def test_what_overflows_is_told_as_infinite_or_nan(flow):
    latents, y = inputs(flow)
    _, seen = probed(flow, [z * 1e308 * 10 for z in latents], y)
    assert not seen[-1][1].isfinite().all()


def test_every_layer_of_the_flow_tells_its_bound(flow):
    for name, layer in layers(flow).items():
        assert isinstance(layer, Bijection) or (layer.inverse_bound() is None) == (layer.soft is None)
        if kind_of(name) != "split prior":
            assert layer.inverse_bound() is not None
