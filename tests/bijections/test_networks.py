"""Parameter networks: weights folded beforehand, or by the network itself."""

import pytest
import torch
import torch.nn.functional as F

from robustflow.bijections.networks import ConvNetwork, fold_networks

B, SAMPLES, HIDDEN, OUT = 2, 3, 5, 6


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=[3, 1, 0], ids=lambda channels: f"{channels} channels")
def networks(request, perturb):
    return [perturb(ConvNetwork(request.param, HIDDEN, OUT), std=0.3, seed=seed) for seed in range(3)]


def inputs_of(network, n=B):
    """x_a (n, c, h, w), or None, and raw features (B, hidden, h, w)."""
    x_a = None if network.conv_in is None else draw(n, network.conv_in.shape[1], 4, 6, seed=1)
    return x_a, draw(B, HIDDEN, 4, 6, seed=2)


def contexts(networks, raw):
    """Of several networks, folded together, from the features as their kernels give them."""
    folded = fold_networks(networks)
    scales, shifts = (value.view(len(networks), HIDDEN, 1, 1) for value in (folded.scale, folded.shift))
    return [
        (None if raw is None else (raw * scale + shift).to(raw.dtype), weights)
        for scale, shift, weights in zip(scales, shifts, folded.networks, strict=True)
    ]


def plainly(network, x_a, raw):
    """One layer after the other."""
    n = 1 if x_a is None else len(x_a) // B
    first = 0 if raw is None else raw.repeat(n, 1, 1, 1)
    if x_a is not None:
        first = first + F.conv2d(x_a, network.conv_in, padding=1)
    hidden = F.relu(network.norm_in(first)[0])
    hidden = F.relu(network.norm_mid(F.conv2d(hidden, network.conv_mid))[0])
    scale = torch.exp(3 * network.head.logs)[:, None, None]
    return F.conv2d(hidden, network.head.weight, network.head.bias, padding=1) * scale


@pytest.mark.parametrize("n", [B, SAMPLES * B])
def test_folded_and_raw_contexts_give_the_same(networks, n):
    for network, context in zip(networks, contexts(networks, inputs_of(networks[0])[1]), strict=True):
        x_a, raw = inputs_of(network, n)
        expected = plainly(network, x_a, raw)
        for found in (network(x_a, context), network(x_a, raw), network(x_a, (raw, None))):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert not torch.equal(network(x_a, raw), network(x_a, raw + 1))


def test_so_do_their_gradients(networks):
    for index, network in enumerate(networks):
        x_a, raw = (None if value is None else value.requires_grad_() for value in inputs_of(network, SAMPLES * B))
        at = [value for value in (x_a, raw, *network.parameters()) if value is not None]
        weights = draw(B if x_a is None else SAMPLES * B, OUT, 4, 6, seed=3)

        def gradients(params, at=at, weights=weights):
            return torch.autograd.grad((params * weights).sum(), at)

        expected = gradients(plainly(network, x_a, raw))
        for params in (network(x_a, contexts(networks, raw)[index]), network(x_a, raw)):
            for found, value in zip(gradients(params), expected, strict=True):
                torch.testing.assert_close(found, value, rtol=1e-11, atol=1e-11)


def test_without_features(perturb):
    network = perturb(ConvNetwork(3, HIDDEN, OUT), std=0.3)
    x_a, _ = inputs_of(network)
    (context,) = contexts([network], None)
    expected = plainly(network, x_a, None)
    for given in (context, None, (None, None)):
        torch.testing.assert_close(network(x_a, given), expected, rtol=1e-12, atol=1e-12)


def test_nothing_to_read_is_an_error(perturb):
    network = perturb(ConvNetwork(0, HIDDEN, OUT))
    for context in (None, (None, None), contexts([network], None)[0]):
        with pytest.raises(ValueError, match="expected x_a, context or both"):
            network(None, context)


def test_inputs_stay_as_they_are(networks):
    """What is computed in place is the network's own."""
    for network in networks:
        x_a, raw = inputs_of(network)
        (context,) = contexts([network], raw)
        features, weights = context
        kept = [None if value is None else value.clone() for value in (x_a, raw, *weights, features)]
        with torch.no_grad():
            network(x_a, context), network(x_a, raw)
        for value, before in zip((x_a, raw, *weights, features), kept, strict=True):
            assert (value is None) == (before is None)
            assert value is None or torch.equal(value, before)


def test_16_bits(networks):
    """Weights and features in bf16, parameters as the network's own; about as exact as bf16 is."""
    exact = [plainly(network, *inputs_of(network)) for network in networks]
    for network in networks:
        network.float().compute_dtype = torch.bfloat16
    for index, (network, expected) in enumerate(zip(networks, exact, strict=True)):
        x_a, raw = (None if value is None else value.float() for value in inputs_of(network))
        context = contexts(networks, raw.bfloat16())[index]
        features, weights = context
        assert features.dtype == torch.bfloat16
        assert {kernel.dtype for kernel in weights[::2] if kernel is not None} == {torch.bfloat16}
        for found in (network(x_a, context), network(x_a, raw.bfloat16())):
            assert found.dtype == torch.float32
            error = (found.double() - expected).norm() / expected.norm()
            assert 1e-5 < error < 2e-2


def test_16_bits_round_alike_folded_or_not(networks):
    for network in networks:
        network.float().compute_dtype = torch.bfloat16
    for index, network in enumerate(networks):
        x_a, raw = (None if value is None else value.float() for value in inputs_of(network))
        context = contexts(networks, raw.bfloat16())[index]
        assert torch.equal(network(x_a, context), network(x_a, raw.bfloat16()))


def test_folded_kernels_are_channels_last(networks):
    for weights in fold_networks([network.to(memory_format=torch.channels_last) for network in networks]).networks:
        for kernel in weights[::2]:
            assert kernel is None or kernel.is_contiguous(memory_format=torch.channels_last)
