"""Training by replayed graphs, as on a GPU, equals training without; the graphs are recorded ones."""

import gc
import logging
import weakref

import pytest
import recorded_graphs
import tiny
import torch
from training_runs import assert_equal, assert_same_end, average_at, folder_of, weights_at

from robustflow.models import FlowModel, decoding
from robustflow.nn import graphs
from robustflow.training.failures import guard
from robustflow.training.gradients import Gradients, Step, fastest_convolutions
from robustflow.training.loop import iterate, train
from robustflow.training.preparation import prepare

pytestmark = pytest.mark.long


@pytest.fixture
def gpu_like(monkeypatch):
    """Let a run capture, and settle each update later, from a call on; what it captures is returned."""

    def begin():
        monkeypatch.setattr(guard, "settles_later", lambda device: True)
        # Validation captures what it samples, too, which is not what is counted here.
        monkeypatch.setattr(decoding, "Graphed", lambda function, *_, **__: graphs.Graphed(function, active=False))
        return recorded_graphs.install(monkeypatch)

    return begin


@pytest.mark.parametrize(
    ("coupling", "settings"),
    [
        ("affine", {}),
        ("affine", {"checkpointing": "step"}),
        ("rq_spline", {"ema": 0.9, "micro_batch": 1}),
        ("rq_spline", {"checkpointing": "step"}),
        ("rq_spline", {"checkpointing": "level"}),
    ],
    ids=str,
)
def test_captured_iterations_are_uncaptured_ones(make_options, gpu_like, coupling, settings):
    network = {"flow": {"K": 2, "L": 2, "S": (0, 2), "hidden_channels": 8, "coupling": coupling}}
    kept = {"network_G": network, "train": {**settings, "val_freq": 4}, "logger": {"save_checkpoint_freq": 4}}
    assert train(make_options("uncaptured", **kept))
    recording = gpu_like()
    assert train(make_options("captured", **kept))
    # The first iteration initialises ActNorms; a validation gets the memory of the graph.
    assert recording.n_replays == [3, 2]
    assert_same_end(make_options("captured"), make_options("uncaptured"))
    assert_same_end(make_options("captured"), make_options("uncaptured"), 4)
    if "ema" in settings:
        for iteration in (4, 6):
            assert_equal(*(average_at(make_options(name), iteration) for name in ("captured", "uncaptured")))


def test_it_is_captured_anew_when_the_encoder_begins_to_learn(make_options, gpu_like, pretrained):
    kept = {
        "network_G": {"train_RRDB_delay": 0.5},
        "path": {"pretrain_model_G": pretrained},
        "train": {"val_freq": 100},
    }
    assert train(make_options("uncaptured", **kept))
    recording = gpu_like()
    assert train(make_options("captured", **kept))
    assert recording.n_replays == [2, 3]
    assert_same_end(make_options("captured"), make_options("uncaptured"))


def test_a_resumed_captured_run_equals_an_uninterrupted_one(make_options, gpu_like, interrupt):
    recording = gpu_like()
    assert train(make_options("whole", train={"ema": 0.5}))
    interrupt(3)
    assert not train(make_options("parts", train={"ema": 0.5}))
    interrupt(None)
    assert train(make_options("parts", train={"ema": 0.5}, path={"resume_state": "auto"}))
    # Both before and after the validation at 3.
    assert recording.n_replays == [2, 3, 2, 3]
    assert_same_end(make_options("whole"), make_options("parts"))
    assert_equal(*(average_at(make_options(name), 6) for name in ("whole", "parts")))


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_replays_after_an_event_use_the_weights_that_are_there(make_options, gpu_like, spoil, policy):
    spoil(3)
    kept = {"train": {"non_finite": policy, "val_freq": 100}, "logger": {"save_checkpoint_freq": 2}}
    assert train(make_options("uncaptured", **kept))
    recording = gpu_like()
    assert train(make_options("captured", **kept))
    # The fourth one twice.
    assert recording.n_replays == [6]
    assert_same_end(make_options("captured"), make_options("uncaptured"))


def test_graphs_can_be_switched_off(make_options, gpu_like):
    recording = gpu_like()
    assert train(make_options(train={"niter": 3}, cuda_graphs="off"))
    assert not recording.graphs


