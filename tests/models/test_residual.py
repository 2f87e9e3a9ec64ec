"""Which residual an RRDB has: by its weights' names, by its options, and what is said where both are wrong."""

import pytest
import tiny
import torch

import robustflow as rf
from robustflow.interop import published
from robustflow.models import RRDB, weights
from robustflow.models.loading import load_model
from robustflow.models.weights import WeightsError

SIZES = {"nf": 8, "nb": 1, "gc": 4}


def options(**model):
    return tiny.options({"type": "RRDB", **model})


@torch.no_grad()
def consistent():
    """An ESRGAN that enlarges by nearest neighbours, if its residual begins at the first convolution."""
    model = RRDB(residual="first_conv", **SIZES)
    for parameter in model.parameters():
        parameter.zero_()
    encoder, network = model.encoder, model.network
    chain = (encoder.conv_first, *encoder.up_convs, *network.up_convs, network.conv_hr, network.conv_last)
    for layer in chain:
        for channel in range(3):
            layer.weight[channel, channel, 1, 1] = 1
    # What the trunk adds to its input, which the other residual keeps.
    encoder.blocks[0][0].convs[-1].bias += 10
    return model


@pytest.fixture
def esrgan(tmp_path):
    """Its weights, under names that both families have."""
    torch.save(published.write_back(consistent().network), tmp_path / "ESRGAN.pth")
    return tmp_path / "ESRGAN.pth"


def test_the_residual_that_makes_no_sense_is_warned_of(esrgan, caplog):
    load_model(options(residual="first_conv"), esrgan)
    assert caplog.text == ""
    load_model(options(), esrgan)
    assert "residual: first_conv} " in caplog.text
    caplog.clear()
    load_model(options(residual="last_block"), esrgan)
    assert "residual: first_conv} " in caplog.text


def test_the_images_follow_the_residual(esrgan):
    lr = torch.rand(1, 3, 4, 4)
    image = load_model(options(residual="first_conv"), esrgan).sample(lr)[0]
    torch.testing.assert_close(image, lr.repeat_interleave(4, -1).repeat_interleave(4, -2))
    assert not torch.allclose(load_model(options(), esrgan).sample(lr)[0], image, atol=0.1)


def test_weights_of_ours_know_their_residual(tmp_path, caplog):
    model, file = RRDB(residual="first_conv", **SIZES), tmp_path / "m.safetensors"
    model.save(file)
    lr = torch.rand(1, 3, 4, 4)
    for loaded in (rf.load(file), load_model(options(), file)):
        assert loaded.residual == "first_conv"
        torch.testing.assert_close(loaded.sample(lr), model.eval().sample(lr))
    with pytest.raises(WeightsError, match="were trained with first_conv, the options say last_block"):
        load_model(options(residual="last_block"), file)
    flow = tiny.options("SRFlow")
    assert weights.load(file, tiny.built(flow, 0), flow, encoder_suffices=True) == "encoder"
    assert "a start for a training, not the same images" in caplog.text
