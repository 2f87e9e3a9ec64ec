"""The bound that is printed, against one computed here from the weights; what is observed never exceeds it."""

import math
import re

import pytest
import torch

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.coupling import Coupling
from robustflow.bijections.injector import Injector
from robustflow.bijections.permutation import InvertibleConv
from robustflow.diagnostics import audit
from robustflow.diagnostics.trace.probe import layers, probing
from robustflow.flows import build
from robustflow.options.schema import FlowOptions, NetworkOptions, SplitOptions

EPS, MAX_LOG_SCALE = 0.1, 1.5
SPLIT = SplitOptions(correct_splits=True, max_log_scale=MAX_LOG_SCALE)


def flow_with(perturb, std, **options):
    flow = FlowOptions(**{"K": 1, "L": 2, "hidden_channels": 4, "additionalFlowNoAffine": 1, "split": SPLIT, **options})
    return perturb(build(NetworkOptions(nf=4, nb=1, gc=2, flow=flow), 4), std=std)


def expected_log10(flow):
    """From the definition, layer by layer: 1/ε, the spectral norm of W⁻¹, the largest exp(−logs), exp(m)."""
    total = 0.0
    for level in flow.levels:
        for step in [*level.transitions, *level.steps]:
            total += math.log10(float(torch.exp(-step.actnorm.logs.detach()).max()))
            total += math.log10(
                float(torch.linalg.matrix_norm(torch.linalg.inv(step.permutation.weight.detach()), ord=2))
            )
        n_maps = sum(2 if step.noise_coupling is None else 3 for step in level.steps)
        total += n_maps * math.log10(1 / EPS)
        total += 0 if level.split_prior is None else MAX_LOG_SCALE / math.log(10)
    return total


@pytest.mark.parametrize("std", [0.1, 1.0])
def test_the_bound_is_the_product_of_the_layers_and_is_never_exceeded(perturb, std):
    flow = flow_with(perturb, std, coupling={"type": "affine", "eps": EPS}, S=(0, 1))
    bound = audit.bound_of(layers(flow))
    assert bound["unbounded"] == []
    assert bound["log10_offset"] is None
    assert bound["log10_factor"] == pytest.approx(expected_log10(flow), rel=1e-12)
    (printed,) = re.findall(r"can amplify by 10\^(-?[\d.]+)\.$", bound["sentences"][0])
    assert float(printed) == pytest.approx(expected_log10(flow), abs=0.05)

    # 10,000 inputs, ordinary and far out of distribution.
    generator = torch.Generator().manual_seed(0)
    totals = []
    for scale in (0.1, 1, 10, 100):
        y = scale * torch.randn(2500, 3, 1, 1, dtype=torch.float64, generator=generator)
        latents = [torch.randn(2500, *s, dtype=torch.float64, generator=generator) for s in flow.latent_shapes(4, 4)]
        growths, slopes = [], []
        with probing(
            flow, lambda place, value, slope, growth, g=growths, s=slopes: (g.append(growth), s.append(slope.max()))
        ):
            flow.decode(latents, y)
        totals.append(torch.stack(growths).sum(0) / math.log(10))
        for layer, growth, steepest in zip(layers(flow).values(), growths, slopes, strict=True):
            assert float(steepest) <= math.log(layer.inverse_bound().factor) + 1e-9
            assert float(growth.max()) <= math.log(layer.inverse_bound().factor) + 1e-9
    observed = torch.cat(totals)
    assert len(observed) == 10_000
    assert float(observed.max()) <= bound["log10_factor"]
    assert float(observed.std()) > 0


