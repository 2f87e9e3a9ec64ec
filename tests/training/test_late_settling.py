"""Updates settled one iteration later, as on a GPU, end as those settled at once."""

import copy
import itertools
import signal

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import assert_equal, assert_same_end, average_at, folder_of, saved_at, weights_at

from robustflow.commands import replay
from robustflow.data import TrainingCrops
from robustflow.training import engine, optimizer
from robustflow.training.failures import dump, guard
from robustflow.training.failures.guard import TrainingStopped
from robustflow.training.loop import train
from robustflow.utils.errors import UserError

NEVER = {"save_checkpoint_freq": 100, "print_freq": 2}


@pytest.fixture
def late(monkeypatch):
    """Settle late from the call on."""
    return lambda: monkeypatch.setattr(guard, "settles_later", lambda device: True)


def events_of(options):
    return EventAccumulator(str(folder_of(options) / "tensorboard")).Reload()


def scalars(events, name):
    return [(event.step, event.value) for event in events.Scalars(name)]


def assert_same_run(options, others, iteration=8):
    assert_same_end(options, others, iteration)
    if options.train.ema is not None:
        assert_equal(average_at(options, iteration), average_at(others, iteration))
    first, second = (saved_at(each, iteration) for each in (options, others))
    for key in ("iteration", "non_finite", "validated", "best", "rollback"):
        assert first[key] == second[key], key
    events, other_events = events_of(options), events_of(others)
    for name in ("train/bits_per_dim", "train/lr", "train/grad_norm"):
        # NaN is equal to NaN here.
        assert str(scalars(events, name)) == str(scalars(other_events, name))
    dumps = [sorted((folder_of(each) / "non_finite").glob("*")) for each in (options, others)]
    assert [file.name for file in dumps[0]] == [file.name for file in dumps[1]]
    for one, other in zip(*dumps, strict=True):
        recorded, again = dump.read(one), dump.read(other)
        assert_equal(recorded.weights, again.weights)
        assert torch.equal(recorded.step.lr, again.step.lr)
        assert str(recorded.found) == str(again.found)


SPOILT = [(4,), (4, 5), (1,), (1, 2), (3, 8), (6, 7)]


@pytest.mark.parametrize(
    ("policy", "spoilt"), [("skip", ()), *itertools.product(["skip", "rollback"], SPOILT)], ids=str
)
def test_events(make_options, late, spoil, policy, spoilt):
    spoil(*spoilt)
    kept = {
        "train": {"niter": 8, "val_freq": 6, "ema": 0.75, "non_finite": policy},
        "logger": {"save_checkpoint_freq": 3, "print_freq": 2},
    }
    assert train(make_options("at_once", **kept))
    late()
    assert train(make_options("late", **kept))
    assert_same_run(make_options("late", **kept), make_options("at_once", **kept))
    assert saved_at(make_options("late"), 8)["non_finite"] == len(spoilt)


@pytest.mark.parametrize("spoilt", [(3,), (2, 3)])
def test_events_while_nothing_is_saved(make_options, late, spoil, spoilt):
    """Going back as far as to the beginning, where ActNorms are to be initialised once more."""
    spoil(*spoilt)
    kept = {"train": {"niter": 8, "val_freq": 100, "ema": 0.75, "non_finite": "rollback"}, "logger": NEVER}
    assert train(make_options("at_once", **kept))
    late()
    assert train(make_options("late", **kept))
    assert_same_run(make_options("late", **kept), make_options("at_once", **kept))


@pytest.mark.parametrize("more", [{"micro_batch": 1}, {"checkpointing": "step"}], ids=str)
def test_events_in_pieces_and_with_checkpointing(make_options, late, spoil, more):
    spoil(3)
    kept = {"train": {"niter": 8, "non_finite": "skip", "ema": 0.5, "val_freq": 100, **more}, "logger": NEVER}
    assert train(make_options("at_once", **kept))
    late()
    assert train(make_options("late", **kept))
    assert_same_run(make_options("late", **kept), make_options("at_once", **kept))


def test_an_event_in_the_last_iteration_before_the_encoder_learns(make_options, late, spoil, pretrained):
    spoil(4)
    kept = {
        "network_G": {"train_RRDB_delay": 0.5},
        "path": {"pretrain_model_G": pretrained},
        "train": {"niter": 8, "non_finite": "skip", "val_freq": 100},
        "logger": NEVER,
    }
    assert train(make_options("at_once", **kept))
    late()
    assert train(make_options("late", **kept))
    assert_same_run(make_options("late", **kept), make_options("at_once", **kept))


def test_the_message_names_the_iteration_that_failed(make_options, late, spoil, caplog, capsys):
    late()
    spoil(3)
    with pytest.raises(TrainingStopped, match=r"(?s)^iteration 3: loss nan.*The batch itself is not finite"):
        train(make_options(logger=NEVER))
    spoil(3)
    options = make_options("again", train={"non_finite": "skip"}, logger=NEVER)
    assert train(options)
    assert "iteration 3: loss nan" in caplog.text
    events = events_of(options)
    assert scalars(events, "train/non_finite") == [(3, 1.0)]
    assert [step for step, _ in scalars(events, "train/bits_per_dim")] == [1, 2, 3, 4, 5, 6]
    assert replay.main([str(dump.file_for(folder_of(options), 3))]) == 0
    assert "\nreproduced" in capsys.readouterr().out


