"""Published files on the command lines: safe to read, used as they are, converted there and back."""

import pickle

import pytest
import tiny
import torch
import yaml

import robustflow
from robustflow import models
from robustflow.commands import convert
from robustflow.commands import evaluate as testing
from robustflow.data.images import read_image, write_png
from robustflow.interop import published
from robustflow.models import weights
from robustflow.options import load as options_load
from robustflow.options.load import load
from robustflow.training import engine as training

OPTIONS = """
name: small
model: NCSR
divide_freq: true
scale: 4
std: 0.05
network_G:
  which_model_G: NCSRNet
  nf: 8
  nb: 2
  flow: {K: 2, L: 2, S: [0, 1], coupling: COUPLING, CondAffineSeparatedAndCond: {eps: 1e-3, hidden_channels: 8},
         additionalFlowNoAffine: 1, split: {enable: true, correct_splits: true}, permutation_train: PERMUTATION}
"""
COUPLINGS = {
    "affine": "CondAffineSeparatedAndCond",
    "spline": "CondRQsplineSeparatedAndCond",
    "inverse": "CondAffineReparamSeparatedAndCond",
}


@pytest.fixture(params=["affine", "spline", "spline with fixed permutations", "inverse"])
def small(request, tmp_path, monkeypatch):
    """A published option file, a network with random weights, and its ``.pth`` file under published names."""
    monkeypatch.chdir(tmp_path)
    text = OPTIONS.replace("COUPLING", COUPLINGS[request.param.split()[0]])
    (tmp_path / "x.yml").write_text(text.replace("PERMUTATION", str("fixed" not in request.param).lower()))
    options = load(tmp_path / "x.yml", "network_G.gc=4")
    network = models.build(options).network
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    torch.save(published.write_back(network), tmp_path / "x_G.pth")
    return network.eval()


def test_our_test_py_takes_published_files(small, tmp_path):
    write_png(tmp_path / "photos" / "a.png", torch.rand(3, 6, 9))
    options = load("x.yml", "val.n_sample=1|path.model_path=x_G.pth|device=cpu")
    assert testing.run(options, "photos", "out") == 0
    assert read_image(tmp_path / "out" / "input" / "a_t0.9_00.png").shape == (3, 24, 36)


