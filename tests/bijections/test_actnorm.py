import pytest
import torch

from robustflow.bijections.actnorm import ActNorm


def batch(seed=0, mean=3.0, std=2.0):
    return mean + std * torch.randn(4, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def actnorm():
    return ActNorm(3).double().train()


@pytest.mark.parametrize("shape", [(60, 3), (4, 3, 15), (4, 3, 5, 6)])
def test_first_training_batch_gets_mean_0_and_variance_1(actnorm, shape):
    x = 3 + 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, _ = actnorm(x)
    values = z.transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(values.var(1, unbiased=False), torch.ones(3).double(), rtol=0, atol=2e-6)
    assert actnorm.initialized


def test_initialisation_follows_its_equation(actnorm):
    x = batch()
    actnorm(x)
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3), unbiased=False)
    torch.testing.assert_close(actnorm.bias.data, -mean)
    torch.testing.assert_close(actnorm.logs.data, -torch.log(std + 1e-6))


def test_later_batches_change_nothing(actnorm):
    actnorm(batch())
    before = actnorm.bias.clone()
    actnorm(batch(seed=1, mean=-5))
    assert torch.equal(actnorm.bias, before)


def test_only_training_mode_initialises(actnorm):
    x = batch()
    assert torch.equal(actnorm.eval()(x)[0], x)
    assert not actnorm.initialized
    actnorm.train()(x)
    assert actnorm.initialized


def test_constant_channel_stays_finite(actnorm):
    z, log_det = actnorm(torch.ones(2, 3, 4, 4, dtype=torch.float64))
    assert z.isfinite().all()
    assert log_det.isfinite().all()


def test_loaded_weights_are_not_initialised_again(actnorm):
    actnorm(batch())
    other = ActNorm(3).double().train()
    other.load_state_dict(actnorm.state_dict())
    other(batch(seed=1, mean=-5))
    assert torch.equal(other.bias, actnorm.bias)


def test_weights_loaded_into_a_used_layer_decide_whether_it_is_initialised(actnorm):
    fresh = actnorm.state_dict()
    fresh = {name: value.clone() for name, value in fresh.items()}
    actnorm(batch())
    actnorm.load_state_dict(fresh)
    actnorm(batch(seed=1, mean=-5))
    torch.testing.assert_close(actnorm.bias.data, -batch(seed=1, mean=-5).mean((0, 2, 3)))


def test_initialisation_leaves_gradients_to_the_parameters(actnorm):
    z, log_det = actnorm(batch())
    (z.sum() + log_det.sum()).backward()
    assert actnorm.bias.grad.abs().max() > 0
    assert actnorm.logs.grad.abs().max() > 0
