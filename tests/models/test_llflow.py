import math

import pytest
import tiny
import torch
import torch.nn.functional as F

from robustflow import models
from robustflow.data.bicubic import mirror_pad
from robustflow.models.low_light import equalize


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def options(model="LLFlow", *, scale=1, encoder="low_light", protocol=None, **flow):
    val = {"protocol": protocol or ("llflow" if scale == 1 else "robustness")}
    flow = {"L": 3, "split": {"enable": False}, **flow}
    return tiny.options(model, scale=scale, encoder=encoder, val=val, **flow)


def make(kind="LLFlow", **changed):
    return tiny.built(options(kind, **changed), 0.05)


@pytest.fixture
def low():
    return 0.2 * torch.rand(2, 3, 16, 24, generator=generator())


@pytest.fixture
def gt():
    return torch.rand(2, 3, 16, 24, generator=generator(1))


# The input


def test_conditions_are_the_image_and_its_equalised_version(low):
    model = models.build(options())
    condition = model.condition_of(low)
    assert torch.equal(condition, torch.cat([low, equalize(low)], 1))
    assert model.condition_of(condition) is condition
    eight_bits = (255 * low[0]).to(torch.uint8)
    assert torch.equal(model.condition_of(eight_bits), torch.cat([eight_bits, equalize(eight_bits)]))


def test_the_encoder_reads_logarithm_and_equalised_image(low):
    model = models.build(options())
    low[0, 0, 0, 0] = -1
    condition = model.condition_of(low)
    found = model.encoder_input(condition)
    torch.testing.assert_close(found[:, :3], torch.log(torch.clamp(low + 1e-3, min=1e-3)))
    assert torch.equal(found[:, 3:], equalize(low))
    assert torch.equal(model.encoder_input(condition[..., 4:9, 2:7]), found[..., 4:9, 2:7])


def test_other_tasks_leave_images_as_they_are(low):
    model = models.build(options("SRFlow", scale=4, encoder="RRDB"))
    assert model.condition_of(low) is low
    assert model.encoder_input(low) is low


def test_crops_without_their_image_equalised_as_a_whole_are_refused(low, gt):
    model = make()
    for compute in (model.loss_inputs, model.likelihood):
        with pytest.raises(ValueError, match=r"LLFlow\.condition_of makes it of whole images, got \(2, 3, 16, 24\)"):
            compute(gt, low, generator())


# Likelihood and loss


@pytest.mark.parametrize(
    "coupling",
    ["affine", {"type": "affine", "eps": 0.1}, "rq_spline", "exp_affine", "inverse_affine", "soft_affine"],
    ids=str,
)
@torch.no_grad()
def test_likelihood_is_under_the_mean_of_the_encoder(low, gt, coupling):
    model = make({"type": "LLFlow", "train_gt_ratio": 1.0}, coupling=coupling)
    low = model.condition_of(low)
    encoding = model.network.encode(gt, model.encoder_input(low))
    found = model.likelihood(gt, low, generator())
    torch.testing.assert_close(found.bits_per_dim, -encoding.log_prob / (math.log(2) * gt[0].numel()))
    assert [tuple(z.shape) for z in found.latents] == [(2, 192, 2, 3)]


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@torch.no_grad()
def test_training_takes_the_mean_of_the_normal_light_image_as_often_as_asked(low, gt, ratio):
    model = make({"type": "LLFlow", "train_gt_ratio": ratio})
    low = model.condition_of(low)
    mean = gt / (gt.sum(1, keepdim=True) + 1e-4) if ratio == 1 else None
    log_prob = model.network.encode(gt, model.encoder_input(low), mean=mean).log_prob
    expected = (-log_prob / (math.log(2) * gt[0].numel())).mean()
    torch.testing.assert_close(model.loss(gt, low, generator()), expected)


@torch.no_grad()
def test_pieces_of_a_batch_share_the_choice_of_their_mean(low, gt):
    model = make()
    low, choices = model.condition_of(low), []
    for seed in range(200):
        own = generator(seed)
        choices.append(model._takes_mean_of_gt(own))
        assert model._takes_mean_of_gt(own) == choices[-1]
    # Standard error 0.028.
    assert sum(choices) / 200 == pytest.approx(0.2, abs=0.09)
    for seed in (choices.index(True), choices.index(False)):
        own = generator(seed)
        pieces = [model.loss(gt[k : k + 1], low[k : k + 1], own) for k in range(2)]
        torch.testing.assert_close(torch.stack(pieces).mean(), model.loss(gt, low, generator(seed)))


