import pytest
import torch

from robustflow.evaluation.sampling import draw_samples, latent_generator

LR = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sample(make_options, make_model):
    """Draw samples of one model at temperature 0.9."""
    model = make_model(make_options())

    def draw(name="image", n=3, seed=0, batch=10, heats=(0.9,), lr=LR):
        drawn = dict(draw_samples(model, lr, name=name, heats=heats, n=n, seed=seed, batch=batch))
        return drawn[0.9]

    return draw


class Recorder:
    """A model whose samples are its generators' first numbers."""

    def __init__(self):
        self.prepared = 0
        self.calls = []

    def prepare(self, lr, tile, overlap):
        self.prepared += 1
        self.tiles = (tile, overlap)

        def draw(temperature, generators):
            first = torch.stack([torch.randn(1, generator=generator) for generator in generators])
            self.calls.append((temperature, len(generators)))
            return first.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)

        return draw


def assert_same(samples, others):
    torch.testing.assert_close(samples, others, rtol=0, atol=1e-5)


def test_samples_do_not_depend_on_their_number(sample):
    assert sample(n=5).shape == (5, 3, 16, 20)
    assert_same(sample(n=5)[:2], sample(n=2))


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_samples_do_not_depend_on_their_batch(sample, batch):
    assert_same(sample(n=3, batch=batch), sample(n=3))


def test_samples_do_not_depend_on_the_images_before(sample):
    before = sample()
    sample(name="other", lr=LR.flip(-1))
    torch.rand(7)
    assert torch.equal(sample(), before)


def test_samples_differ_by_index_name_and_seed(sample):
    first, second = sample(n=2)
    for other in (second, sample(name="other")[0], sample(seed=1)[0]):
        assert (first - other).abs().max() > 0.1


def test_generators_follow_seed_name_and_index():
    drawn = {
        tuple(torch.randn(4, generator=latent_generator(*key)).tolist())
        for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a1", 0), (0, "", 0)]
    }
    assert len(drawn) == 6
    again = [torch.randn(4, generator=latent_generator(0, "a", 0)) for _ in range(2)]
    assert torch.equal(*again)


def test_all_temperatures_share_latents_and_the_work_on_the_condition():
    recorder = Recorder()
    drawn = dict(draw_samples(recorder, LR, name="image", heats=(0.9, 0.3), n=3, seed=0, batch=2))
    assert torch.equal(drawn[0.9], drawn[0.3])
    assert recorder.prepared == 1
    assert recorder.calls == [(0.9, 2), (0.9, 1), (0.3, 2), (0.3, 1)]
    expected = [torch.randn(1, generator=latent_generator(0, "image", k)).item() for k in range(3)]
    assert drawn[0.9][:, 0, 0, 0].tolist() == expected


def test_samples_at_a_temperature_do_not_depend_on_the_others(sample):
    assert torch.equal(sample(heats=(0.0, 0.9)), sample(heats=(0.9,)))


@pytest.mark.parametrize("tiles", [{}, {"tile": 8}, {"tile": 8, "overlap": 0}], ids=str)
def test_tiles_are_the_models_business(tiles):
    recorder = Recorder()
    list(draw_samples(recorder, LR, name="image", heats=(0.9,), n=1, seed=0, batch=1, **tiles))
    assert recorder.tiles == (tiles.get("tile"), tiles.get("overlap"))


def test_samples_carry_no_gradient(sample):
    assert not sample().requires_grad
