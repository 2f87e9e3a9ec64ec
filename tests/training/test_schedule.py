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
