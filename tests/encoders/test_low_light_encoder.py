import pytest
import torch
import torch.nn.functional as F

from robustflow import encoders
from robustflow.encoders import LowLightEncoder
from robustflow.encoders.low_light import chromaticity, edges
from robustflow.options.schema import NetworkOptions
from robustflow.utils.errors import UserError

CHANNELS, GROWTH = 4, 3


def encoder(n_levels=3, n_blocks=2, taps=(0, 1)):
    return LowLightEncoder(1, n_levels, CHANNELS, n_blocks, GROWTH, taps).double()


def rand(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_levels", [1, 2, 3])
def test_pyramid_has_a_map_for_every_level(n_levels):
    module = encoder(n_levels)
    features = module(rand(2, 6, 8, 16))
    assert features.factors == (1, 0.5, 0.25)[:n_levels]
    expected = [(2, CHANNELS, 8 >> level, 16 >> level) for level in range(1, n_levels + 1)]
    assert [tuple(native.shape) for native in features.native] == expected
    assert features.taps.shape == (2, module.tap_channels, 4, 8)
    assert features.mean.shape == (2, 3, 8, 16)


def test_features_follow_their_definition(perturb):
    module = perturb(encoder(taps=(1,)))
    log_image, equal = rand(2, 3, 8, 16).log(), rand(2, 3, 8, 16, seed=1)
    features = module(torch.cat([log_image, equal], 1))
    image = log_image.exp()
    colors = image / (image.sum(1, keepdim=True) + 1e-4)
    x = F.leaky_relu(module.conv_first(torch.cat([log_image, equal, colors, edges(colors)], 1)), 0.2)
    head = F.max_pool2d(module.conv_second(x), 2)
    trunk = module.blocks[1](module.blocks[0](head))
    down2 = head + module.trunk_conv(trunk)

    def half(x):
        return F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)

    down4 = F.leaky_relu(module.down_convs[0](half(down2)), 0.2)
    down8 = module.down_convs[1](half(down4))
    for found, expected in zip(features.native, (down2, down4, down8), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(features.taps, trunk, rtol=0, atol=1e-12)
    mean = torch.sigmoid(module.color_head(F.interpolate(down2, scale_factor=2, mode="nearest")))
    torch.testing.assert_close(features.mean, mean, rtol=0, atol=1e-12)


def test_chromaticity_forgets_brightness():
    image = rand(2, 3, 4, 4) + 0.5
    torch.testing.assert_close(chromaticity(image).sum(1), torch.ones(2, 4, 4).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(chromaticity(image), chromaticity(0.1 * image), rtol=0, atol=1e-3)
    assert chromaticity(torch.zeros(1, 3, 1, 1)).abs().max() == 0


def test_edges_are_the_larger_central_difference():
    x = torch.tensor([[[[1.0, 2.0, 4.0], [0.0, 8.0, 1.0]]]])
    # A missing neighbour counts as 0: at the top left, ½(2 − 0) across and ½(0 − 0) down.
    assert torch.equal(edges(x), torch.tensor([[[[1.0, 4.0, 1.0], [4.0, 1.0, 4.0]]]]))
    assert torch.equal(edges(torch.ones(1, 1, 1, 1)), torch.zeros(1, 1, 1, 1))


def test_every_weight_gets_a_gradient(perturb):
    module = perturb(encoder())
    features = module(rand(2, 6, 8, 16))
    sum(map_.sin().sum() for map_ in (*features.native, features.taps, features.mean)).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("n_levels", [1, 3])
def test_receptive_field_is_an_upper_bound(perturb, n_levels):
    """No feature that was asked for changes with a pixel farther away, and some do just inside half of it."""
    module = perturb(encoder(n_levels, n_blocks=1, taps=(0,)))
    reach, side = module.receptive_field, 128
    condition = rand(1, 6, 8, side).requires_grad_()
    features = module(condition)
    for factor, values in [*zip((2, 4, 8), features.native, strict=False), (2, features.taps), (1, features.mean)]:
        column = (side // 2) // factor
        (grad,) = torch.autograd.grad(values[..., column].sin().sum(), condition, retain_graph=True)
        seen = grad.abs().sum((0, 1, 2)).nonzero().flatten()
        first, last = column * factor, column * factor + factor - 1
        assert last - seen.min() <= reach
        assert seen.max() - first <= reach
        assert seen.max() - first > reach // 2


def test_checkpointing_changes_no_gradient(perturb):
    module, gradients = perturb(encoder()), []
    for module.checkpointing in (False, True):
        features = module(rand(1, 6, 8, 8))
        loss = features.native[2].sum() + features.taps.square().sum() + features.mean.sum()
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    torch.testing.assert_close(*gradients)


def test_precision_of_the_features_is_chosen():
    options = NetworkOptions(encoder="low_light", nf=8, nb=2, gc=4)
    torch.manual_seed(1)
    exact = encoders.build(options, 1, 3)
    torch.manual_seed(1)
    rough = encoders.build(options, 1, 3, precision="bf16", checkpointing="level")
    condition = torch.rand(1, 6, 16, 16)
    found, expected = rough(condition), exact(condition)
    assert rough.checkpointing
    assert {found.taps.dtype, *(native.dtype for native in found.native)} == {torch.bfloat16}
    # The mean belongs to the flow's variables.
    assert found.mean.dtype == torch.float32
    torch.testing.assert_close(found.native[0].float(), expected.native[0], rtol=0.02, atol=0.02)


def test_other_scales_are_refused():
    with pytest.raises(UserError, match="low_light needs scale: 1, got 4"):
        encoders.build(NetworkOptions(encoder="low_light", nf=8, nb=1), 4, 3)
