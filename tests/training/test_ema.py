import shutil

import pytest
import tiny
import torch
from training_runs import assert_equal, assert_same_end, average_at, folder_of, saved_at, weights_at

from robustflow import data
from robustflow.evaluation.evaluator import Evaluator
from robustflow.models import weights
from robustflow.options.load import OptionsError, load
from robustflow.training import checkpoint, optimizer
from robustflow.training.loop import train
from robustflow.utils import checksums

EVERY = {"save_checkpoint_freq": 1}


LONGER = {"train": {"ema": 0.75, "niter": 8, "val_freq": 8}, "logger": EVERY}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Options of a run of eight iterations, each with a checkpoint."""
    options = tiny.training_options(tmp_path_factory.mktemp("whole"), **LONGER)
    assert train(options)
    return options


@pytest.fixture
def six(whole, make_options):
    """Options of a run that ended after the sixth of its iterations, in a folder of its own for each test."""
    options = make_options(**LONGER)
    shutil.copytree(folder_of(whole), folder_of(options))
    for later in ("00000007*", "00000008*"):
        for file in folder_of(options).rglob(later):
            file.unlink()
    return options


def test_the_average_is_that_of_the_weights_after_each_update(whole):
    options = whole
    expected = {name: tensor.double() for name, tensor in weights_at(options, 1).items()}
    assert_equal(average_at(options, 1), weights_at(options, 1))
    for iteration in range(2, 7):
        new = weights_at(options, iteration)
        expected = {name: 0.75 * tensor + 0.25 * new[name].double() for name, tensor in expected.items()}
    found = average_at(options, 6)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert any((tensor != weights_at(options, 6)[name]).any() for name, tensor in found.items())


def test_it_changes_nothing_of_the_weights(make_options):
    assert train(make_options("with", train={"ema": 0.9}))
    assert train(make_options("without"))
    assert_same_end(make_options("with"), make_options("without"))
    assert not checkpoint.ema_file(folder_of(make_options("without")), 6).exists()


def test_12_iterations_are_6_and_6(make_options, interrupt, validations, spoil):
    spoil(2, 6, 8)
    settings = {
        "train": {"niter": 12, "val_freq": 3, "ema": 0.9, "non_finite": "skip", "warmup_iter": 8},
        "logger": {"save_checkpoint_freq": 3},
    }
    assert train(make_options("whole", **settings))
    whole = validations.copy()
    assert [iteration for iteration, _ in whole] == [3, 6, 9, 12]
    for n_workers in (0, 2):
        validations.clear()
        interrupt(6)
        assert not train(make_options(f"parts_{n_workers}", n_workers=n_workers, **settings))
        interrupt(None)
        resumed = make_options(f"parts_{n_workers}", n_workers=n_workers, path={"resume_state": "auto"}, **settings)
        assert train(resumed)

        assert_same_end(make_options("whole"), resumed, 12)
        assert_equal(average_at(make_options("whole"), 12), average_at(resumed, 12))
        assert validations == whole
        first, second = (saved_at(options, 12) for options in (make_options("whole"), resumed))
        for key in ("iteration", "non_finite", "validated", "best"):
            assert first[key] == second[key], key
        assert first["non_finite"] == 3


def test_validation_and_tests_use_it(make_options, make_model, validations, caplog):
    options = make_options(train={"ema": 0.5, "val_freq": 6, "ood_patches": 10})
    assert train(options)
    file = weights.locate_for_test(options)
    assert file == checkpoint.ema_file(folder_of(options), 6)
    model = make_model(options)
    weights.load(file, model, options, encoder_suffices=False)
    items = data.build_evaluation(options.datasets["val"], options.scale)
    summary, _ = Evaluator(model.eval(), options.val, None).evaluate("val", items)
    assert validations[-1][1]["bits_per_dim"] == summary["bits_per_dim"]
    # Its own score, and none of the weights'.
    assert [score.name for score in (folder_of(options) / "models").glob("*.ood.*")] == [
        "00000006_G_ema.ood.safetensors"
    ]
    assert train(make_options("next", train={"niter": 1}, path={"pretrain_model_G": str(folder_of(options))}))
    assert f"loaded network from {file}" in caplog.text


def test_it_can_begin_and_end_when_a_run_is_resumed(make_options, interrupt, caplog):
    interrupt(2)
    assert not train(make_options())
    interrupt(4)
    assert not train(make_options(train={"ema": 0.5}, path={"resume_state": "auto"}))
    assert "not there; the moving average begins with the next update" in caplog.text
    assert average_at(make_options(), 4)
    interrupt(None)
    assert train(make_options(path={"resume_state": "auto"}))
    assert weights.newest(folder_of(make_options())) == checkpoint.weights_file(folder_of(make_options()), 6)


def test_it_has_not_begun_before_the_first_update(make_options, spoil):
    spoil(1)
    options = make_options(train={"ema": 0.5, "non_finite": "skip", "niter": 2, "val_freq": 1}, logger=EVERY)
    assert train(options)
    assert not checkpoint.ema_file(folder_of(options), 1).exists()
    assert_equal(average_at(options, 2), weights_at(options, 2))


@pytest.mark.parametrize("decay", [0, 1, -0.5])
def test_decay_is_between_0_and_1(tmp_path, decay):
    (tmp_path / "run.yml").write_text(f"name: x\nmodel: SRFlow\ntrain: {{ema: {decay}}}\n")
    with pytest.raises(OptionsError, match=r"train\.ema"):
        load(tmp_path / "run.yml")


def spoil_average(options, how):
    """Spoil the moving average of the last iteration: change a byte, cut it off, or remove it; with or without sums."""
    file = checkpoint.ema_file(folder_of(options), 6)
    if how == "removed":
        file.unlink()
        return file
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?" if how == "changed" else content[:100])
    if how == "cut off, without sums":
        checksums.place(folder_of(options), 6).unlink()
    return file


SPOILT = ["changed", "cut off", "cut off, without sums", "removed"]


@pytest.mark.parametrize("how", SPOILT)
def test_training_goes_on_without_a_damaged_average(make_options, whole, six, caplog, how):
    file = spoil_average(six, how)
    options = make_options(path={"resume_state": "auto"}, **LONGER)
    assert train(options)
    assert f"{file}: " in caplog.text and "; the moving average begins with the next update" in caplog.text
    assert "at iteration 6" in caplog.text
    assert_equal(average_at(options, 7), weights_at(options, 7))
    # Everything else is as it would have been.
    assert_same_end(whole, options, 8)


@pytest.mark.parametrize("how", ["changed", "cut off"])
def test_tests_take_the_weights_of_the_same_iteration_instead(six, caplog, how):
    file = spoil_average(six, how)
    assert weights.newest(folder_of(six)) == checkpoint.weights_file(folder_of(six), 6)
    assert f"{file}: damaged" in caplog.text
    checkpoint.weights_file(folder_of(six), 6).write_bytes(b"")
    assert weights.newest(folder_of(six)) == checkpoint.ema_file(folder_of(six), 5)


def test_a_file_given_to_resume_goes_on_without_its_average(six):
    spoil_average(six, "changed")
    state = checkpoint.state_file(folder_of(six), 6)
    assert checkpoint.find(folder_of(six), str(state)) == state


def test_buffers_are_those_of_the_network_also_when_it_has_replaced_them():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = optimizer.MovingAverage(network, 0.5)
    first = network[0].weight.detach().clone()
    for mean in (1.0, 2.0):
        network[1].running_mean = torch.full((2,), mean)
        network[1].num_batches_tracked += 1
        with torch.no_grad():
            network[0].weight.add_(1)
        average.update()
        assert torch.equal(average.module[1].running_mean, network[1].running_mean)
    assert average.module[1].num_batches_tracked == 2
    # The first update's weights, then half of the second's.
    torch.testing.assert_close(average.module[0].weight, first + 1.5)
    assert not average.module[0].weight.requires_grad
