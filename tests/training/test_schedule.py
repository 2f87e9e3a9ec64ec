import math

import pytest
import torch

from robustflow.options.schema import TrainOptions
from robustflow.training import optimizer
from robustflow.training.optimizer import learning_rate


def test_rate_is_halved_after_each_fraction():
    options = TrainOptions(lr_G=1.0, niter=100)
    # 50, 75, 90, 95 % of the iterations are done before the rate falls.
    expected = {1: 1, 50: 1, 51: 1 / 2, 75: 1 / 2, 76: 1 / 4, 90: 1 / 4, 91: 1 / 8, 95: 1 / 8, 96: 1 / 16, 100: 1 / 16}
    assert {iteration: learning_rate(options, iteration) for iteration in expected} == expected


def test_warm_up_is_linear_and_reaches_the_rate():
    options = TrainOptions(lr_G=2.0, niter=100, warmup_iter=4)
    assert [learning_rate(options, iteration) for iteration in range(1, 7)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_warm_up_and_steps_multiply():
    options = TrainOptions(lr_G=1.0, niter=10, warmup_iter=8, lr_steps_rel=(0.3,), lr_gamma=0.1)
    assert learning_rate(options, 3) == pytest.approx(3 / 8)
    assert learning_rate(options, 4) == pytest.approx(4 / 8 * 0.1)


def test_no_steps():
    options = TrainOptions(lr_G=1.0, niter=10, lr_steps_rel=())
    assert learning_rate(options, 10) == 1


def test_adam_has_the_options_betas_and_rate():
    network = torch.nn.Linear(2, 2)
    adam = optimizer.build(network, TrainOptions(lr_G=0.1, beta1=0.5, beta2=0.6))
    optimizer.set_learning_rate(adam, 0.3)
    (group,) = adam.param_groups
    assert (group["lr"], group["betas"]) == (0.3, (0.5, 0.6))
    assert len(group["params"]) == 2


def basicsr(done, rate, periods, weights, least):
    """CosineAnnealingRestartLR of BasicSR, by its definition."""
    ends = [sum(periods[: k + 1]) for k in range(len(periods))]
    k = next(k for k, end in enumerate(ends) if done <= end)
    begun = 0 if k == 0 else ends[k - 1]
    return least + weights[k] * 0.5 * (rate - least) * (1 + math.cos(math.pi * (done - begun) / periods[k]))


def test_cosine_periods_are_those_of_basicsr():
    cosine = {"lr_scheme": "CosineAnnealingRestartLR", "eta_min": 0.01}
    options = TrainOptions(lr_G=2.0, niter=17, T_period=(4, 10, 5), restart_weights=(1.0, 0.5, 0.1), **cosine)
    expected = [basicsr(done, 2.0, (4, 10, 5), (1.0, 0.5, 0.1), 0.01) for done in range(17)]
    assert [learning_rate(options, done + 1) for done in range(17)] == pytest.approx(expected)
    assert (learning_rate(options, 1), learning_rate(options, 5)) == (2.0, pytest.approx(0.01))


def test_one_cosine_period_is_that_of_torch():
    options = TrainOptions(lr_G=2.0, niter=6, lr_scheme="CosineAnnealingRestartLR", eta_min=0.25)
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 6, 0.25)
    for iteration in range(1, 7):
        assert learning_rate(options, iteration) == pytest.approx(schedule.get_last_lr()[0])
        adam.step()
        schedule.step()


def test_warm_up_and_cosine_multiply():
    options = TrainOptions(lr_G=1.0, niter=8, lr_scheme="CosineAnnealingRestartLR", warmup_iter=4)
    assert learning_rate(options, 2) == pytest.approx(2 / 4 * basicsr(1, 1.0, (8,), (1,), 0))


COSINE = {"lr_scheme": "CosineAnnealingRestartLR", "lr_G": 1.0, "niter": 8}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**COSINE, "T_period": (4, 3)}, "train.T_period: expected periods of niter = 8 in all, got 7"),
        ({**COSINE, "restart_weights": (1.0, 1.0)}, "train.restart_weights: expected one for each of 1 periods"),
        ({**COSINE, "eta_min": 1.0}, "train.eta_min: expected less than lr_G = 1, got 1"),
        ({"T_period": (8,)}, "train.T_period: expected lr_scheme: CosineAnnealingRestartLR beside it"),
        ({"eta_min": 1e-7}, "train.eta_min: expected lr_scheme: CosineAnnealingRestartLR beside it"),
    ],
)
def test_periods_that_do_not_fit(given, message):
    (found,) = TrainOptions(**given).contradictions(None)
    assert ": ".join(found).startswith(message)


@pytest.mark.parametrize(("limit", "factor"), [(None, 1.0), (10.0, 1.0), (2.0, 0.4)])
def test_gradients_are_clipped_to_the_limit(limit, factor):
    network = torch.nn.Linear(2, 1)
    network.weight.grad, network.bias.requires_grad = torch.tensor([[3.0, -4.0]]), False
    adam = optimizer.build(network, TrainOptions())
    assert optimizer.clip(adam, limit) == 5
    torch.testing.assert_close(network.weight.grad, factor * torch.tensor([[3.0, -4.0]]))
    assert network.bias.grad is None
