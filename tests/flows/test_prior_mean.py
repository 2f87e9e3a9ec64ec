"""A prior mean from the condition: what leaves the last level is N(m, I), the latents are N(0, I)."""

import math

import pytest
import torch
import torch.nn.functional as F

from robustflow.encoders.base import Encoder, FeaturePyramid
from robustflow.flows import build
from robustflow.flows.prior import latent_mean
from robustflow.options.schema import FlowOptions, NetworkOptions, SplitOptions

B, SIZE = 2, (8, 16)


class WithoutMean(Encoder):
    """An encoder whose prior mean is taken away."""

    def __init__(self, encoder):
        super().__init__()
        self.inner = encoder

    def forward(self, condition):
        features = self.inner(condition)
        return FeaturePyramid(features.native, features.taps, features.factors)


def rand(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def flow(perturb):
    options = FlowOptions(L=3, K=1, hidden_channels=4, coupling="rq_spline", split=SplitOptions(enable=False))
    return perturb(build(NetworkOptions(encoder="low_light", nf=4, nb=1, gc=3, flow=options), 1), std=0.05)


@pytest.fixture
def x():
    return rand(B, 3, *SIZE)


@pytest.fixture
def y():
    return rand(B, 6, *SIZE, seed=1)


def plain(flow, x, y):
    """What leaves the last level, and log|det|, without any prior mean."""
    encoder, flow.encoder = flow.encoder, WithoutMean(flow.encoder)
    encoding = flow.encode(x, y)
    flow.encoder = encoder
    return encoding.latents[-1], encoding.log_det


def log_normal(z, mean):
    return (-0.5 * (z - mean) ** 2 - 0.5 * math.log(2 * math.pi)).sum((1, 2, 3))


@torch.no_grad()
@pytest.mark.parametrize("given", [False, True], ids=["of the encoder", "given"])
def test_log_prob_is_that_of_a_normal_around_the_mean(flow, x, y, given):
    image = rand(B, 3, *SIZE, seed=2) if given else flow.encoder(y).mean
    encoding = flow.encode(x, y, mean=image if given else None)
    z, log_det = plain(flow, x, y)
    mean = F.pixel_unshuffle(image, 8)
    torch.testing.assert_close(encoding.latents[-1], z - mean)
    torch.testing.assert_close(encoding.log_det, log_det)
    torch.testing.assert_close(encoding.log_prob, log_det + log_normal(z, mean))
    assert mean.std() > 0


@torch.no_grad()
def test_latents_are_standard_normal_under_the_model(flow, y):
    """Sampled latents come back, so that their histogram, temperature and norm need to know of no mean."""
    latents = [torch.randn(3 * B, 192, 1, 2, dtype=torch.float64)]
    x, log_det = flow.decode(latents, y)
    back = flow.encode(x, y.repeat(3, 1, 1, 1))
    torch.testing.assert_close(back.latents, latents, rtol=0, atol=1e-11)
    torch.testing.assert_close(back.log_det, -log_det)


@torch.no_grad()
def test_temperature_0_decodes_the_mean(flow, y):
    sample = flow.sample(y, 1, 0.0, torch.Generator())[:, 0]
    z, _ = plain(flow, sample, y)
    torch.testing.assert_close(z, F.pixel_unshuffle(flow.encoder(y).mean, 8), rtol=0, atol=1e-11)


def test_a_given_mean_takes_the_place_of_the_encoders(flow, x, y):
    given = rand(B, 3, *SIZE, seed=2).requires_grad_()
    flow.encode(x, y, mean=given).log_prob.sum().backward()
    assert given.grad.abs().max() > 0
    assert flow.encoder.color_head.weight.grad is None
    flow.encode(x, y).log_prob.sum().backward()
    assert flow.encoder.color_head.weight.grad.abs().max() > 0


@torch.no_grad()
def test_a_prepared_condition_keeps_its_mean(flow, x, y):
    prepared, expected = flow.condition(y), flow.encode(x, y).log_prob
    for condition in (prepared, prepared.with_weights(flow.fold()), prepared.with_noise(None)):
        torch.testing.assert_close(flow.encode(x, condition).log_prob, expected)
    flow.encode(x, prepared, mean=rand(B, 3, *SIZE, seed=2))
    torch.testing.assert_close(flow.encode(x, prepared).log_prob, expected)


def test_any_flow_without_splits_takes_a_mean(perturb, x):
    def made(enable):
        split = SplitOptions(enable=enable, correct_splits=True)
        return perturb(build(NetworkOptions(nf=4, nb=1, gc=3, flow=FlowOptions(L=2, K=1, split=split)), 2), std=0.02)

    y, mean = rand(B, 3, 4, 8, seed=1), rand(B, 3, *SIZE, seed=2)
    flow = made(False)
    expected = flow.encode(x, y).latents[-1] - F.pixel_unshuffle(mean, 4)
    torch.testing.assert_close(flow.encode(x, y, mean=mean).latents[-1], expected)
    with pytest.raises(ValueError, match="2 levels without splits"):
        made(True).encode(x, y, mean=mean)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 8, 16), (1, 192, 1, 2)])
def test_a_mean_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected a prior mean \(b, c, H, W\)"):
        latent_mean(torch.zeros(shape), (192, 1, 2), 3)
