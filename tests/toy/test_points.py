import math

import pytest
import torch

from robustflow.toy.points import AREA, M, Observation, draw_points, exact_bits_per_dim, posterior

NOISY = Observation.from_name("noisy", 0.5)


def points(n=200_000):
    return draw_points(n, torch.Generator().manual_seed(0))


def test_points_fill_the_parallelogram():
    u = points() @ torch.linalg.inv(torch.tensor(M)).T
    assert u.abs().max() <= 1 + 1e-5
    assert torch.allclose(u.var(0), torch.full((2,), 1 / 3), atol=5e-3)
    assert pytest.approx(0.2) == AREA


def test_training_inputs_of_each_condition():
    x, generator = points(1000), torch.Generator().manual_seed(0)
    for name in ("noisy", "independent", "constant"):
        y = Observation.from_name(name, 0.5).draw(x, None, generator)
        assert (y == 0).all() == (name == "constant")
        correlation = torch.corrcoef(torch.stack([x[:, 0], y[:, 0]]))[0, 1]
        assert name == "constant" or (correlation > 0.5) == (name == "noisy")
        assert (Observation.from_name(name, 0.5).draw(x, 3.0, generator)[:, 1] == 3).all()


@pytest.mark.parametrize(("y1", "sigma"), [(0.1, 0.05), (-0.3, 0.2), (2.0, 1.0)])
def test_posterior_is_what_importance_sampling_gives(y1, sigma):
    x = points(1_000_000).double()
    weight = torch.softmax(-0.5 * ((y1 - x[:, 0]) / sigma) ** 2, dim=0)
    mean = weight @ x
    exact_mean, exact_var, log_evidence = posterior(torch.tensor([[y1, sigma]]), NOISY)
    assert torch.allclose(exact_mean[0], mean, atol=2e-3)
    assert torch.allclose(exact_var[0], weight @ (x - mean) ** 2, atol=1e-3)
    evidence = torch.exp(-0.5 * ((y1 - x[:, 0]) / sigma) ** 2).mean().log()
    assert log_evidence.item() == pytest.approx(evidence.item(), abs=0.01)


def test_without_information_the_answer_is_the_whole_parallelogram():
    x = points(1000)
    bits = math.log2(AREA) / 2
    for condition, sigma in ((NOISY, 1e4), (Observation.from_name("constant", 0.5), 1.0)):
        y = condition.draw(x, sigma, torch.Generator().manual_seed(0))
        mean, var, _ = posterior(y, condition)
        assert torch.allclose(var.sqrt(), torch.tensor([0.2566, 0.1756], dtype=torch.float64), atol=1e-3)
        assert mean.abs().max() < 1e-3
        assert exact_bits_per_dim(x, y, condition) == pytest.approx(bits, abs=1e-3)
    assert bits == pytest.approx(-1.161, abs=1e-3)
    assert exact_bits_per_dim(x, NOISY.draw(x, 0.1, torch.Generator().manual_seed(0)), NOISY) < bits - 0.3
