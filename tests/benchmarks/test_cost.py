import logging
import time

import pytest
import torch
from benchmarks import agreement, captured, cost, jobs, networks, setting, throughput
from benchmarks.cases import whole
from benchmarks.cost import Cost
from benchmarks.loop_child import Watch
from benchmarks.setting import Setting

TINY = Setting(threads=1, repeats=1, tiny=True)


class Recorded:
    """Stands in for what captures: calls the function, with copies of its arguments."""

    def __init__(self, function, active):
        self.function, self.active = function, active

    def __call__(self, *tensors):
        return self.function(*(None if tensor is None else tensor.clone() for tensor in tensors))


@pytest.fixture(scope="module")
def built():
    return networks.ways("rq", networks.GPU_WAYS, TINY)


def test_ways_that_are_built_alike_share_weights(built):
    flows = {way: network.flow for way, network in built.items()}
    assert flows["plain"] is flows["ours tf32"] is flows["ours fp32 captured"]
    assert flows["ours bf16"] is flows["ours bf16 captured"] is not flows["plain"]
    assert [network.precision for network in built.values()] == ["tf32", "fp32", "tf32", "bf16", "tf32", "bf16", "fp32"]
    assert [way for way, network in built.items() if network.plain is not None] == ["plain"]


def test_captured_training_is_that_step(built):
    network = built["ours fp32"]
    gt, lr = networks.images(2, 6, 8)
    loss = jobs.training_step(network, gt, lr)
    expected = [parameter.grad.clone() for parameter in network.flow.parameters()]
    assert captured.training(network, gt, lr, Recorded)().item() == loss
    for parameter, gradient in zip(network.flow.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_captured_sampling_makes_those_samples(built):
    network = built["ours fp32"]
    _, lr = networks.images(1, 8, 12)
    call = captured.sampling(network, lr, 3, Recorded)
    assert torch.equal(call(), jobs.samples(network, lr, 3))
    assert not call.failed


def test_precision_is_that_of_the_way(built, monkeypatch):
    seen = []
    monkeypatch.setattr(jobs, "_loss", lambda *_: seen.append(torch.backends.cudnn.allow_tf32) or torch.zeros(1).exp_())
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)
    gt, lr = networks.images(1, 2, 2)
    for way in ("plain", "ours fp32", "ours tf32", "ours bf16"):
        jobs.training_step(built[way], gt, lr)
    assert seen == [True, False, True, False]


def test_what_cannot_be_made_is_not_measured():
    costs = cost.of_each("x", {"a": lambda: lambda: time.sleep(0.01), "b": lambda: None}, TINY)
    assert costs["b"] == Cost()
    assert costs["a"].seconds > 0.01
    assert costs["a"].columns(4.0, 2.0)["floor / seconds"] == pytest.approx(2 / costs["a"].seconds)
    assert set(costs["b"].columns(4.0, 2.0).values()) == {None}


def test_counting_keeps_nothing_from_being_compiled():
    compiled = []
    double = torch.compile(lambda x: 2 * x, backend=lambda graph, _: compiled.append(graph) or graph.forward)
    assert cost.flops(lambda: double(torch.ones(3))) == 0
    double(torch.ones(3))
    assert len(compiled) == 1


@pytest.fixture
def two_differ(monkeypatch):
    def differ(*_, **__):
        raise agreement.Disagreement("affine, latent 1: too far")

    monkeypatch.setattr(agreement, "require_networks", differ)
    monkeypatch.setattr(throughput, "fastest", lambda *_: 1e9)


def test_ways_that_differ_are_not_timed(two_differ, capsys):
    with pytest.raises(agreement.Disagreement):
        whole.train(TINY)
    assert "train" not in capsys.readouterr().out