def test_there_and_back_is_exact(small, tmp_path):
    assert convert.main(["-opt", "x.yml", "--weights", "x_G.pth", "--output", "y.safetensors"]) == 0
    assert (
        convert.main(
            [
                "-opt",
                "x.yml",
                "--weights",
                "y.safetensors",
                "--output",
                "z.pth",
                "--reverse",
            ]
        )
        == 0
    )
    before, after = published.read("x_G.pth")[0], published.read("z.pth")[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


LOW_LIGHT = """
name: low
model: LLFlow
scale: 1
to_yuv: false
network_G:
  which_model_G: LLFlow
  nf: 8
  nb: 2
  flow: {K: 1, L: 3, coupling: COUPLING, CondAffineSeparatedAndCond: {hidden_channels: 8}, additionalFlowNoAffine: 2,
         split: {enable: false}, stackRRDB: {blocks: [0, 1], concat: true}}
"""


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_low_light_there_and_back(coupling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yml").write_text(LOW_LIGHT.replace("COUPLING", COUPLINGS[coupling]))
    options = load("x.yml", "network_G.gc=4")
    torch.save(published.write_back(models.build(options).network), "x_G.pth")
    there = ["-opt", "x.yml", "--weights", "x_G.pth", "--output", "y.safetensors"]
    back = ["-opt", "x.yml", "--weights", "y.safetensors", "--output", "z.pth", "--reverse"]
    assert convert.main(there) == convert.main(back) == 0
    before, after = published.read("x_G.pth")[0], published.read("z.pth")[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_converted_weights_are_the_network(small, tmp_path):
    convert.main(["-opt", "x.yml", "--weights", "x_G.pth", "--output", "y.safetensors"])
    options = load("x.yml", "network_G.gc=4")
    model = models.build(options)
    weights.load(tmp_path / "y.safetensors", model, options, encoder_suffices=False)
    for name, tensor in small.state_dict().items():
        if "initialized" not in name:
            # The published layout is float32, also for fixed permutations.
            assert torch.equal(tensor.float(), model.network.state_dict()[name].float()), name


def test_training_goes_on_from_published_weights(small, tmp_path):
    more = "datasets={train: {mode: bundled, GT_size: 16, batch_size: 1}}|train.niter=1|device=cpu|train.lr_G=1e-9"
    options = load("x.yml", f"{more}|path.pretrain_model_G=x_G.pth")
    assert training.run(options) == 0
    tensors, _ = weights.read(weights.locate("experiments/small"))
    ours = small.state_dict()["encoder.conv_first.weight"]
    torch.testing.assert_close(tensors["encoder.conv_first.weight"], ours, rtol=0, atol=1e-6)


def test_flow_starts_from_a_published_encoder(small, tmp_path):
    encoder = {k.removeprefix("RRDB."): v for k, v in published.read("x_G.pth")[0].items() if k.startswith("RRDB.")}
    torch.save(encoder, "rrdb.pth")
    options = weights.fit_options(load("x.yml"), tmp_path / "rrdb.pth")
    model = models.build(options)
    assert weights.load(tmp_path / "rrdb.pth", model, options, encoder_suffices=True) == "encoder"
    assert torch.equal(model.encoder.conv_first.weight, small.encoder.conv_first.weight)
    with pytest.raises(weights.WeightsError, match="that of an encoder alone"):
        weights.load(tmp_path / "rrdb.pth", model, options, encoder_suffices=False)


class Evil:
    """Asks its reader to run a command."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("format", ["torch", "pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, format):
    content = {"RRDB.conv_first.weight": Evil(tmp_path / "ran")}
    if format == "torch":
        torch.save(content, tmp_path / "evil.pth")
    else:
        (tmp_path / "evil.pth").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(published.PublishedError, match="refused"):
        published.read(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None], ids=["empty", "text", "missing"])
def test_damaged_file(tmp_path, content):
    if content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(published.PublishedError, match=r"x\.pth"):
        published.read(tmp_path / "x.pth")


def test_wrong_output_suffix(small, capsys, caplog):
    assert convert.main(["-opt", "x.yml", "--weights", "x_G.pth", "--output", "y.pth"]) == 2
    assert "expected a .safetensors file, got y.pth" in caplog.text


def test_load_file(small, tmp_path):
    flow = robustflow.load("x.yml", "x_G.pth").network
    assert not flow.training
    assert yaml.safe_load((tmp_path / "x.yml").read_text())["network_G"]["nf"] == flow.encoder.native_channels
    assert torch.equal(flow.encoder.trunk_conv.weight, small.encoder.trunk_conv.weight)


@pytest.mark.parametrize("key", ["max_log_scale", "soft"])
def test_a_bounded_split_prior_has_no_published_form(small, tmp_path, caplog, key):
    override = ["--override", f"network_G.flow.split.{key}=2"]
    arguments = ["-opt", "x.yml", "--weights", "x_G.pth", "--output", "back.pth", "--reverse", *override]
    assert convert.main(arguments) != 0
    assert "published networks have no such bound" in caplog.text
    assert not (tmp_path / "back.pth").exists()


def test_weights_of_half_the_size(small, tmp_path, caplog):
    arguments = ["-opt", "x.yml", "--weights", "x_G.pth", "--output"]
    assert (
        convert.main([*arguments, "full.safetensors"]) == convert.main([*arguments, "half.safetensors", "--half"]) == 0
    )
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * (tmp_path / "full.safetensors").stat().st_size
    half, full = (robustflow.load(f"{name}.safetensors").network.state_dict() for name in ("half", "full"))
    for name, tensor in half.items():
        assert tensor.dtype == full[name].dtype
        torch.testing.assert_close(tensor, full[name], rtol=2**-10, atol=1e-7)
    assert convert.main([*arguments, "back.pth", "--half", "--reverse"]) == 2
    assert "expected none with --reverse" in caplog.text


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A tiny model, its options in x.yml."""
    monkeypatch.chdir(tmp_path)
    model = tiny.built(tiny.options(), 0.1)
    options_load.save(model.options, "x.yml")
    return model


def test_weights_are_found_as_elsewhere(own, tmp_path, caplog):
    own.save(tmp_path / "runs/x/models/00000007_G.safetensors")
    assert convert.main(["-opt", "x.yml", "--weights", "runs/x", "--output", "y.safetensors", "--half"]) == 0
    assert convert.main(["-opt", "x.yml", "--weights", "runs/y", "--output", "z.safetensors"]) == 2
    assert "runs/y: expected a .safetensors or .pth file, an experiment folder" in caplog.text


def test_values_that_half_precision_does_not_hold_are_an_error(own, tmp_path, caplog):
    own.encoder.conv_first.weight.data[0, 0, 0, 0] = 7e4
    own.save(tmp_path / "large.safetensors")
    arguments = ["-opt", "x.yml", "--weights", "large.safetensors", "--output", "half.safetensors", "--half"]
    assert convert.main(arguments) == 2
    assert not (tmp_path / "half.safetensors").exists()
    assert "encoder.conv_first.weight: expected values of at most 65504 for half precision, got 7e+04" in caplog.text
