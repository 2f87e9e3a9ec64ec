import math

import pytest
import torch
import torch.nn.functional as F

from robustflow import models
from robustflow.bijections.analytic import AnalyticElementwise
from robustflow.data.bicubic import downsample
from robustflow.models import NCSR, RRDB, FlowModel, SRFlow
from robustflow.options.load import load

COUPLINGS = ["affine", {"type": "affine", "eps": 0.1}, "rq_spline"]
SILENT = [
    {"type": "SRFlow", "noise_std": 0.0},
    {"type": "NCSR", "noise_max": 0.0},
    {"type": "FS-NCSR", "noise_max": 0.0},
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Inputs of the flow


def test_srflow_adds_noise_to_the_hr_image_alone(make_options, images):
    gt, lr = images
    inputs = models.build(make_options("SRFlow", S=(0,))).inputs(gt, lr, generator())
    noise = inputs.x - gt
    assert inputs.noise is None
    assert torch.equal(inputs.condition, lr)
    # 6144 draws: the standard error of their std is 0.9 %, that of their mean 1.3 % of the std.
    assert noise.std().item() * 255 == pytest.approx(4 / math.sqrt(3), rel=0.04)
    assert noise.mean().abs() < 0.06 * noise.std()


@pytest.mark.parametrize("model", ["SRFlow", "NCSR", "FS-NCSR"])
def test_skipped_noise_is_drawn_alone(make_options, images, monkeypatch, model):
    built = models.build(make_options(model, S=(0,) if model == "SRFlow" else (0, 1)))
    drawn, skipped, by_default = (generator() for _ in range(3))
    built.inputs(*(image.repeat(2, 1, 1, 1)[:3] for image in images), drawn)
    FlowModel.skip_noise(built, *images, by_default, 3)
    monkeypatch.setattr(built, "inputs", None)
    built.skip_noise(*images, skipped, 3)
    assert torch.equal(skipped.get_state(), drawn.get_state())
    assert torch.equal(by_default.get_state(), drawn.get_state())


def test_ncsr_adds_the_same_noise_to_both_images(make_options, images):
    gt, lr = images
    inputs = models.build(make_options("NCSR")).inputs(gt, lr, generator())
    assert inputs.noise.std() > 0
    torch.testing.assert_close(inputs.x, gt + inputs.noise, rtol=0, atol=0)
    torch.testing.assert_close(inputs.condition, lr + downsample(inputs.noise, 4), rtol=0, atol=1e-15)


def test_fs_ncsr_subtracts_the_upsampled_clean_lr_image(make_options, images):
    gt, lr = images
    inputs = models.build(make_options("FS-NCSR")).inputs(gt, lr, generator())
    base = F.interpolate(lr, size=(32, 32), mode="bicubic", align_corners=False)
    assert inputs.noise.std() > 0
    torch.testing.assert_close(inputs.x, gt - base + inputs.noise, rtol=0, atol=1e-15)
    torch.testing.assert_close(inputs.condition, lr + downsample(inputs.noise, 4), rtol=0, atol=1e-15)


@pytest.mark.parametrize("model", ["SRFlow", "NCSR", "FS-NCSR"])
def test_noise_comes_from_the_generator_alone(make_options, images, model):
    built = models.build(make_options(model, S=(0,) if model == "SRFlow" else (1,)))
    first, again, other = (built.inputs(*images, generator(seed)).x for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("pieces", [(2, 2), (1, 1, 1, 1), (3, 1)], ids=str)
@pytest.mark.parametrize("model", ["SRFlow", "FS-NCSR"])
def test_pieces_of_a_batch_get_the_noise_of_the_whole(make_options, model, pieces):
    built = models.build(make_options(model, scale=2, S=(0,) if model == "SRFlow" else (1,)))
    # Fewer than 16 numbers are drawn in another way than more.
    for side in (2, 16):
        gt, lr, shared = torch.zeros(4, 3, side, side), torch.zeros(4, 3, side // 2, side // 2), generator()
        whole = built.inputs(gt, lr, generator()).x
        parts = [built.inputs(*piece, shared).x for piece in zip(gt.split(pieces), lr.split(pieces), strict=True)]
        assert whole.abs().min() > 0
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("model", ["NCSR", "FS-NCSR"])
@pytest.mark.parametrize(("scale", "expected"), [(2, 0.05), (4, 0.05), (8, 0.03), (16, 0.03)])
def test_largest_noise_level_by_scale(make_options, model, scale, expected):
    assert models.build(make_options(model, scale=scale, L=3, S=(1,))).largest_noise == expected


def test_zero_is_a_noise_level(make_options, images):
    model = models.build(make_options({"type": "NCSR", "noise_max": 0.0}))
    assert torch.equal(model.inputs(*images, generator()).x, images[0])


def test_each_image_has_a_noise_level_of_its_own(make_options):
    model, images = models.build(make_options("NCSR")), torch.zeros(400, 3, 16, 16)
    noise = model.inputs(images, torch.zeros(400, 3, 4, 4), generator()).noise
    levels = noise.flatten(1).std(1) / 0.05
    # c ~ U(0, 1): mean 1/2, std 1/sqrt(12) = 0.289; standard errors 0.014 and 0.006.
    assert levels.max() < 1.1
    assert levels.mean().item() == pytest.approx(0.5, abs=0.05)
    assert levels.std().item() == pytest.approx(0.289, abs=0.03)


def test_srflow_refuses_noise_couplings(make_options):
    options = make_options("SRFlow", S=(0, 1))
    assert [key for key, _ in options.contradictions(options)] == ["network_G.flow.S"]
    options = make_options("NCSR", S=(0, 1))
    assert not list(options.contradictions(options))


# From image to latents and back


@pytest.mark.parametrize("coupling", COUPLINGS, ids=["affine", "bounded", "rq_spline"])
@pytest.mark.parametrize("model", SILENT, ids=lambda model: model["type"])
def test_latents_of_an_image_decode_to_it(make_model, images, model, coupling):
    gt, lr = images
    model = make_model(model, coupling=coupling, S=(0,) if model["type"] == "SRFlow" else (0, 1))
    model.network.double()
    inputs = model.inputs(gt, lr, generator())
    with torch.no_grad():
        latents = model.network.encode(inputs.x, inputs.condition, inputs.noise).latents
        x, _ = model.network.decode(latents, inputs.condition, inputs.noise)
    torch.testing.assert_close(model.image(x, lr), gt, rtol=0, atol=1e-10)


def test_samples_of_a_batch_get_the_base_of_their_own_image(make_options, images):
    _, lr = images
    model = models.build(make_options("FS-NCSR"))
    samples = model.image(torch.zeros(3 * 2, 3, 32, 32, dtype=lr.dtype), lr)
    for sample in range(3):
        for image in range(2):
            alone = model.image(torch.zeros(1, 3, 32, 32, dtype=lr.dtype), lr[image : image + 1])[0]
            assert torch.equal(samples[2 * sample + image], alone)


def test_loss_is_the_mean_of_bits_per_dimension(make_model, images):
    gt, lr = images
    model = make_model("NCSR")
    model.network.double()
    inputs = model.inputs(gt, lr, generator())
    with torch.no_grad():
        log_prob = model.network.encode(inputs.x, inputs.condition, inputs.noise).log_prob
        bits = model.likelihood(gt, lr, generator()).bits_per_dim
        loss = model.loss(gt, lr, generator())
    torch.testing.assert_close(bits, -log_prob / (math.log(2) * 3 * 32 * 32))
    torch.testing.assert_close(loss, bits.mean())


# Sampling


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (33, 17), (40, 40), (129, 64)], ids=str)
@pytest.mark.parametrize("L", [2, 3])
@torch.no_grad()
def test_samples_have_exactly_scale_times_the_size(make_model, L, size):
    model = make_model(L=L, S=(1,))
    sample = model.prepare(torch.rand(1, 3, *size, generator=generator()))(0.9, [generator()])
    assert sample.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert sample.isfinite().all()


@pytest.mark.parametrize("model", SILENT, ids=lambda model: model["type"])
def test_sixteen_times_the_size(make_model, model):
    """Levels read the 8, 4 and 2 times upsampled features and the LR-sized ones; no padding at any LR size."""
    model = make_model(model, scale=16, L=4, coupling="soft_affine", split={"enable": True, "max_log_scale": 2})
    lr = torch.rand(1, 3, 3, 5, generator=generator())
    gt = torch.rand(1, 3, 48, 80, generator=generator(1))
    assert model.encoder(model.encoder_input(lr)).factors == (8, 4, 2, 1)
    loss = model.loss(gt, lr, generator())
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model.decode(model.encode(gt, lr), lr), gt, rtol=0, atol=1e-4)
        sample = model.prepare(lr)(0.8, [generator(), generator(1)])
    assert sample.shape == (2, 3, 48, 80)
    assert sample.isfinite().all()


