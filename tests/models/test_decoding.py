"""Sampling captured as CUDA graphs: as a GPU does it, by a stand-in on the CPU."""

import gc
import weakref

import pytest
import recorded_graphs
import tiny
import torch
from torch.utils._pytree import tree_leaves

from robustflow import models


@pytest.fixture
def make(perturb):
    def build(kind="FS-NCSR", coupling="rq_spline", graphs="auto", memory=1024):
        changes = {"coupling": coupling, "projection_memory": memory, "cuda_graphs": graphs}
        options = tiny.options(kind, K=2, **changes)
        torch.manual_seed(0)
        return perturb(models.build(options), std=0.05).float().eval()

    return build


@pytest.fixture
def photographs():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, *size, generator=generator) for size in ((6, 8), (6, 8), (6, 8), (4, 8), (6, 8))]


def generators(n):
    return [torch.Generator().manual_seed(number) for number in range(n)]


@torch.no_grad()
def draws(model, photographs, **tiling):
    """Of each photograph two temperatures of three samples, then one sample."""
    found = []
    for lr in photographs:
        draw = model.prepare(lr, **tiling)
        found += [draw(0.5, generators(3)), draw(0.9, generators(3)), draw(0.9, generators(1))]
    return found


@pytest.mark.parametrize("kind", ["FS-NCSR", "SRFlow"])
@pytest.mark.parametrize("coupling", ["affine", "rq_spline"])
def test_captured_samples_are_uncaptured_ones(make, photographs, monkeypatch, kind, coupling):
    model = make(kind, coupling)
    expected = draws(model, photographs)
    model.network.eval()
    recording = recorded_graphs.install(monkeypatch)
    for found, value in zip(draws(model, photographs), expected, strict=True):
        assert torch.equal(found, value)
    # One condition, for batches of three samples and of one; nothing for a size that comes once.
    assert recording.n_replays == [3, 6, 3]


def test_tiles_of_one_size_are_replayed(make, monkeypatch):
    model = make()
    lr = [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))]
    expected = draws(model, lr, tile=8, overlap=2)
    model.network.eval()
    recording = recorded_graphs.install(monkeypatch)
    for found, value in zip(draws(model, lr, tile=8, overlap=2), expected, strict=True):
        assert torch.equal(found, value)
    assert recording.n_replays


def test_images_prepared_beside_each_other_keep_their_samples(make, photographs, monkeypatch):
    model = make()
    with torch.no_grad():
        expected = [model.prepare(lr)(0.9, generators(2)) for lr in photographs]
        model.network.eval()
        recorded_graphs.install(monkeypatch)
        prepared = [model.prepare(lr) for lr in photographs]
        for _ in range(2):
            for draw, value in zip(reversed(prepared), reversed(expected), strict=True):
                assert torch.equal(draw(0.9, generators(2)), value)


@torch.no_grad()
def test_images_keep_their_samples_beside_what_is_not_captured(make, photographs, monkeypatch):
    model = make()
    expected = model.prepare(photographs[1])(0.9, generators(2))
    model.network.eval()
    recording = recorded_graphs.install(monkeypatch)
    _, first, _ = [model.prepare(lr) for lr in photographs[:3]]
    assert torch.equal(first(0.9, generators(2)), expected)
    model.prepare(photographs[2])
    with torch.autocast("cpu", torch.bfloat16):
        first(0.9, generators(2))
    assert torch.equal(first(0.9, generators(2)), expected)
    assert recording.n_replays[1] == 2


def test_new_weights_are_seen_after_eval(make, photographs, monkeypatch):
    model = make()
    recorded_graphs.install(monkeypatch)
    before = draws(model, photographs[:3])[-1]
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(1.01)
    found = draws(model.eval(), photographs[:3])[-1]
    assert not torch.equal(found, before)
    monkeypatch.undo()
    assert torch.equal(found, draws(model.eval(), photographs[:3])[-1])


def test_what_a_capture_reads_stays_as_long_as_it_may_be_replayed(make, photographs, monkeypatch):
    model = make()
    recording = recorded_graphs.install(monkeypatch)
    with torch.no_grad():
        for lr in photographs[:3]:
            draw = model.prepare(lr)
            draw(0.9, generators(1))
        kept = [model.network.fold_unmixings(), model.network.fold(), model.network.mixing_log_det()]
        read = [weakref.ref(one) for one in tree_leaves(kept) if one is not None]
        del kept
    for graph in recording.graphs:
        graph.operations.clear()  # a GPU's hold no tensors
    model.loss(torch.rand(1, 3, 24, 32), photographs[0]).backward()
    gc.collect()
    assert recording.n_replays and all(tensor() is not None for tensor in read)
    del draw
    gc.collect()
    assert all(tensor() is None for tensor in read)


def test_captures_are_gone_at_once_when_they_are_forgotten(make, photographs, monkeypatch):
    model = make()
    recording = recorded_graphs.install(monkeypatch)
    draws(model, photographs)
    captured = [weakref.ref(graph) for graph in recording.graphs]
    recording.graphs.clear()
    gc.collect()
    assert captured
    assert all(graph() is not None for graph in captured)
    gc.disable()
    try:
        model.eval()
        assert all(graph() is None for graph in captured)
    finally:
        gc.enable()


def test_projections_beyond_the_budget_are_made_while_decoding(make, photographs, monkeypatch):
    model = make()
    model.network.projection_memory = 1
    expected = draws(model, photographs)
    model.network.eval()
    recording = recorded_graphs.install(monkeypatch)
    for found, value in zip(draws(model, photographs), expected, strict=True):
        assert torch.equal(found, value)
    assert recording.n_replays


def test_graphs_can_be_switched_off(make, photographs, monkeypatch):
    model = make(graphs="off")
    recording = recorded_graphs.install(monkeypatch)
    draws(model, photographs)
    assert not recording.graphs


def test_a_decoding_that_cannot_be_captured_is_told_once(make, photographs, monkeypatch, caplog):
    model = make()
    lr = [image for image in photographs for _ in range(2)]  # every size more than once
    expected = draws(model, lr)
    model.network.eval()
    recorded_graphs.install(monkeypatch)
    decode = model.network.decode

    def read(latents, condition):
        latents[0].sum().item()
        return decode(latents, condition)

    monkeypatch.setattr(model.network, "decode", read)
    for found, value in zip(draws(model, lr), expected, strict=True):
        assert torch.equal(found, value)
    assert caplog.text.count("CUDA graphs are not used from here on") == 1
