import logging
import math
import re

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import assert_equal, assert_same_end, folder_of, saved_at, state_at, weights_at

from robustflow import models
from robustflow.commands.replay import main
from robustflow.models import SuperResolution, weights
from robustflow.options.load import OptionsError, load
from robustflow.training import engine
from robustflow.training.failures import dump, replay
from robustflow.training.failures.diagnosis import diagnose
from robustflow.training.failures.guard import TrainingStopped
from robustflow.training.gradients import Gradients, Step
from robustflow.training.loop import train
from robustflow.utils.seeds import derive_seed

EVERY = {"save_checkpoint_freq": 1}


def dumps_of(options):
    return sorted(int(file.stem) for file in (folder_of(options) / "non_finite").glob("*"))


# What each policy does


def test_raise_ends_the_run_and_says_where_it_began(make_options, spoil):
    spoil(3)
    options = make_options(logger=EVERY)
    with pytest.raises(TrainingStopped) as caught:
        train(options)
    file = dump.file_for(folder_of(options), 3)
    for text in ("iteration 3: loss nan", "The batch itself is not finite", f"replay {file}", "00000002.state"):
        assert text in str(caught.value)
    assert dumps_of(options) == [3]


def test_skip_leaves_the_update_out_and_goes_on(make_options, spoil, caplog):
    spoil(3)
    options = make_options(train={"non_finite": "skip"}, logger=EVERY)
    assert train(options)
    assert_equal(weights_at(options, 3), weights_at(options, 2))
    assert_same_end_of_step(options, 2, 3)
    assert any((weights_at(options, 4)[name] != tensor).any() for name, tensor in weights_at(options, 3).items())
    assert [saved_at(options, k)["non_finite"] for k in (2, 3, 6)] == [0, 1, 1]
    assert "Event 1 of at most 10 (train.non_finite_budget)" in caplog.text
    assert "iteration 3: loss nan" in (folder_of(options) / "train.log").read_text()
    events = EventAccumulator(str(folder_of(options) / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/non_finite")] == [(3, 1.0)]


def assert_same_end_of_step(options, iteration, other):
    states, other_states = state_at(options, iteration), state_at(options, other)
    assert states.keys() == other_states.keys()
    for number, state in states.items():
        assert_equal(state, other_states[number])


def test_a_skipped_first_batch_does_not_initialise_anything(make_options, make_model, spoil):
    spoil(1)
    options = make_options(train={"non_finite": "skip", "niter": 2}, logger=EVERY)
    assert train(options)
    model = make_model(options)
    assert_equal(weights_at(options, 1), model.network.state_dict())
    assert all(tensor.isfinite().all() for tensor in weights_at(options, 2).values())
    assert all(flag for name, flag in weights_at(options, 2).items() if name.endswith("initialized"))


@pytest.mark.parametrize(("spoilt", "target"), [(5, 3), (1, 0)])
def test_rollback_goes_back_to_the_newest_checkpoint_and_on(make_options, spoil, caplog, spoilt, target):
    spoil(spoilt)
    options = make_options(train={"non_finite": "rollback", "niter": spoilt, "ema": 0.5})
    assert train(options)
    assert_equal(weights_at(options, spoilt), weights_at(options, target))
    assert_same_end_of_step(options, spoilt, target)
    average = [folder_of(options) / "models" / f"{number:08d}_G_ema.safetensors" for number in (spoilt, target)]
    assert [file.is_file() for file in average] == [target > 0] * 2
    if target > 0:
        assert_equal(*(weights.read(file)[0] for file in average))
    assert f"Weights are those of {folder_of(options) / 'training_state' / f'{target:08d}.state'} again" in caplog.text


def test_rollback_does_not_depend_on_interruptions(make_options, spoil, interrupt):
    spoil(5)
    settings = {"train": {"non_finite": "rollback", "val_freq": 100}}
    assert train(make_options("whole", **settings))
    interrupt(4)
    assert not train(make_options("parts", **settings))
    interrupt(None)
    assert train(make_options("parts", path={"resume_state": "auto"}, **settings))
    assert_same_end(make_options("whole"), make_options("parts"))


def test_events_one_after_the_other_go_back_further_each_time(make_options, spoil, caplog):
    spoil(4, 5, 6, 8)
    options = make_options(train={"non_finite": "rollback", "niter": 8, "val_freq": 100}, logger=EVERY)
    assert train(options)
    targets = re.findall(r"Weights are those of .*/(\d+)\.state again", caplog.text)
    assert [int(target) for target in targets] == [3, 2, 1, 7]
    assert_equal(weights_at(options, 6), weights_at(options, 1))
    assert_equal(weights_at(options, 8), weights_at(options, 7))


def test_untrained_weights_are_there_to_go_back_to_but_not_to_test(make_options, spoil):
    spoil(1)
    options = make_options(train={"non_finite": "rollback", "non_finite_budget": 1, "niter": 2})
    spoil(1, 2)
    with pytest.raises(TrainingStopped, match=r"(?s)iteration 2.*more than 1 events.*00000000\.state"):
        train(options)
    assert weights.newest(folder_of(options)) is None


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_the_budget_counts_over_resumed_parts(make_options, spoil, interrupt, policy):
    spoil(1, 4, 5)
    settings = {"train": {"non_finite": policy, "non_finite_budget": 2, "val_freq": 100}}
    interrupt(3)
    assert not train(make_options(**settings))
    interrupt(None)
    options = make_options(path={"resume_state": "auto"}, **settings)
    with pytest.raises(TrainingStopped, match=r"(?s)iteration 5: loss nan.*more than 2 events"):
        train(options)
    assert dumps_of(options) == [1, 4, 5]


def test_only_the_first_events_leave_dumps(make_options, spoil):
    spoil(1, 2, 3, 4, 5)
    options = make_options(train={"non_finite": "skip"})
    assert train(options)
    assert dumps_of(options) == [1, 2, 3]


# Validation


@pytest.fixture
def explode(monkeypatch):
    """Make the given share of drawn samples infinite."""
    image = SuperResolution.image

    def exploding(share):
        def exploded(self, x, lr):
            found = image(self, x, lr).clone()
            found[: math.ceil(share * len(found))] = float("inf")
            return found

        monkeypatch.setattr(SuperResolution, "image", exploded)

    return exploding


def test_some_infinite_samples_are_counted_and_training_goes_on(make_options, explode, caplog):
    explode(0.5)
    options = make_options(train={"niter": 2, "val_freq": 2})
    assert train(options)
    assert "iteration 2: 2 of 4 validation samples are not finite" in caplog.text
    assert saved_at(options, 2)["non_finite"] == 0
    events = EventAccumulator(str(folder_of(options) / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("val/non_finite_samples")] == [2.0]


def test_mostly_infinite_samples_are_an_event(make_options, explode, caplog):
    explode(1)
    stopped = make_options(train={"niter": 2, "val_freq": 2})
    with pytest.raises(TrainingStopped, match="iteration 2: 4 of 4 validation samples are not finite"):
        train(stopped)
    # The weights themselves are finite.
    assert weights_at(stopped, 2)
    assert engine.run(stopped) == 1
    skipped = make_options("skipped", train={"niter": 2, "val_freq": 2, "non_finite": "skip"})
    assert train(skipped)
    assert saved_at(skipped, 2)["non_finite"] == 1
    assert saved_at(skipped, 2)["best"] is None
    back = make_options("back", train={"niter": 2, "val_freq": 2, "non_finite": "rollback"}, logger=EVERY)
    assert train(back)
    assert_equal(weights_at(back, 2), weights_at(back, 1))


# Where it began, and the same once more


@pytest.fixture
def step(make_options, make_model):
    """A network, its options and a function that computes a training step."""
    options = make_options()
    model = make_model(options)
    images = torch.Generator().manual_seed(1)
    gt, lr = (torch.rand(2, 3, side, side, generator=images) for side in (16, 4))

    given = Step(1, gt, lr, derive_seed(0, "noise", 1))
    return model.network, options, given, lambda: Gradients(model, options).compute_uncaptured(given)


@pytest.mark.parametrize(
    ("parameter", "module"),
    [
        ("encoder.conv_first.weight", "encoder.conv_first"),
        ("levels.1.steps.0.noise_coupling", "levels.1.steps.0.noise_coupling"),
        ("levels.0.steps.0.injector", "levels.0.steps.0.injector"),
    ],
)
def test_the_first_bad_module_is_named(step, parameter, module):
    network, _, _, compute = step
    name = next(name for name, _ in network.named_parameters() if name.startswith(parameter))
    dict(network.named_parameters())[name].data.fill_(float("nan"))
    found = diagnose(network, compute)
    assert math.isnan(found.loss)
    assert found.module.startswith(module)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_finite_step_and_a_gradient_that_is_not(step):
    network, _, _, compute = step
    fine = diagnose(network, compute)
    assert fine.finite
    assert (fine.module, fine.gradient) == (None, None)
    first = next(iter(network.parameters()))

    def rooted():
        loss = compute()
        (0 * first).sqrt().sum().backward()
        return loss

    found = diagnose(network, rooted)
    assert math.isfinite(found.loss)
    assert not math.isfinite(found.grad_norm)
    assert (found.module, found.gradient) == (None, next(name for name, _ in network.named_parameters()))


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_replay_reproduces_the_step(make_options, spoil, capsys, micro_batch):
    spoil(2)
    options = make_options(train={"non_finite": "skip", "niter": 2, "micro_batch": micro_batch})
    assert train(options)
    file = dump.file_for(folder_of(options), 2)
    assert main([str(file)]) == 0
    first, batch, recorded, now, verdict = capsys.readouterr().out.splitlines()
    assert (first, batch, verdict) == ("iteration 2", "the batch itself is not finite", "reproduced")
    assert recorded.removeprefix("recorded: ") == now.removeprefix("now:      ")
    assert "loss nan, gradient norm nan: not finite first in the output of levels.0.squeeze" in now


def test_replay_computes_the_very_same_numbers(step, tmp_path, capsys):
    network, options, given, compute = step
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = diagnose(network, compute)
    network.load_state_dict(before)
    dump.write(tmp_path / "dump.safetensors", network, options, given, found)
    assert replay.replay(dump.read(tmp_path / "dump.safetensors")) == found
    assert main([str(tmp_path / "dump.safetensors")]) == 1
    assert "not reproduced: the step is finite here" in capsys.readouterr().out


def test_replay_of_something_else(step, tmp_path, caplog):
    _, options, _, _ = step
    weights.save(tmp_path / "1_G.safetensors", models.build(options), options, 1)
    (tmp_path / "damaged.safetensors").write_bytes(b"not one")
    for name, text in (("none", "no such file"), ("1_G", "got another file"), ("damaged", "damaged")):
        assert main([str(tmp_path / f"{name}.safetensors")]) == 2
        assert text in caplog.text


# Options


def test_a_budget_without_a_policy_has_no_effect(tmp_path):
    (tmp_path / "run.yml").write_text("name: x\nmodel: SRFlow\ntrain: {non_finite_budget: 3}\n")
    with pytest.raises(OptionsError, match=r"train\.non_finite_budget: expected train\.non_finite: skip or rollback"):
        load(tmp_path / "run.yml")
    (tmp_path / "run.yml").write_text("name: x\nmodel: SRFlow\ntrain: {non_finite_budget: 3, non_finite: skip}\n")
    assert load(tmp_path / "run.yml").train.non_finite_budget == 3


def test_a_dump_that_cannot_be_written_does_not_hide_the_event(make_options, spoil, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    spoil(1)
    options = make_options(train={"non_finite": "skip", "niter": 1})
    (folder_of(options)).mkdir(parents=True)
    options = options.model_copy(update={"path": options.path.model_copy(update={"resume_state": "auto"})})
    (folder_of(options) / "non_finite").touch()
    assert train(options)
    assert "non_finite/00000001.safetensors: cannot be written" in caplog.text
