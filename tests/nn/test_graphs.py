import logging

import pytest
import recorded_graphs
import torch

from robustflow.nn import graphs
from robustflow.nn.graphs import Graphed


@pytest.fixture
def recording(monkeypatch):
    return recorded_graphs.install(monkeypatch)


@pytest.fixture
def counted():
    """A function of two tensors, the second may be None, and its calls in Python."""
    calls = []

    def function(x, y):
        calls.append((x, y))
        return x.square().sum() if y is None else (x * y).sum()

    return function, calls


def test_on_a_cpu_the_function_is_just_called(counted):
    function, calls = counted
    x = torch.ones(3)
    assert Graphed(function)(x, None) == 3
    assert calls == [(x, None)]


def test_inactive_it_is_just_called(recording, counted):
    function, calls = counted
    graphed = Graphed(function, active=False)
    assert [graphed(torch.ones(n), None).item() for n in (3, 3)] == [3, 3]
    assert len(calls) == 2
    assert not recording.graphs


def test_under_autocast_it_is_just_called(recording, counted):
    """The weights that autocast has rounded are gone after it."""
    function, calls = counted
    graphed = Graphed(function)
    with torch.autocast("cpu", torch.bfloat16):
        assert graphed(torch.ones(3), None) == 3
    assert len(calls) == 1
    assert not recording.graphs


def test_it_is_captured_once_and_replayed(recording, counted):
    function, calls = counted
    graphed = Graphed(function)
    results = [graphed(torch.full((2,), float(n)), torch.arange(2.0)) for n in range(5)]
    assert len(calls) == 4, "three to warm up, one to capture"
    assert recording.n_replays == [5]
    assert all(result is results[0] for result in results)
    assert results[0] == 4
    assert recording.settings[0]["capture_error_mode"] == "thread_local"
    stream = recording.settings[0]["stream"]
    assert (stream.waited_for, recording.main.waited_for) == ([recording.main], [stream])
    assert recording.current is recording.main


def test_all_captures_are_made_on_one_stream(recording, counted):
    for _ in range(2):
        graphed = Graphed(counted[0])
        for length in (1, 2):
            graphed(torch.ones(length), None)
            graphed.drop()
    assert len({id(settings["stream"]) for settings in recording.settings}) == 1


def test_captures_made_in_inference_mode_serve_outside_of_it(recording, counted):
    graphed = Graphed(counted[0])
    with torch.inference_mode():
        assert graphed(torch.ones(2), None) == 2
    assert graphed(torch.full((2,), 2.0), None) == 8
    assert recording.n_replays == [2]


@pytest.mark.parametrize("with_grad", [False, True])
def test_autograd_is_on_in_a_capture_if_it_is_outside(recording, with_grad):
    found = []
    with torch.set_grad_enabled(with_grad):
        Graphed(lambda x: found.append(torch.is_grad_enabled()))(torch.ones(1))
    assert found == 4 * [with_grad]


def test_inputs_are_copied(recording, counted):
    graphed, given = Graphed(counted[0]), torch.ones(2)
    graphed(given, None)
    given.fill_(7)
    assert graphed(torch.full((2,), 2.0), None) == 8
    assert (given == 7).all()


def test_other_shapes_types_keys_and_absent_tensors_are_captured_anew(recording, counted):
    graphed = Graphed(counted[0], capacity=8)
    x = torch.ones(2)
    for _ in range(2):
        for y, key in ((None, None), (x, None), (None, "other")):
            graphed(x, y, key=key)
        graphed(torch.ones(3), None)
        graphed(x.double(), None)
    assert recording.n_replays == [2] * 5
    assert len({id(settings["pool"]) for settings in recording.settings}) == 1


def test_the_captures_used_last_are_kept(recording, counted):
    graphed = Graphed(counted[0], capacity=2)
    for length in (1, 2, 1, 3, 1, 2):
        assert graphed(torch.ones(length), None) == length
    assert recording.n_replays == [3, 1, 1, 1]


