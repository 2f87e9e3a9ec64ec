import pytest
import torch
import torch.nn.functional as F

from robustflow import encoders
from robustflow.encoders import RRDBEncoder, RRDBNet
from robustflow.encoders.blocks import default_taps
from robustflow.options.schema import NetworkOptions

CHANNELS, GROWTH = 4, 3


def encoder(scale, n_levels, n_blocks=3, taps=None):
    return RRDBEncoder(scale, n_levels, CHANNELS, n_blocks, GROWTH, taps).double()


@pytest.mark.parametrize(
    ("n_blocks", "taps"),
    [(23, (1, 8, 15, 22)), (8, (1, 3, 5, 7)), (5, (1, 2, 3, 4)), (4, (0, 1, 2, 3)), (2, (0, 1)), (1, (0,))],
)
def test_default_taps(n_blocks, taps):
    assert default_taps(n_blocks) == taps


@pytest.mark.parametrize(
    ("scale", "n_levels", "factors"),
    [
        (4, 1, (2,)),
        (4, 2, (2, 1)),
        (4, 3, (2, 1, 0.5)),
        (8, 4, (4, 2, 1, 0.5)),
        (8, 3, (4, 2, 1)),
        (16, 4, (8, 4, 2, 1)),
        (2, 1, (1,)),
        (2, 3, (1, 0.5, 0.25)),
        (1, 2, (0.5, 0.25)),
    ],
)
def test_pyramid_has_a_map_for_every_level(scale, n_levels, factors):
    module = encoder(scale, n_levels)
    features = module(torch.rand(2, 3, 4, 8, dtype=torch.float64))
    assert features.factors == factors
    expected = [(2, CHANNELS, 4 * scale >> level, 8 * scale >> level) for level in range(1, n_levels + 1)]
    assert [tuple(native.shape) for native in features.native] == expected
    assert features.taps.shape == (2, module.tap_channels, 4, 8)


def plain_blocks(module, x):
    """Outputs of the residual-in-residual dense blocks, from their weights."""
    x, outputs = F.conv2d(x, module.conv_first.weight, module.conv_first.bias, padding=1), []
    for block in module.blocks:
        y = x
        for dense in block:
            maps = [y]
            for number, conv in enumerate(dense.convs):
                out = F.conv2d(torch.cat(maps, 1), conv.weight, conv.bias, padding=1)
                maps.append(out if number == 4 else F.leaky_relu(out, 0.2))
            y = y + 0.2 * maps[-1]
        x = x + 0.2 * y
        outputs.append(x)
    return outputs


def test_features_follow_their_definition(perturb):
    module = perturb(encoder(4, 3, taps=(0, 2)))
    x = torch.rand(2, 3, 4, 6, dtype=torch.float64)
    features, outputs = module(x), plain_blocks(module, x)
    last = outputs[-1] + module.trunk_conv(outputs[-1])
    up = F.leaky_relu(module.up_convs[0](F.interpolate(last, scale_factor=2, mode="nearest")), 0.2)
    half = F.interpolate(last, scale_factor=0.5, mode="bilinear", align_corners=False)
    for found, expected in zip(features.native, (up, last, half), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(features.taps, torch.cat([outputs[0], outputs[2]], 1), rtol=0, atol=1e-12)


def test_residual_of_esrgan_begins_at_the_first_convolution(perturb):
    module = perturb(encoder(4, 2, taps=(0,)))
    x = torch.rand(2, 3, 4, 6, dtype=torch.float64)
    usual = module(x)
    module.residual_of_first = True
    first = F.conv2d(x, module.conv_first.weight, module.conv_first.bias, padding=1)
    last = first + module.trunk_conv(plain_blocks(module, x)[-1])
    torch.testing.assert_close(module(x).native[1], last, rtol=0, atol=1e-12)
    assert not torch.allclose(usual.native[1], last)
    assert torch.equal(module(x).taps, usual.taps)


def test_8x_upsamples_the_upsampled_map(perturb):
    module = perturb(encoder(8, 3))
    finest, middle, _ = module(torch.rand(1, 3, 2, 3, dtype=torch.float64)).native
    up = F.leaky_relu(module.up_convs[1](F.interpolate(middle, scale_factor=2, mode="nearest")), 0.2)
    torch.testing.assert_close(finest, up, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scale", "n_levels"), [(2, 3), (4, 1), (4, 3), (8, 1), (8, 4), (16, 4)])
def test_every_weight_of_the_pretraining_network_is_trained(scale, n_levels):
    network = RRDBNet(encoder(scale, n_levels), scale)
    network.double()
    image = network(torch.rand(2, 3, 4, 6, dtype=torch.float64))
    assert image.shape == (2, 3, 4 * scale, 6 * scale)
    image.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize(("scale", "n_levels"), [(2, 3), (4, 3), (8, 4), (16, 4)])
def test_pretrained_encoder_loads_into_that_of_a_flow(scale, n_levels):
    options = NetworkOptions(nf=CHANNELS, nb=2, gc=GROWTH)
    pretrained = RRDBNet(encoders.build(options, scale, n_levels=1), scale)
    flow_encoder = encoders.build(options, scale, n_levels)
    flow_encoder.load_state_dict(pretrained.encoder.state_dict())
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(flow_encoder(x).native[0], pretrained.encoder(x).native[0])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_those_of_plain_blocks(checkpointing):
    module = encoder(4, 1)
    module.checkpointing = checkpointing
    lr = torch.rand(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    last, taps = module.trunk(lr)
    parameters = [lr, *module.conv_first.parameters(), *module.blocks.parameters()]
    found = torch.autograd.grad(last.sin().sum() + taps.cos().sum(), parameters)
    outputs = plain_blocks(module, lr)
    trunk = F.conv2d(outputs[-1], module.trunk_conv.weight, module.trunk_conv.bias, padding=1)
    plain_taps = torch.cat([outputs[k] for k in module.taps], dim=1)
    expected = torch.autograd.grad((outputs[-1] + trunk).sin().sum() + plain_taps.cos().sum(), parameters)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-10)


def test_an_encoder_may_set_its_receptive_field():
    class Deep(encoders.Encoder):
        def __init__(self, depth):
            super().__init__()
            self.receptive_field = depth

        def forward(self, condition):
            raise NotImplementedError

    assert Deep(3).receptive_field == 3


def test_an_encoder_may_compute_its_receptive_field_from_that_of_another():
    class Wider(encoders.RRDBEncoder):
        @property
        def receptive_field(self):
            return super().receptive_field + 2

    arguments = {"scale": 4, "n_levels": 3, "channels": 8, "n_blocks": 2, "growth": 4, "taps": None}
    plain, wider = encoders.RRDBEncoder(**arguments), Wider(**arguments)
    assert wider.receptive_field == plain.receptive_field + 2
    plain.receptive_field = 5
    assert plain.receptive_field == 5