def test_on_a_gpu_what_matters_comes_first_and_differing_ways_too(two_differ, pretended_gpu, monkeypatch, capsys):
    monkeypatch.setattr(networks, "ways", lambda coupling, names, setting: dict.fromkeys(names))
    monkeypatch.setattr(networks, "images", lambda *_: (torch.zeros(1), torch.zeros(1)))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_: self)
    monkeypatch.setattr(whole, "_training", lambda *_: lambda: None)
    monkeypatch.setattr(cost, "attach_profiler", lambda: None)
    monkeypatch.setattr(cost, "flops", lambda call: 1e9)
    monkeypatch.setattr(setting, "_device", lambda setting: "pretended")
    with pytest.raises(SystemExit, match="affine, latent 1: too far"):
        whole.train(pretended_gpu)
    told = capsys.readouterr()
    lines = [line.partition(":")[0] for line in told.err.splitlines() if line.startswith("train, ") and " ms" in line]
    assert len(lines) == 2 * 2 * len(networks.GPU_WAYS)
    assert lines[:4] == [
        *("train, rq, 16, ours tf32 captured", "train, rq, 16, ours bf16 captured"),
        *("train, rq, 16, ours fp32 captured", "train, affine, 16, ours tf32 captured"),
    ]
    assert told.out.count("| rq") == told.out.count("| affine") == 2 * len(networks.GPU_WAYS)


def test_captured_ways_need_a_gpu(built):
    assert whole._training("ours fp32 captured", built["ours fp32"], 1, TINY) is None
    assert whole._sampling("ours fp32 captured", built["ours fp32"], 1, 8, TINY) is None


def test_watch_times_what_comes_after_the_second_line(monkeypatch):
    clock = iter([10.0, 12.0, 16.0, 18.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    log, watch = logging.getLogger("watched"), Watch(5, on_cuda=False)
    log.addHandler(watch)
    log.setLevel(logging.INFO)
    for number in (5, 10, 15, 20):
        log.info("iteration %d/%d: bits_per_dim 1.0", number, 20)
        log.info("iteration %d: val psnr 20", number)
    assert watch.result() == {"rate": 10 / 6, "peak": None, "kernels": None, "kernel_seconds": None}


def test_watch_profiles_the_last_iterations_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    monkeypatch.setattr(
        cost, "profile", lambda **_: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    )
    monkeypatch.setattr(cost, "summed", lambda watched: (40, 2.0))
    watch = Watch(2, on_cuda=True)
    for number in (2, 4, 6, 8):
        watch.emit(logging.makeLogRecord({"msg": f"iteration {number}/8: loss 1"}))
    assert [number for number, _ in watch.marks] == [2, 4, 6]
    assert watch.result() | {"rate": 0} == {"rate": 0, "peak": 7, "kernels": 20, "kernel_seconds": 1.0}


def test_what_runs_on_the_cpu_is_no_kernel():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        torch.ones(3).exp()
    assert len(watched.events()) > 0
    assert cost.summed(watched) == (0, 0)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """torch.cuda as far as costs ask for it: 30 bytes are in use, 100 at the peak; two kernels of a second."""
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name, value in (("reset_peak_memory_stats", None), ("memory_allocated", 30), ("max_memory_allocated", 100)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    activities = [torch.profiler.ProfilerActivity.CPU]
    monkeypatch.setattr(cost, "profile", lambda **_: torch.profiler.profile(activities=activities))
    monkeypatch.setattr(cost, "summed", lambda watched: (2, 2.0))
    return Setting("cuda", repeats=3, tiny=True)


def test_costs_on_a_gpu_one_after_the_other(pretended_gpu, capsys):
    order = []
    makers = {name: lambda name=name: lambda: order.append(name) for name in "ab"}
    costs = cost.of_each("work", makers | {"c": lambda: None}, pretended_gpu)
    assert order == ["a"] * 5 + ["b"] * 5
    assert costs["a"][1:] == (70, 2, 2.0)
    assert costs["c"] == Cost()
    assert "work, c: not measured" in capsys.readouterr().err


def test_a_capture_that_fails_is_not_measured(pretended_gpu):
    class Failing(Recorded):
        def __call__(self, *tensors):
            self.active = False

    call = captured.Captured(lambda: None, list, Failing)
    assert cost.of_each("work", {"a": lambda: call}, pretended_gpu) == {"a": Cost()}
