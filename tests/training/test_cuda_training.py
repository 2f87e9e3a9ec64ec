"""Training on a GPU, captured and not. GPU_TESTS_ON=cpu tries it on a machine without, by recorded graphs."""

import logging
import os

import pytest
import recorded_graphs
import torch
from several import torchrun
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import assert_equal, assert_same_end, average_at, folder_of, saved_at, weights_at

from robustflow.models import FlowModel, decoding
from robustflow.nn.graphs import Graphed
from robustflow.training.failures import guard
from robustflow.training.loop import train
from robustflow.utils import devices

PRETENDED = os.environ.get("GPU_TESTS_ON") == "cpu"
pytestmark = pytest.mark.skipif(not (PRETENDED or torch.cuda.is_available()), reason="needs a GPU")


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """The GPU, or a CPU in its place."""
    if PRETENDED:
        recorded_graphs.install(monkeypatch)
        monkeypatch.setattr(devices, "choose", lambda name: torch.device("cpu"))
        monkeypatch.setattr(guard, "settles_later", lambda device: True)


@pytest.fixture(autouse=True)
def repeatable(monkeypatch):
    """The same kernels in all runs, so that captured and uncaptured ones round alike."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def on_gpu(make_options):
    """Make the options of a tiny run on the GPU."""

    def make(name, *, precision="fp32", coupling="affine", **sections):
        flow = {"K": 2, "S": (0, 2), "coupling": coupling}
        return make_options(name, device="cuda", precision=precision, **{**flow, **sections})

    return make


@pytest.fixture
def counted(monkeypatch):
    """Captures and replays of training; validations, which capture what they sample, just call it here."""
    monkeypatch.setattr(decoding, "Graphed", lambda function, *_, **__: Graphed(function, active=False))
    found = {"captures": 0, "replays": 0}
    capture, replay = torch.cuda.CUDAGraph.capture_begin, torch.cuda.CUDAGraph.replay

    def capturing(self, *arguments, **keywords):
        found["captures"] += 1
        return capture(self, *arguments, **keywords)

    def replaying(self):
        found["replays"] += 1
        return replay(self)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", capturing)
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", replaying)
    return found


def losses(options):
    events = EventAccumulator(str(folder_of(options) / "tensorboard")).Reload()
    return [event.value for event in events.Scalars("train/bits_per_dim")]


def assert_close(options, others):
    """Losses of two runs, but for what Adam makes of rounding."""
    tolerance = 1e-2 if options.precision == "bf16" else 1e-3
    assert losses(options) == pytest.approx(losses(others), rel=tolerance, abs=tolerance)


TWENTY = {"niter": 20, "val_freq": 100, "ema": 0.9, "lr_G": 1e-4}
RARE = {"save_checkpoint_freq": 100, "print_freq": 5}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("coupling", ["affine", {"type": "affine", "eps": 0.1}, "rq_spline"], ids=str)
def test_20_captured_iterations_are_20_uncaptured_ones(on_gpu, counted, coupling, precision):
    kept = {"coupling": coupling, "precision": precision, "logger": RARE}
    assert train(on_gpu("uncaptured", train={**TWENTY}, cuda_graphs="off", **kept))
    assert counted == {"captures": 0, "replays": 0}
    assert train(on_gpu("captured", train=TWENTY, **kept))
    assert counted == {"captures": 1, "replays": 19}
    assert_close(on_gpu("captured", precision=precision), on_gpu("uncaptured"))
    assert len(losses(on_gpu("captured"))) == 20
    for options in (on_gpu("captured"), on_gpu("uncaptured")):
        assert average_at(options, 20)


@pytest.mark.parametrize(
    "settings", [{"micro_batch": 1}, {"checkpointing": "step"}, {"checkpointing": "level"}], ids=str
)
def test_pieces_and_checkpointing_are_captured(on_gpu, counted, settings):
    for name, graphs in (("uncaptured", "off"), ("captured", "auto")):
        assert train(on_gpu(name, train={**TWENTY, **settings}, cuda_graphs=graphs, logger=RARE))
    assert counted == {"captures": 1, "replays": 19}
    assert_close(on_gpu("captured"), on_gpu("uncaptured"))


def test_a_learning_encoder_is_captured_anew(on_gpu, counted, pretrained):
    kept = {"network_G": {"train_RRDB_delay": 0.5}, "path": {"pretrain_model_G": pretrained}, "logger": RARE}
    for name, graphs in (("uncaptured", "off"), ("captured", "auto")):
        assert train(on_gpu(name, train={**TWENTY}, cuda_graphs=graphs, **kept))
    assert counted["captures"] == 2
    assert_close(on_gpu("captured"), on_gpu("uncaptured"))


def test_a_resumed_captured_run_equals_an_uninterrupted_one(on_gpu, counted, interrupt):
    # Saved at 8 in either case: the numbers of an iteration are noted in the next one.
    assert train(on_gpu("whole", train=TWENTY, logger=RARE))
    interrupt(7)
    assert not train(on_gpu("parts", train=TWENTY, logger=RARE))
    interrupt(None)
    assert train(on_gpu("parts", train=TWENTY, path={"resume_state": "auto"}, logger=RARE))
    assert counted["captures"] == 3
    assert_close(on_gpu("whole"), on_gpu("parts"))


@pytest.mark.parametrize("graphs", ["auto", "off"])
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_bad_step_changes_nothing(on_gpu, monkeypatch, policy, graphs):
    inputs = FlowModel.loss_inputs
    calls = []

    def spoiled(self, gt, lr, generator):
        calls.append(generator.initial_seed())
        found = inputs(self, gt, lr, generator)
        # The fourth step, also when it is computed again.
        bad = len(dict.fromkeys(calls)) >= 4 and generator.initial_seed() == list(dict.fromkeys(calls))[3]
        return found._replace(x=found.x * float("nan")) if bad else found

    monkeypatch.setattr(FlowModel, "loss_inputs", spoiled)
    often = {"save_checkpoint_freq": 1, "print_freq": 1} if policy == "rollback" else RARE
    options = on_gpu("bad", train={**TWENTY, "niter": 8, "non_finite": policy}, cuda_graphs=graphs, logger=often)
    assert train(options)
    assert saved_at(options, 8)["non_finite"] == 1
    assert [file.stem for file in (folder_of(options) / "non_finite").iterdir()] == ["00000004"]
    assert all(tensor.isfinite().all() for tensor in weights_at(options, 8).values())
    if policy == "rollback":
        assert_equal(weights_at(options, 4), weights_at(options, 3))
        assert saved_at(options, 8)["rollback"] == (4, 3)


def test_a_failing_capture_is_said_once_and_training_goes_on(on_gpu, counted, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    assert train(on_gpu("uncaptured", train={**TWENTY}, cuda_graphs="off", logger=RARE))
    loss = FlowModel.data_loss

    def reading(self, inputs):
        found = loss(self, inputs)
        assert found.item() < 100
        return found

    monkeypatch.setattr(FlowModel, "data_loss", reading)
    assert train(on_gpu("captured", train=TWENTY, logger=RARE))
    assert caplog.text.count("CUDA graphs are not used from here on") == 1
    assert_close(on_gpu("captured"), on_gpu("uncaptured"))


def test_the_host_does_not_wait_for_the_device(on_gpu, monkeypatch):
    """Nothing synchronises between iterations, but the wait for the step before the one under way."""
    step = torch.optim.Adam.step
    n = []

    def watching(self, *arguments):
        result = step(self, *arguments)
        n.append(self)
        # From the third to the last but one; the last one is validated and saved.
        torch.cuda.set_sync_debug_mode("error" if 3 <= len(n) < 19 else "default")
        return result

    monkeypatch.setattr(torch.optim.Adam, "step", watching)
    try:
        assert train(on_gpu("watched", train=TWENTY, logger={**RARE, "print_freq": 1}))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(PRETENDED, reason="needs a device that works by itself")
def test_the_host_does_not_wait_for_the_loss_of_the_weights(on_gpu, monkeypatch):
    """MAGMA would wait, and no debug mode tells: a device that sleeps before is still asleep after the update."""
    weight_loss, step = FlowModel.weight_loss, torch.optim.Adam.step
    awakenings, asleep = [], []

    def sleeping(self):
        torch.cuda._sleep(3 * 10**8)  # some tenths of a second
        awakenings.append(torch.cuda.Event())
        awakenings[-1].record()
        return weight_loss(self)

    def watching(self, *arguments):
        result = step(self, *arguments)
        asleep.append(not awakenings[-1].query())
        return result

    monkeypatch.setattr(FlowModel, "weight_loss", sleeping)
    monkeypatch.setattr(torch.optim.Adam, "step", watching)
    # At K = 16 torch has 18 matrices of a level to factorise.
    assert train(on_gpu("asleep", K=16, train={**TWENTY, "niter": 6}, logger=RARE))
    # The first iterations initialise and capture.
    assert asleep[3:] == [True] * 3


def test_states_are_the_same_kind_on_both_devices(on_gpu, make_options):
    """A run begun on a GPU goes on here, and the other way round."""
    flow = {"flow": {"K": 2, "L": 2, "S": (0, 2), "hidden_channels": 8, "coupling": "affine"}}
    assert train(on_gpu("moved", train={"niter": 2}))
    here = make_options("moved", network_G=flow, train={"niter": 4}, path={"resume_state": "auto"})
    assert train(here)
    assert train(on_gpu("moved", train={"niter": 6}, path={"resume_state": "auto"}))
    assert saved_at(here, 6)["iteration"] == 6


def test_uncaptured_runs_are_repeatable(on_gpu):
    for name in ("one", "two"):
        assert train(on_gpu(name, train={**TWENTY, "niter": 3}, cuda_graphs="off", logger=RARE))
    assert_same_end(on_gpu("one"), on_gpu("two"), 3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_processes_train_as_one(on_gpu):
    one, two = (on_gpu(name, train={**TWENTY, "lr_G": 1e-5}, logger=RARE) for name in ("one", "two"))
    assert train(one)
    done = torchrun("train.py", two)
    assert done.returncode == 0, done.stderr
    assert_close(two, one)
