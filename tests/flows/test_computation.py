"""Ways of computing the same flow: checkpointing and 16-bit parameter networks."""

import pytest
import torch

from robustflow.bijections.networks import ConvNetwork
from robustflow.flows import build
from robustflow.options.schema import FlowOptions, NetworkOptions

OPTIONS = NetworkOptions(
    nf=8, nb=2, gc=4, flow=FlowOptions(K=2, L=3, S=(0, 2, 1), hidden_channels=8, coupling={"type": "rq_spline"})
)


def flow_with(state=None, **computation):
    flow = build(OPTIONS, 4, **computation)
    if state is not None:
        flow.load_state_dict(state)
    return flow


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 16, 24, generator=generator), torch.rand(2, 3, 4, 6, generator=generator)
    return x, y, 0.05 * torch.randn(x.shape, generator=generator)


@pytest.fixture
def weights(inputs):
    """Initialised by data, heads not zero."""
    flow = flow_with().train()
    with torch.no_grad():
        flow.encode(*inputs)
        for name, parameter in flow.named_parameters():
            if name.endswith("head.weight"):
                parameter.normal_(std=0.05)
    return flow.state_dict()


def loss_and_gradients(flow, inputs):
    flow.zero_grad()
    loss = -flow.encode(*inputs).log_prob.sum()
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in flow.parameters())]


@pytest.mark.parametrize("memory", [1024, 0], ids=["all steps at once", "one step at a time"])
@pytest.mark.parametrize("checkpointing", ["step", "level"])
def test_checkpointing_changes_no_result(checkpointing, memory, inputs, weights):
    inputs = [value.double() for value in inputs]
    expected = loss_and_gradients(flow_with(weights).double(), inputs)
    flow = flow_with(weights, checkpointing=checkpointing).double()
    flow.projection_memory = memory * 2**20
    for found, value in zip(loss_and_gradients(flow, inputs), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("checkpointing", ["none", "step", "level"])
def test_first_training_batch_initialises_then_computes(checkpointing, inputs):
    """Gradients of the first batch are those of a flow that was initialised before."""
    torch.manual_seed(3)
    flow = flow_with(checkpointing=checkpointing).double().train()
    inputs = [value.double() for value in inputs]
    first = loss_and_gradients(flow, inputs)
    for found, value in zip(first, loss_and_gradients(flow, inputs), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


def test_checkpointing_keeps_fewer_activations(inputs, weights):
    # Beside so many, what is kept of the weights, whatever the batch, is little.
    inputs = [value.repeat(8, 1, 1, 1) for value in inputs]

    def kept(checkpointing):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        flow = flow_with(weights, checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            flow.encode(*inputs)
        return sum(sizes)

    none, step, level = (kept(way) for way in ("none", "step", "level"))
    assert step < none / 2
    assert level < step


def test_bf16_is_close_and_stays_finite(inputs, weights):
    exact, rough = flow_with(weights).eval(), flow_with(weights, precision="bf16").eval()
    with torch.no_grad():
        expected, found = exact.encode(*inputs), rough.encode(*inputs)
        assert found.log_prob.dtype == torch.float32
        assert all(latent.dtype == torch.float32 for latent in found.latents)
        torch.testing.assert_close(found.log_prob, expected.log_prob, rtol=5e-3, atol=0)
        assert not torch.equal(found.log_prob, expected.log_prob)
        # Both ways read the same x_a up to float32 rounding, which 16 bits hide but for some last digits.
        x, _ = rough.decode(found.latents, inputs[1], inputs[2])
        torch.testing.assert_close(x, inputs[0], rtol=0, atol=2**-7)


def test_bf16_gradients_reach_every_parameter_in_float32(inputs, weights):
    flow = flow_with(weights, precision="bf16").train()
    expected = loss_and_gradients(flow_with(weights).train(), inputs)
    found = loss_and_gradients(flow, inputs)
    assert {value.dtype for value in found} == {torch.float32}
    flat, other = (torch.cat([value.flatten() for value in values]) for values in (found, expected))
    assert torch.nn.functional.cosine_similarity(flat, other, dim=0) > 0.98


def test_bf16_convolutions_run_in_bf16(monkeypatch, inputs, weights):
    seen = set()
    head = ConvNetwork.forward

    def watched(self, x_a, context):
        seen.add(self.compute_dtype)
        return head(self, x_a, context)

    monkeypatch.setattr(ConvNetwork, "forward", watched)
    flow = flow_with(weights, precision="bf16").eval()
    features = flow.encoder(inputs[1])
    assert {native.dtype for native in features.native} == {features.taps.dtype} == {torch.bfloat16}
    flow.encode(*inputs)
    assert seen == {torch.bfloat16}
