import math

import pytest
import torch

from robustflow.flows.prior import SplitPrior
from robustflow.options.load import load
from robustflow.utils.yaml_tree import OptionsError


def prior(log_std, mean=0.0, **options):
    """A split prior of 4 channels whose raw log-std, and mean, is the given constant."""
    made = SplitPrior(4, **options).double()
    with torch.no_grad():
        made.network.bias[:2], made.network.bias[2:] = mean, log_std
        made.network.logs.zero_()
    return made


def x():
    return torch.randn(2, 4, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize("log_std", [-30.0, -1.0, 0.0, 0.5, 30.0])
def test_merge_undoes_split_with_a_bound(log_std):
    made, data = prior(log_std, 0.7, max_log_scale=2.0), x()
    kept, latent, log_det = made.split(data)
    back, inverse_log_det = made.merge(kept, latent)
    torch.testing.assert_close(back, data)
    torch.testing.assert_close(inverse_log_det, -log_det)


@pytest.mark.parametrize("log_std", [-9.0, -1.0, 0.0, 3.0, 30.0])
def test_a_soft_prior_is_a_bijection_with_the_log_det_of_autograd(log_std):
    made, data = prior(log_std, 0.7, soft=3.0), x()[:1]
    kept, latent, log_det = made.split(data)
    assert torch.equal(made.split(torch.full_like(data, 0.7))[1], torch.zeros_like(latent))
    back, inverse_log_det = made.merge(kept, latent)
    torch.testing.assert_close(back, data)
    torch.testing.assert_close(inverse_log_det, -log_det)
    jacobian = torch.autograd.functional.jacobian(
        lambda rest: made.split(torch.cat([kept, rest.view(1, 2, 3, 3)], 1))[1].flatten(), data[:, 2:].flatten()
    )
    torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[0])


def test_a_soft_prior_scales_like_the_other_near_the_mean_and_adds_at_most_b_far_out():
    near = 1e-6 * x()
    for log_std in (-1.0, 2.0):
        wide, usual = prior(log_std, soft=3.0), prior(log_std)
        torch.testing.assert_close(
            wide.merge(near[:, :2], near[:, 2:])[0], usual.merge(near[:, :2], near[:, 2:])[0], rtol=1e-3, atol=0
        )
    latent, limit = 100 * x(), prior(30.0, soft=3.0).inverse_bound()
    moved = prior(30.0, soft=3.0).merge(latent[:, :2], latent[:, 2:])[0][:, 2:] - latent[:, 2:]
    assert 2.5 < float(moved.detach().abs().max()) < 3 < limit.offset
    assert limit.factor == 1


def test_the_bound_holds_from_above_only():
    def found(log_std, **options):
        return prior(log_std, **options).mean_and_log_std(x()[:, :2])[1].detach()

    assert float(found(1e6, max_log_scale=2.0).max()) == 2
    assert torch.equal(found(-5.0, max_log_scale=2.0), found(-5.0))
    torch.testing.assert_close(found(1.0, max_log_scale=2.0), torch.full((2, 2, 3, 3), 2 * math.tanh(0.5)).double())
    assert float(found(30.0).max()) == 30


def test_gradients_pass_zero_smoothly():
    raw = torch.linspace(-1, 1, 201, dtype=torch.float64, requires_grad=True)
    made = prior(0.0, max_log_scale=2.0)
    made.network.forward = lambda kept: torch.stack([torch.zeros_like(raw), raw])[None, :, None]
    (slope,) = torch.autograd.grad(made.mean_and_log_std(None)[1].sum(), raw)
    assert float(slope.diff().abs().max()) < 0.01
    assert float(slope[100]) == 1


def test_a_bound_without_a_split_is_an_error():
    for key in ("max_log_scale", "soft"):
        with pytest.raises(OptionsError, match=rf"{key}.*no effect"):
            load("confs/demo.yml", f"network_G.flow.split.{key}=2|network_G.flow.split.correct_splits=false")
    assert load("confs/demo.yml", "network_G.flow.split.max_log_scale=2").network_G.flow.n_splits == 1


def test_robust_configurations_bound_the_prior():
    for name in ("robust_4x", "robust_8x"):
        flow = load(f"confs/{name}.yml").network_G.flow
        assert flow.split.max_log_scale == 2
        assert flow.coupling.type == "rq_spline" and flow.coupling.bounds == (-3, 3)
    assert load("confs/robust_8x.yml").network_G.flow.permutation_train is False
    assert load("confs/fsncsr_4x_rq.yml").network_G.flow.split.max_log_scale is None
