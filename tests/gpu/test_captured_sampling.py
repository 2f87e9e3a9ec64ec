"""Sampling captured as CUDA graphs against the same uncaptured, on the GPU."""

import pytest
import torch
from benchmarks import captured, jobs, networks
from benchmarks.setting import Setting


@pytest.mark.parametrize("way", ["ours fp32", "ours tf32", "ours bf16"])
def test_captured_samples_are_the_same_bit_for_bit(device, way):
    network = networks.network("rq", way, Setting(device.type, threads=1, tiny=True))
    lr = networks.images(1, 24, 32)[1].to(device)
    call = captured.sampling(network, lr, 3)
    first = call().clone()
    assert not call.failed
    assert torch.equal(first, jobs.samples(network, lr, 3))
    # A replay, of inputs drawn anew.
    assert torch.equal(call(), first)


@pytest.mark.parametrize("coupling", ["affine", "rq"])
def test_images_of_one_size_are_sampled_as_they_are_uncaptured(device, coupling, caplog):
    model = networks.network(coupling, "ours fp32", Setting(device.type, threads=1, tiny=True)).model
    # The second one is captured, the third replayed.
    images = networks.images(3, 24, 32)[1].to(device).split(1)

    def draws(cuda_graphs):
        model.cuda_graphs = cuda_graphs
        model.eval()
        return [model.sample(lr, 3, 0.9, torch.Generator().manual_seed(0)) for lr in images]

    for found, expected in zip(draws(True), draws(False), strict=True):
        assert torch.equal(found, expected)
    assert "CUDA graphs are not used" not in caplog.text
