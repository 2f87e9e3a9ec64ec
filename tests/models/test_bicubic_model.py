import pytest
import tiny
import torch

import robustflow as rf
from robustflow.commands import train
from robustflow.data.bicubic import upsample
from robustflow.models import weights
from robustflow.options.load import dump, load
from robustflow.utils.errors import UserError
from robustflow.utils.yaml_tree import OptionsError


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_every_sample_is_the_enlarged_image(scale):
    lr = torch.rand(2, 3, 5, 7)
    samples = rf.Bicubic(scale).sample(lr, n=3)
    assert samples.shape == (3, 2, 3, 5 * scale, 7 * scale)
    for sample in samples:
        assert torch.equal(sample, upsample(lr, scale, torch.float64))


def test_tiles_change_nothing():
    lr = torch.rand(1, 3, 9, 9)
    assert torch.equal(rf.Bicubic().sample(lr, tile=4, overlap=0), rf.Bicubic().sample(lr))


def test_is_saved_and_loaded_like_others(tmp_path):
    rf.Bicubic(8).save(tmp_path / "m.safetensors")
    model = rf.load(tmp_path / "m.safetensors")
    assert (type(model), model.scale) == (rf.Bicubic, 8)


def test_has_no_likelihood_no_encoder_and_no_loss():
    model, hr, lr = rf.Bicubic(), torch.rand(1, 3, 8, 8), torch.rand(1, 3, 2, 2)
    assert model.likelihood(hr, lr, torch.Generator()) is None
    with pytest.raises(UserError, match="no features"):
        _ = model.encoder
    with pytest.raises(UserError, match="nothing to train"):
        model.loss(hr, lr)


def test_is_not_trained(tmp_path, caplog):
    options = tiny.training_options(tmp_path, model="bicubic")
    assert weights.locate_for_test(options) is None
    (tmp_path / "run.yml").write_text(dump(options))
    for more in ([], ["--check"]):
        caplog.clear()
        assert train.main(["-opt", str(tmp_path / "run.yml"), *more]) == 2
        assert "got bicubic, which has no weights" in caplog.text
        assert not (tmp_path / "experiments").exists()


def test_takes_no_weights(tmp_path):
    (tmp_path / "run.yml").write_text("name: x\nmodel: bicubic\npath: {model_path: w.pth}\n")
    with pytest.raises(OptionsError, match=r"path\.model_path: expected none: model bicubic has no weights"):
        load(tmp_path / "run.yml")
