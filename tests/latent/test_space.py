import math

import pytest
import torch
from scipy import stats

from robustflow.data.bicubic import downsample
from robustflow.latent.space import LatentSpace, normalise, slerp

N = 10_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def photograph(height, width, seed=0):
    """A smooth image (1, 3, height, width) in [0, 1]."""
    coarse = torch.rand(1, 3, 4, 4, generator=generator(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def latents(seed, shape=(1, 100, 10, 10)):
    """Wrong mean and variance."""
    return 3 + 5 * torch.randn(shape, generator=generator(1000 + seed))


def p_values(means, variances, n, tau):
    """Kolmogorov–Smirnov: means ~ N(0, τ/n), variances ~ Γ((n − 1)/2, 2τ/(n − 1))."""
    of_mean = stats.kstest(means, stats.norm(0, math.sqrt(tau / n)).cdf).pvalue
    return of_mean, stats.kstest(variances, stats.gamma((n - 1) / 2, scale=2 * tau / (n - 1)).cdf).pvalue


@pytest.mark.parametrize("tau", [1.0, 0.64])
def test_global_normalisation_of_wrong_latents_gives_the_stated_distributions(tau):
    found = [normalise([latents(seed)], ["global"], tau, generator(seed))[0].double() for seed in range(1000)]
    means, variances = [z.mean().item() for z in found], [z.var().item() for z in found]
    assert min(p_values(means, variances, N, tau)) > 0.01
    # Wrong latents do not pass.
    assert max(p_values([m + 0.01 for m in means], [1.02 * v for v in variances], N, tau)) < 0.01


@pytest.mark.parametrize(("collection", "within", "n"), [("local", (1,), 100), ("spatial", (2, 3), 100)])
def test_local_and_spatial_normalisation(collection, within, n):
    found = torch.cat([normalise([latents(s)], [collection], 0.81, generator(s))[0].double() for s in range(5)])
    means, variances = found.mean(within).flatten(), found.var(within).flatten()
    assert min(p_values(means.numpy(), variances.numpy(), n, 0.81)) > 0.01


def test_shapes_and_signs_of_latents_stay():
    z = latents(0)
    (found,) = normalise([z], ["global"], 1.0, generator())
    assert torch.corrcoef(torch.stack([z.flatten(), found.flatten()]).double())[0, 1] > 1 - 1e-9


@pytest.mark.parametrize("collection", ["global", "local", "spatial"])
def test_latents_outside_a_mask_stay_to_the_bit(collection):
    z = [latents(0, (2, 6, 8, 8)), latents(1, (2, 24, 4, 4))]
    masks = [torch.rand(1, 1, 8, 8, generator=generator(3)) < 0.3, torch.rand(1, 1, 4, 4, generator=generator(4)) < 0.5]
    found = normalise(z, [collection], 1.0, generator(5), masks)
    for before, after, mask in zip(z, found, masks, strict=True):
        outside = ~mask.expand_as(before)
        assert torch.equal(before[outside], after[outside])
        assert not torch.equal(before, after)


def test_only_masked_latents_are_counted():
    z = latents(0, (1, 400, 10, 10))
    mask = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    mask[..., :5, :5] = True
    z[~mask.expand_as(z)] = 1e6
    (found,) = normalise([z], ["spatial"], 1.0, generator(), [mask])
    inside = found[..., :5, :5].double()
    assert min(p_values(inside.mean((2, 3)).flatten().numpy(), inside.var((2, 3)).flatten().numpy(), 25, 1.0)) > 0.01


def test_an_empty_mask_changes_nothing_and_one_latent_is_drawn_anew():
    z, empty = latents(0, (1, 4, 3, 3)), torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    assert torch.equal(normalise([z], ["spatial", "local"], 1.0, generator(), [empty])[0], z)
    empty[..., 1, 1] = True
    (found,) = normalise([z], ["spatial"], 0.25, generator(), [empty])
    assert torch.equal(found[..., 1, 1], 0.5 * torch.randn(z.shape, generator=generator())[..., 1, 1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_its_collection_alone(bad):
    z = [latents(0, (1, 4, 3, 3))]
    z[0][0, 1, 2, 2] = bad
    (found,) = normalise(z, ["spatial"], 1.0, generator())
    assert found[:, 1].isnan().all() and found[:, [0, 2, 3]].isfinite().all()
    inside = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    inside[..., 2, 2] = False
    (found,) = normalise(z, ["spatial"], 1.0, generator(), [inside])
    z[0][0, 1, 2, 2] = 0
    (expected,) = normalise(z, ["spatial"], 1.0, generator(), [inside])
    assert torch.equal(found[inside.expand_as(found)], expected[inside.expand_as(found)])


def test_latents_that_do_not_vary_are_drawn_anew():
    (found,) = normalise([torch.full((1, 10, 10, 10), 0.1)], ["global"], 1.0, generator())
    assert torch.equal(found, torch.randn(1, 10, 10, 10, generator=generator()))


def test_generators_decide_alone():
    z = [latents(0, (1, 6, 4, 4)), latents(1, (1, 12, 2, 2))]
    same, again, other = (normalise(z, ["spatial", "local"], 0.5, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in zip(same, again, other, strict=True))


@pytest.mark.parametrize("model", ["SRFlow", "NCSR", "FS-NCSR"])
@pytest.mark.parametrize("size", [(32, 48), (13, 30), (5, 3)])
@pytest.mark.parametrize("coupling", ["affine", "rq_spline"])
def test_images_come_back_from_their_latents(make_model, model, size, coupling):
    model = make_model(model, coupling=coupling)
    image = photograph(*size)
    space = LatentSpace(model, downsample(image, 4), size)
    back = space.decode(space.encode(image))
    assert back.shape == image.shape
    torch.testing.assert_close(back, image, atol=1e-5, rtol=0)


def test_draws_are_those_of_the_task(make_model):
    model = make_model(L=3)
    lr = photograph(7, 9)
    space = LatentSpace(model, lr)
    with torch.no_grad():
        expected = model.prepare(lr)(0.7, [generator(k) for k in range(2)])
    found = space.decode(space.draw(0.7, [generator(k) for k in range(2)]))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_log_probability_is_that_of_training_without_noise(make_model):
    model = make_model("SRFlow")
    model.noise_std = 0.0
    image = photograph(16, 16)
    space = LatentSpace(model, downsample(image, 4))
    expected = model.likelihood(image, downsample(image, 4), generator()).bits_per_dim
    found = -space.encoding(image).log_prob / (math.log(2) * space.dimensions)
    torch.testing.assert_close(found, expected.detach())


def test_masks_cover_the_blocks_that_hold_a_masked_pixel(make_model):
    model = make_model(L=3)
    space = LatentSpace(model, photograph(5, 8), (18, 30))
    mask = torch.zeros(18, 30, dtype=torch.bool)
    mask[9, 7] = True
    # Padded to 24 × 32: latents at 1/2, 1/4 and 1/8.
    places = [m.nonzero().tolist() for m in space.masks(mask)]
    assert [tuple(m.shape) for m in space.masks(mask)] == [(1, 1, 12, 16), (1, 1, 6, 8), (1, 1, 3, 4)]
    assert places == [[[0, 0, 4, 3]], [[0, 0, 2, 1]], [[0, 0, 1, 0]]]


def test_masks_of_everything_cover_mirrored_parts(make_model):
    model = make_model(L=3)
    space = LatentSpace(model, photograph(5, 8), (18, 30))
    assert all(mask.all() for mask in space.masks(torch.ones(18, 30, dtype=torch.bool)))


def test_low_light_is_encoded_as_in_training(make_model):
    model = make_model("LLFlow", L=3)
    low, image = 0.2 * photograph(16, 24), photograph(16, 24, 1)
    space = LatentSpace(model, low)
    expected = model.likelihood(image, model.condition_of(low), generator())
    found = -space.encoding(image).log_prob / (math.log(2) * space.dimensions)
    torch.testing.assert_close(found, expected.bits_per_dim.detach())
    torch.testing.assert_close(space.decode(space.encode(image)), image, atol=1e-5, rtol=0)


def test_levels_are_those_that_have_latents(make_model):
    for splits, levels in ((True, [1, 2, 3]), (False, [3])):
        model = make_model(L=3, splits=splits)
        assert LatentSpace(model, photograph(5, 8)).levels == levels


def test_other_sizes_are_refused(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="expected images of 4 times"):
        LatentSpace(model, photograph(8, 8), (36, 32))
    with pytest.raises(ValueError, match="expected \\(height, width\\)"):
        LatentSpace(model, photograph(8, 8)).encode(photograph(32, 30))


def test_spherical_interpolation_keeps_lengths_and_ends():
    a, b = ([torch.randn(2, 50, 8, 8, generator=generator(seed))] for seed in (0, 1))
    assert torch.equal(slerp(a, b, 0.0)[0], a[0])
    assert torch.equal(slerp(a, b, 1.0)[0], b[0])
    (middle,) = slerp(a, b, 0.5)
    assert abs(middle.std().item() - 1) < 0.02
    torch.testing.assert_close(slerp(a, a, 0.3)[0], a[0])
    quarter = slerp(a, b, 0.25)[0].flatten(1)
    angles = [torch.nn.functional.cosine_similarity(z.flatten(1), quarter) for z in (a[0], middle)]
    torch.testing.assert_close(angles[0], angles[1], atol=5e-3, rtol=0)
