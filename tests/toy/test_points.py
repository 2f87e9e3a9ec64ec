import math

import pytest
import torch

from robustflow.options.toy import ToyDataOptions
from robustflow.toy.points import AREA, M, draw_points, exact_bits_per_dim, posterior
from robustflow.toy.run import draw_inputs


def inputs(x, sigma, name="noisy", seed=0):
    data = ToyDataOptions(condition=name, sigma_max=0.5)
    return draw_inputs(data, x, sigma, torch.Generator().manual_seed(seed))


def points(n=200_000):
    return draw_points(n, torch.Generator().manual_seed(0))


def test_points_fill_the_parallelogram():
    u = points() @ torch.linalg.inv(torch.tensor(M)).T
    assert u.abs().max() <= 1 + 1e-5
    assert torch.allclose(u.var(0), torch.full((2,), 1 / 3), atol=5e-3)
    assert pytest.approx(0.2) == AREA


def test_training_inputs_of_each_condition():
    x = points(1000)
    for name in ("noisy", "independent", "constant"):
        y = inputs(x, None, name, seed=1)
        assert (y == 0).all() == (name == "constant")
        correlation = torch.corrcoef(torch.stack([x[:, 0], y[:, 0]]))[0, 1]
        assert name == "constant" or (correlation > 0.5) == (name == "noisy")
        assert (inputs(x, 3.0, name)[:, 1] == 3).all()


@pytest.mark.parametrize(("y1", "sigma"), [(0.1, 0.05), (-0.3, 0.2), (2.0, 1.0)])
def test_posterior_is_what_importance_sampling_gives(y1, sigma):
    x = points(1_000_000).double()
    weight = torch.softmax(-0.5 * ((y1 - x[:, 0]) / sigma) ** 2, dim=0)
    mean = weight @ x
    exact_mean, exact_var, log_evidence = posterior(torch.tensor([[y1, sigma]]), True)
    assert torch.allclose(exact_mean[0], mean, atol=2e-3)
    assert torch.allclose(exact_var[0], weight @ (x - mean) ** 2, atol=1e-3)
    evidence = torch.exp(-0.5 * ((y1 - x[:, 0]) / sigma) ** 2).mean().log()
    assert log_evidence.item() == pytest.approx(evidence.item(), abs=0.01)


def test_without_information_the_answer_is_the_whole_parallelogram():
    x = points(1000)
    bits = math.log2(AREA) / 2
    for name, sigma in (("noisy", 1e4), ("constant", 1.0)):
        y, sees_x = inputs(x, sigma, name), name == "noisy"
        mean, var, _ = posterior(y, sees_x)
        assert torch.allclose(var.sqrt(), torch.tensor([0.2566, 0.1756], dtype=torch.float64), atol=1e-3)
        assert mean.abs().max() < 1e-3
        assert exact_bits_per_dim(x, y, sees_x) == pytest.approx(bits, abs=1e-3)
    assert bits == pytest.approx(-1.161, abs=1e-3)
    assert exact_bits_per_dim(x, inputs(x, 0.1), True) < bits - 0.3