def test_dropped_captures_are_made_again(recording, counted):
    graphed = Graphed(counted[0])
    for _ in range(2):
        graphed(torch.ones(2), None)
        graphed.drop()
    assert recording.n_replays == [1, 1]
    assert recording.settings[0]["pool"] is not recording.settings[1]["pool"]


def test_gradients_of_captured_backward_passes_are_written_anew(recording):
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))

    def function(x):
        weight.grad = None
        for piece in x.split(1):
            (weight.exp() * piece).sum().backward()
        return weight.grad

    graphed = Graphed(function)
    for value in (1.0, 3.0):
        gradient = graphed(torch.full((2, 2), value))
        torch.testing.assert_close(gradient, 2 * value * weight.detach().exp())
        # What is added in between is gone with the next replay.
        gradient.add_(5)
        weight.data.add_(1)


@pytest.mark.parametrize("fails", ["read back", "warm-up", "memory"])
def test_a_failing_capture_is_said_once(recording, caplog, fails):
    caplog.set_level(logging.WARNING)
    calls = []

    def function(x):
        calls.append(x)
        if fails == "warm-up" and len(calls) == 1:
            raise RuntimeError("not this time\nmore of it")
        if fails == "memory" and len(calls) == 4:
            raise torch.OutOfMemoryError("not enough\nmore of it")
        return x * (x.sum().item() if fails == "read back" else 2)

    graphed = Graphed(function)
    for _ in range(3):
        assert (graphed(torch.full((2,), 1.0)) == 2).all()
        assert (graphed(torch.full((3,), 1.0)) >= 2).all()
    (record,) = caplog.records
    reasons = {"read back": "operation not permitted", "warm-up": "not this time", "memory": "not enough"}
    assert "CUDA graphs are not used from here on" in record.getMessage()
    assert reasons[fails] in record.getMessage()
    assert "more of it" not in record.getMessage()
    assert not graphed.active
    assert recording.current is recording.main
    # What the warm-ups made, and the function may keep, is there before it is called again.
    assert recording.main.waited_for == list(graphs._streams.values())


def test_a_capture_broken_off_complains_twice_and_the_first_reason_is_told(recording, monkeypatch, caplog):
    class Broken(recorded_graphs._Recorder):
        def __exit__(self, kind, error, traceback):
            super().__exit__(kind, error, traceback)
            if error is not None:
                raise RuntimeError("capture invalidated")

    monkeypatch.setattr(recorded_graphs, "_Recorder", Broken)
    assert Graphed(lambda x: x + x.sum().item())(torch.ones(1)) == 2
    assert "speed alone: operation not permitted when stream is capturing" in caplog.text


def test_reads_are_refused_before_a_capture_begins(recording, caplog):
    def reading(x):
        if recording.sync_debug_mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return 2 * x

    assert Graphed(reading)(torch.ones(1)) == 2
    assert not recording.graphs
    assert "speed alone: called a synchronizing CUDA operation" in caplog.text
    assert recording.sync_debug_mode == 0


def test_nothing_else_is_refused(recording):
    recording.sync_debug_mode, found = "warn", []
    Graphed(lambda x: found.append(recording.sync_debug_mode))(torch.ones(1))
    assert found == ["warn", "warn", "error", "warn"]
    assert recording.sync_debug_mode == "warn"


def test_a_mistake_of_the_function_itself_is_not_hidden(recording):
    with pytest.raises(RuntimeError, match="must match"):
        Graphed(lambda x: x + torch.ones(3))(torch.ones(2))
    with pytest.raises(ValueError, match="mine"):
        Graphed(_raise)(torch.ones(2))


def _raise(x):
    raise ValueError("mine")


def test_only_gpus_have_graphs():
    assert graphs.has_graphs(torch.device("cuda", 1))
    assert not graphs.has_graphs(torch.device("cpu"))