@pytest.mark.parametrize(
    ("coupling", "of_map"),
    [
        ({"type": "rq_spline", "bounds": (-0.5, 1.0)}, 1.5),
        ({"type": "rq_spline", "bounds": (-0.25, 0.25)}, 0.5),
        ({"type": "soft_affine", "B": 2.0, "eps": 0.01}, 4 * 0.99),
        ({"type": "inverse_affine", "eps": 0.1}, None),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
@torch.no_grad()
def test_a_map_moves_differences_by_a_fixed_amount_at_most(perturb, coupling, of_map):
    """Splines by their box, soft affine maps by 2B(1 − ε); inverse affine ones stretch by 1 + ε at most."""
    flow, of_slope = flow_with(perturb, 0.5, coupling=coupling), 1.1 if of_map is None else 1.0
    for module in flow.modules():
        if isinstance(module, Coupling):  # parameters that do not follow the latents: held
            module.network.get_submodule("head").weight.data.zero_()
    flow.levels[0].split_prior.network.weight.data.zero_()
    bound = audit.bound_of(layers(flow))
    factor, offset = 1.0, 0.0
    for module in layers(flow).values():
        own = {
            ActNorm: lambda m=module: float(torch.exp(-m.logs).max()),
            InvertibleConv: lambda m=module: float(torch.linalg.matrix_norm(torch.linalg.inv(m.weight), ord=2)),
            Coupling: lambda: of_slope,
            Injector: lambda: of_slope,
        }.get(type(module), lambda: math.exp(MAX_LOG_SCALE))()
        factor, offset = (
            factor * own,
            offset * own + ((of_map or 0.0) if isinstance(module, Coupling | Injector) else 0.0),
        )
    assert bound["log10_factor"] == pytest.approx(math.log10(factor))
    assert bound["log10_offset"] == (None if of_map is None else pytest.approx(math.log10(offset)))

    generator = torch.Generator().manual_seed(0)
    y = torch.rand(1, 3, 1, 1, dtype=torch.float64, generator=generator)
    for scale in (0.01, 1, 100):
        z, other = (
            [scale * torch.randn(500, *s, dtype=torch.float64, generator=generator) for s in flow.latent_shapes(4, 4)]
            for _ in range(2)
        )
        apart = (flow.decode(z, y)[0] - flow.decode(other, y)[0]).flatten(1).norm(dim=1)
        between = torch.cat([(a - b).flatten(1) for a, b in zip(z, other, strict=True)], dim=1)
        assert (apart <= factor * between.norm(dim=1) + offset * math.sqrt(48)).all()


@torch.no_grad()
def test_latents_that_join_later_are_not_bounded_by_the_layers_before(perturb):
    """What shortens differences of the coarse latents does nothing to those of the fine ones."""
    flow = flow_with(perturb, 0.0, coupling="inverse_affine")
    for step in [*flow.levels[1].transitions, *flow.levels[1].steps]:
        step.actnorm.logs.fill_(3.0)
    bound = audit.bound_of(layers(flow))
    of_fine = {name: layer for name, layer in layers(flow).items() if name.startswith("level 1")}
    assert bound["log10_factor"] == pytest.approx(audit.bound_of(of_fine)["log10_factor"])
    assert bound["log10_factor"] == pytest.approx(MAX_LOG_SCALE / math.log(10), abs=1e-3)
    y, z = torch.rand(1, 3, 1, 1, dtype=torch.float64), [torch.zeros(1, *s).double() for s in flow.latent_shapes(4, 4)]
    other = [torch.ones_like(z[0]), z[1]]
    apart = float((flow.decode(other, y)[0] - flow.decode(z, y)[0]).norm() / z[0].numel() ** 0.5)
    assert 10 ** sum(kind["log10_factor"] for kind in bound["by_kind"].values()) < apart < 10 ** bound["log10_factor"]


def test_an_exponential_map_has_no_bound(perturb):
    flow = flow_with(perturb, 0.1, coupling="exp_affine")
    assert audit.bound_of(layers(flow))["unbounded"] == ["coupling", "injector"]


def test_what_has_no_bound_is_named(perturb):
    flow = flow_with(perturb, 0.1, coupling="affine", split=SplitOptions(correct_splits=True))
    bound = audit.bound_of(layers(flow))
    assert bound["unbounded"] == ["split prior"]
    first = bound["sentences"][0]
    assert "without limit: no bound for split prior (exp(log-std), from the channels that stay)" in first
    assert bound["log10_factor"] is None