def test_every_parameter_learns(low, gt):
    model = make({"type": "LLFlow", "train_gt_ratio": 0.0}, coupling="rq_spline")
    model.loss(gt, model.condition_of(low), generator()).backward()
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("computation", [{"checkpointing": "step"}, {"checkpointing": "level"}], ids=str)
def test_checkpointing_changes_no_gradient(low, gt, computation):
    model = make()
    other = models.build(options(), **computation).eval()
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        each.double().loss(gt.double(), model.condition_of(low.double()), generator()).backward()
    found, expected = ([parameter.grad for parameter in each.parameters()] for each in (other, model))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


# Sampling


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (400, 600), (101, 333)], ids=str)
@torch.no_grad()
def test_samples_have_the_size_of_the_image(size):
    model = make()
    sample = model.prepare(0.1 * torch.rand(1, 3, *size, generator=generator()))(0.9, [generator()])
    assert sample.shape == (1, 3, *size)
    assert sample.isfinite().all()


@torch.no_grad()
def test_whole_images_are_equalised_before_they_are_padded(low):
    model = make()
    whole = low[:1, :, :13, :21]
    condition = model.condition_of(whole)
    samples = [model.prepare(image)(0.8, [generator()]) for image in (whole, condition)]
    assert torch.equal(*samples)
    padded = model.encoder_input(mirror_pad(condition, 0, 3, 0, 3))
    (latent,) = model.network.draw_latents((16, 24), generator())
    x, _ = model.network.decode([0.8 * latent], padded)
    torch.testing.assert_close(samples[0], x[..., :13, :21])


@torch.no_grad()
def test_temperature_0_is_the_prior_mean_decoded(low):
    model = make()
    draw = model.prepare(low[:1])
    cold, other = draw(0.0, [generator(0)]), draw(0.0, [generator(1)])
    assert torch.equal(cold, other)
    mean = model.network.encoder(model.encoder_input(model.condition_of(low[:1]))).mean
    zero = model.network.condition(model.encoder_input(model.condition_of(low[:1])))
    torch.testing.assert_close(zero.mean, F.pixel_unshuffle(mean, 8))
    torch.testing.assert_close(model.network.decode([torch.zeros_like(zero.mean)], zero)[0], cold)
    assert (draw(0.9, [generator(0)]) - cold).std() > 0


@torch.no_grad()
def test_samples_do_not_depend_on_their_batch(low):
    model = make()
    draw = model.double().prepare(low[:1].double())
    together = draw(0.9, [generator(seed) for seed in range(3)])
    apart = torch.cat([draw(0.9, [generator(seed)]) for seed in range(3)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-10)


@torch.no_grad()
def test_tiles_change_nothing():
    model = make(L=2)
    model.double()
    low = 0.1 * torch.rand(1, 3, 44, 410, generator=generator(), dtype=torch.float64)
    whole = model.prepare(low)(0.9, [generator()])
    tiled = model.prepare(low, tile=40)(0.9, [generator()])
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-9)
    seams = model.prepare(low, tile=40, overlap=0)(0.9, [generator()])
    assert (seams - whole).abs().max() > 1e-6


# Options


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"scale": 4}, "scale"),
        ({"protocol": "robustness"}, "val.protocol"),
        ({"model": "SRFlow", "scale": 4, "protocol": "llflow"}, "val.protocol"),
        ({"encoder": "RRDB"}, "network_G.encoder"),
        ({"S": 1}, "network_G.flow.S"),
        ({"split": {"enable": True}}, "network_G.flow.split.enable"),
        ({"model": "SRFlow"}, "scale"),
        ({"model": "NCSR", "S": 1, "encoder": "RRDB"}, "scale"),
        ({"model": "RRDB", "encoder": "RRDB"}, "scale"),
        ({"model": "SRFlow", "scale": 4}, "network_G.encoder"),
    ],
    ids=str,
)
def test_options_that_cannot_go_together(changed, key):
    run = options(**changed)
    assert key in [found for found, _ in run.contradictions(run)]


def test_options_that_go_together():
    for run in (options(), options("SRFlow", scale=2, encoder="RRDB"), options(coupling="rq_spline", L=2)):
        assert not list(run.contradictions(run))