def test_a_failing_capture_is_said_once_and_training_goes_on(make_options, gpu_like, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    assert train(make_options("uncaptured"))
    gpu_like()
    loss = FlowModel.data_loss

    def reading(self, inputs):
        found = loss(self, inputs)
        assert found.item() < 100
        return found

    monkeypatch.setattr(FlowModel, "data_loss", reading)
    assert train(make_options("captured"))
    assert caplog.text.count("CUDA graphs are not used from here on") == 1
    assert "stream is capturing" in (folder_of(make_options("captured")) / "train.log").read_text()
    assert_same_end(make_options("captured"), make_options("uncaptured"))


def test_what_weights_alone_add_is_added_after_each_replay(make_options, make_model, gpu_like, monkeypatch):
    options = make_options()
    model = make_model(options)
    monkeypatch.setattr(type(model), "weight_loss", lambda self: sum(p.square().sum() for p in self.parameters()))
    model.train()
    images = torch.Generator().manual_seed(1)
    batches = [[torch.rand(2, 3, side, side, generator=images) for side in (16, 4)] for _ in range(4)]
    recording = gpu_like()
    gradients = Gradients(model, options)
    for number, (gt, lr) in enumerate(batches, 1):
        step = Step(number, gt, lr, seed=number)
        loss = gradients(step)
        found = [parameter.grad.clone() for parameter in model.parameters()]
        expected = Gradients(model, options).compute_uncaptured(step)
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)
        for gradient, parameter in zip(found, model.parameters(), strict=True):
            assert torch.equal(gradient, parameter.grad)
    assert recording.n_replays == [3]


def test_two_prior_means_are_two_graphs_and_each_has_its_gradients(make_options, make_model, gpu_like):
    # Without validations, after which it is captured anew.
    datasets = {"train": tiny.crops("LLFlow", batch_size=2, n_workers=0)}

    def options(name):
        return make_options(name, {"type": "LLFlow", "train_gt_ratio": 0.5}, datasets=datasets, train={"niter": 8})

    assert train(options("uncaptured"))
    recording = gpu_like()
    assert train(options("captured"))
    assert len(recording.graphs) == 2
    assert sum(recording.n_replays) == 7
    assert_equal(weights_at(options("captured"), 8), weights_at(options("uncaptured"), 8))


def test_validation_captures_what_it_samples_from_weights_of_its_own_time(make_options, monkeypatch):
    """Of crops of one size: the second one is captured, and anew in each validation."""
    kept = {"train": {"niter": 6, "val_freq": 2, "ema": 0.5}, "val": {"n_sample": 2}}
    assert train(make_options("uncaptured", **kept))
    recording = recorded_graphs.install(monkeypatch)
    assert train(make_options("captured", **kept))
    assert len(recording.graphs) > 3 * 2
    assert_same_end(make_options("captured"), make_options("uncaptured"))
    logs = [(folder_of(make_options(name)) / "train.log").read_text() for name in ("captured", "uncaptured")]
    figures = [[line.split("val ")[1] for line in log.splitlines() if ": val " in line] for log in logs]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 3


def test_captures_are_gone_at_once_when_training_ends(make_options, gpu_like):
    recording = gpu_like()
    datasets = {"train": tiny.crops(split="train", batch_size=2, n_workers=0)}  # no validation, which drops them
    with prepare(make_options(datasets=datasets)) as run:
        gc.disable()
        try:
            iterate(run)
            captured = [weakref.ref(graph) for graph in recording.graphs]
            recording.graphs.clear()
            assert captured
            assert all(graph() is None for graph in captured)
        finally:
            gc.enable()


@pytest.mark.parametrize("decay", [None, 0.5])
def test_nothing_that_a_validation_captured_is_kept_in_training(make_options, monkeypatch, decay):
    recording = recorded_graphs.install(monkeypatch)
    with prepare(make_options(train={"niter": 1, "ema": decay})) as run:
        iterate(run)
        captured = [weakref.ref(graph) for graph in recording.graphs]
        recording.graphs.clear()
        gc.collect()
        assert captured
        assert all(graph() is None for graph in captured)


def test_convolutions_are_tried_only_where_asked():
    before = torch.backends.cudnn.benchmark
    with fastest_convolutions(True):
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before
    with fastest_convolutions(False):
        assert torch.backends.cudnn.benchmark == before