def test_published_sizes_at_sixteen_times():
    with torch.device("meta"):
        networks = {kind: kind(scale=16, nb=1).network for kind in (SRFlow, NCSR)}
    for network in networks.values():
        assert [len(level.steps) for level in network.levels] == [16] * 4
        assert len(network.encoder.up_convs) == 3


@torch.no_grad()
def test_odd_sizes_are_padded_by_mirroring(make_model):
    model = make_model(L=3, S=(1,))
    lr = torch.rand(1, 3, 3, 1, generator=generator())
    mirrored = torch.cat([lr, lr[..., -1:, :]], dim=-2).expand(-1, -1, -1, 2)
    sample, whole = (model.prepare(image)(0.9, [generator()]) for image in (lr, mirrored))
    torch.testing.assert_close(sample, whole[..., :12, :4], rtol=0, atol=0)


@torch.no_grad()
def test_samples_do_not_depend_on_their_batch(make_model):
    model = make_model()
    draw = model.prepare(torch.rand(1, 3, 6, 5, generator=generator()))
    together = draw(0.9, [generator(seed) for seed in range(4)])
    apart = torch.cat([draw(0.9, [generator(seed)]) for seed in range(4)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 0.1


@torch.no_grad()
def test_temperature_scales_the_latents(make_model):
    model = make_model()
    draw = model.prepare(torch.rand(1, 3, 4, 4, generator=generator()))
    cold, other = draw(0.0, [generator(0)]), draw(0.0, [generator(1)])
    assert torch.equal(cold, other)
    assert (draw(0.9, [generator(0)]) - cold).std() > (draw(0.3, [generator(0)]) - cold).std() > 0


def test_counts_what_elementwise_maps_see(monkeypatch):
    seen = []
    original = AnalyticElementwise.forward
    monkeypatch.setattr(
        AnalyticElementwise, "forward", lambda self, x, params: seen.append(x.numel()) or original(self, x, params)
    )
    model = models.build(load("confs/demo.yml")).eval()
    gt, lr = torch.rand(2, 3, 32, 32, generator=generator()), torch.rand(2, 3, 8, 8, generator=generator())
    model.network.encode(gt, model.network.condition(lr))
    assert model.mapped_elements(2 * 32 * 32) == sum(seen)
    assert RRDB(nf=4, nb=1, gc=4).mapped_elements(10) == 0