@pytest.mark.parametrize("interrupted", [2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(make_options, late, interrupt, spoil, interrupted):
    spoil(3)
    kept = {"train": {"niter": 8, "ema": 0.5, "non_finite": "skip", "val_freq": 5}, "logger": NEVER}
    late()
    assert train(make_options("whole", **kept))
    interrupt(interrupted)
    assert not train(make_options("parts", **kept))
    interrupt(None)
    assert train(make_options("parts", path={"resume_state": "auto"}, **kept))
    assert_same_end(make_options("whole"), make_options("parts"), 8)
    assert_equal(*(average_at(make_options(name), 8) for name in ("whole", "parts")))
    assert saved_at(make_options("parts"), 8)["non_finite"] == 1


@pytest.mark.parametrize(("spoilt", "saved"), [((), 3), ((3,), 2), ((2, 3), 2)])
def test_an_unreadable_image_saves_what_is_finished(make_options, late, spoil, monkeypatch, spoilt, saved):
    """The last step is finished if it can be; if it failed, the resumed run meets it again."""
    settings = {"train": {"non_finite": "skip", "ema": 0.5, "val_freq": 100}, "logger": NEVER}
    spoil(*spoilt)
    assert train(make_options("whole", **settings))
    late()
    crop = TrainingCrops.crop

    def unreadable(self, number):
        if number == 6:
            raise UserError("crop 6: damaged")
        return crop(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingCrops, "crop", unreadable)
        with pytest.raises(UserError, match=rf"crop 6: damaged\n  Saved iteration {saved}; go on"):
            train(make_options("parts", **settings))
    assert weights_at(make_options("parts"), saved)
    assert train(make_options("parts", path={"resume_state": "auto"}, **settings))
    assert_same_end(make_options("whole"), make_options("parts"))
    assert_equal(*(average_at(make_options(name), 6) for name in ("whole", "parts")))
    assert saved_at(make_options("parts"), 6)["non_finite"] == len(spoilt)


def test_a_signal_settles_the_iteration_that_it_saves(make_options, late, monkeypatch):
    late()
    step = torch.optim.Adam.step

    def signalling(self, *arguments):
        step(self, *arguments)
        if next(iter(self.state.values()))["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(torch.optim.Adam, "step", signalling)
    options = make_options(train={"ema": 0.5, "val_freq": 100}, logger=NEVER)
    assert engine.run(options) == 130
    assert saved_at(options, 3)["iteration"] == 3
    assert average_at(options, 3)


def test_the_budget_counts(make_options, late, spoil):
    late()
    spoil(2, 3, 4)
    options = make_options(train={"non_finite": "skip", "non_finite_budget": 2, "val_freq": 100}, logger=NEVER)
    with pytest.raises(TrainingStopped, match=r"(?s)^iteration 4: loss nan.*more than 2 events"):
        train(options)


# The optimizer


def test_a_suppressed_update_changes_nothing():
    parameter = torch.nn.Parameter(torch.ones(3))
    adam = torch.optim.Adam([parameter], fused=True)
    for measured, moves in (([1.0, 2.0], True), ([float("nan"), 2.0], False), ([1.0, float("inf")], False)):
        before = parameter.detach().clone(), dict(adam.state[parameter])
        parameter.grad = torch.full((3,), 1.0 if moves else float("nan"))
        optimizer.suppress_unless_finite(adam, torch.tensor(measured))
        adam.step()
        assert bool((parameter != before[0]).all()) == moves
        assert all(torch.equal(value, before[1].get(name, value)) for name, value in adam.state[parameter].items())
        assert adam.state[parameter]["step"] == 1


def _step(layer, adam):
    adam.zero_grad()
    layer(torch.linspace(0, 1, 75).view(1, 3, 5, 5)).square().sum().backward()
    adam.step()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_states_of_other_updates_are_taken_over_and_laid_out_as_parameters(make_options, memory_format):
    options = make_options().train.model_copy(update={"lr_G": 1e-2})
    older, newer = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
    first, second = torch.optim.Adam(older.parameters(), 1e-2), optimizer.build(newer, options)
    _step(older, first)
    state = copy.deepcopy(first.state_dict())
    assert state["param_groups"][0]["fused"] is None
    newer.load_state_dict(older.state_dict())
    optimizer.load_state(second, state)
    assert second.param_groups[0]["fused"]
    for parameter, values in second.state.items():
        assert values["exp_avg"].stride() == values["exp_avg_sq"].stride() == parameter.stride()
        assert values["step"] == 1
    for layer, adam in ((older, first), (newer, second)):
        _step(layer, adam)
    for one, other in zip(older.parameters(), newer.parameters(), strict=True):
        torch.testing.assert_close(one, other)
