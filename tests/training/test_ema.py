import pytest
import torch
from training_runs import assert_equal, assert_same_end, average_at, folder_of, saved_at, weights_at

from robustflow import data
from robustflow.evaluation.evaluator import Evaluator
from robustflow.models import weights
from robustflow.options.load import OptionsError, load
from robustflow.training import checkpoint
from robustflow.training.loop import train
from robustflow.utils import checksums

EVERY = {"save_checkpoint_freq": 1}


def test_the_average_is_that_of_the_weights_after_each_update(make_options):
    options = make_options(train={"ema": 0.75}, logger=EVERY)
    assert train(options)
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


@pytest.mark.parametrize("n_workers", [0, 2])
def test_20_iterations_are_10_and_10(make_options, interrupt, validations, spoil, n_workers):
    spoil(4, 10, 15)
    crops = {"train": {"niter": 20, "val_freq": 5, "ema": 0.9, "non_finite": "skip", "warmup_iter": 8}}
    settings = {"n_workers": n_workers, "logger": {"save_checkpoint_freq": 5}, **crops}
    assert train(make_options("whole", **settings))
    whole = validations.copy()
    validations.clear()
    interrupt(10)
    assert not train(make_options("parts", **settings))
    interrupt(None)
    assert train(make_options("parts", path={"resume_state": "auto"}, **settings))

    assert_same_end(make_options("whole"), make_options("parts"), 20)
    assert_equal(average_at(make_options("whole"), 20), average_at(make_options("parts"), 20))
    assert validations == whole
    assert [iteration for iteration, _ in whole] == [5, 10, 15, 20]
    first, second = (saved_at(make_options(name), 20) for name in ("whole", "parts"))
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
def test_training_goes_on_without_a_damaged_average(make_options, interrupt, caplog, how):
    longer = {"ema": 0.5, "niter": 8, "val_freq": 8}
    options = make_options(train=longer, logger=EVERY)
    interrupt(6)
    assert not train(options)
    interrupt(None)
    file = spoil_average(options, how)
    assert train(make_options(train=longer, logger=EVERY, path={"resume_state": "auto"}))
    assert f"{file}: " in caplog.text and "; the moving average begins with the next update" in caplog.text
    assert "at iteration 6" in caplog.text
    assert_equal(average_at(options, 7), weights_at(options, 7))
    # Everything else is as it would have been.
    assert train(make_options("whole", train=longer, logger=EVERY))
    assert_same_end(make_options("whole"), options, 8)


@pytest.mark.parametrize("how", ["changed", "cut off"])
def test_tests_take_the_weights_of_the_same_iteration_instead(make_options, caplog, how):
    options = make_options(train={"ema": 0.5}, logger=EVERY)
    assert train(options)
    file = spoil_average(options, how)
    assert weights.newest(folder_of(options)) == checkpoint.weights_file(folder_of(options), 6)
    assert f"{file}: damaged" in caplog.text
    checkpoint.weights_file(folder_of(options), 6).write_bytes(b"")
    assert weights.newest(folder_of(options)) == checkpoint.ema_file(folder_of(options), 5)


def test_a_file_given_to_resume_goes_on_without_its_average(make_options):
    options = make_options(train={"ema": 0.5}, logger=EVERY)
    assert train(options)
    spoil_average(options, "changed")
    state = checkpoint.state_file(folder_of(options), 6)
    assert checkpoint.find(folder_of(options), str(state)) == state
