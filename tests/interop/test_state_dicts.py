"""One RRDB in the names, wrappers and files in which it is found."""

import logging
import re

import pytest
import safetensors.torch
import torch

from robustflow import models
from robustflow.encoders.rrdb import RRDBEncoder, RRDBNet
from robustflow.interop import published, state_dicts
from robustflow.models import weights
from robustflow.models.weights import WeightsError
from robustflow.options.load import load

CONF = """
name: run
model: MODEL
scale: SCALE
network_G: {nf: 8, nb: 2, gc: 4, flow: {K: 1, L: 3, hidden_channels: 8}}
"""


def rrdb(scale=4, seed=0):
    """State dict of a random RRDB under published names."""
    torch.manual_seed(seed)
    return published.write_back(RRDBNet(RRDBEncoder(scale, 1, 8, 2, 4, None), scale))


def basicsr(state):
    rules = (
        (r"RRDB_trunk\.(\d+)\.RDB(\d)", r"body.\1.rdb\2"),
        ("trunk_conv", "conv_body"),
        (r"upconv(\d)", r"conv_up\1"),
        ("HRconv", "conv_hr"),
    )
    found = {}
    for name, tensor in state.items():
        for ours, theirs in rules:
            name = re.sub(ours, theirs, name)
        found[name] = tensor
    return found


def esrgan(state, before="model."):
    """Layers by their numbers in a sequence: each upsampling takes two, each activation one."""
    n_up = sum(name.startswith("upconv") for name in state) // 2
    numbers = {"conv_first": "0", "trunk_conv": "1.sub.2", "HRconv": str(2 + 3 * n_up), "conv_last": str(4 + 3 * n_up)}
    numbers |= {f"upconv{k + 1}": str(3 * (k + 1)) for k in range(n_up)}
    found = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        block = re.sub(r"RRDB_trunk\.(\d+)\.(RDB\d\.conv\d)", r"1.sub.\1.\2.0", layer)
        found[f"{before}{numbers.get(layer, block)}.{kind}"] = tensor
    return found


def prefixed(before, state):
    return {f"{before}{name}": tensor for name, tensor in state.items()}


STATE, OTHER = rrdb(), rrdb(seed=1)
DISCRIMINATOR = {"netD.conv.weight": torch.zeros(3, 3)}
FORMS = {
    "plain": STATE,
    "half": {name: tensor.half() for name, tensor in STATE.items()},
    "esrgan": esrgan(STATE),
    "esrgan without its prefix": esrgan(STATE, ""),
    "basicsr": basicsr(STATE),
    "params": {"params": basicsr(STATE)},
    "params_ema counts": {"params": basicsr(OTHER), "params_ema": basicsr(STATE)},
    "params of published names": {"params": STATE},
    "state_dict": {"state_dict": STATE, "epoch": 3, "optimizer": {"state": {0: torch.zeros(2)}}},
    "model": {"model": esrgan(STATE), "iter": 7, "args": None},
    "wrapper of a wrapper": {"model": {"state_dict": prefixed("module.", STATE)}},
    "unknown wrapper": {"my_network": STATE, "epoch": 5},
    "epoch": {**STATE, "epoch": 5},
    "epoch as tensor": {**STATE, "epoch": torch.tensor(5)},
    "module.": prefixed("module.", STATE),
    "netG.": prefixed("netG.", STATE),
    "RRDB.": prefixed("RRDB.", STATE),
    "module.netG.": prefixed("module.netG.", basicsr(STATE)),
    "netG. beside netD.": {**prefixed("netG.", STATE), **DISCRIMINATOR},
}
RENAMED = ("esrgan", "basicsr", "params", "params_ema counts", "model", "module.netG.", "esrgan without its prefix")


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A network of random weights and its options."""
    monkeypatch.chdir(tmp_path)

    def make(model="SRFlow", scale=4):
        (tmp_path / "run.yml").write_text(CONF.replace("MODEL", model).replace("SCALE", str(scale)))
        options = load("run.yml")
        return models.build(options), options

    return make


def assert_holds(network, state):
    """Every tensor of a published state dict stands where it belongs."""
    layout = published.layout_of(network) if isinstance(network, RRDBNet) else published.layouts.of_encoder(network)
    own = network.state_dict()
    for name, entry in layout.items():
        for piece in entry.pieces:
            assert (piece.inside(own[piece.name]) - piece.outside(state[name])).abs().max() < 1e-3, name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", ["SRFlow", "RRDB"])
def test_form(network, tmp_path, caplog, model, form):
    made, options = network(model)
    torch.save(FORMS[form], tmp_path / "w.pth")
    fitted = weights.fit_options(options, tmp_path / "w.pth")
    loaded = weights.load(tmp_path / "w.pth", made, fitted, encoder_suffices=True)
    assert loaded == ("network" if model == "RRDB" else "encoder")
    assert_holds(made.network, STATE)
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == (form in RENAMED and model == "SRFlow")
    if model == "RRDB":
        assert fitted.model.residual == ("first_conv" if form in RENAMED else None)


@pytest.mark.parametrize("file", ["w.pth", "w.pt", "w.ckpt", "w.bin", "old.pth", "w.safetensors", "module.safetensors"])
def test_file(network, tmp_path, file):
    made, options = network()
    state = prefixed("module.", basicsr(STATE)) if file.startswith("module") else STATE
    if file.endswith("safetensors"):
        safetensors.torch.save_file(state, tmp_path / file)
    else:
        torch.save(state, tmp_path / file, _use_new_zipfile_serialization=not file.startswith("old"))
    assert weights.fit_options(options, tmp_path / file).network_G.gc == 4
    assert weights.load(tmp_path / file, made, options, encoder_suffices=True) == "encoder"
    assert_holds(made.network, STATE)


@pytest.mark.parametrize("change", [dict, basicsr, esrgan])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_scale(network, tmp_path, scale, change):
    torch.save(change(rrdb(scale)), tmp_path / "w.pth")
    made, options = network("RRDB", scale)
    weights.load(tmp_path / "w.pth", made, options, encoder_suffices=False)
    assert_holds(made.network, rrdb(scale))
    for model in ("RRDB", "SRFlow"):
        for other in {2, 4, 8} - {scale}:
            made, options = network(model, other)
            before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
            with pytest.raises(WeightsError, match=f"RRDB of scale {scale}, the options say scale {other}"):
                weights.load(tmp_path / "w.pth", made, options, encoder_suffices=True)
            assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize(("channels", "scale"), [(12, 2), (48, 1)])
def test_an_rrdb_that_reads_blocks_of_pixels_has_another_scale(channels, scale):
    state = basicsr(STATE) | {"conv_first.weight": torch.zeros(8, channels, 3, 3)}
    assert state_dicts.scale_of(state_dicts.find_tensors(state)[0]) == scale


def test_a_flow_in_a_wrapper(network, tmp_path):
    made, options = network()
    state = published.write_back(made.network)
    torch.save({"state_dict": prefixed("netG.module.", state), "epoch": 1}, tmp_path / "w.pth")
    for tensor in made.state_dict().values():
        tensor.zero_()
    assert weights.load(tmp_path / "w.pth", made, options, encoder_suffices=False) == "network"
    assert all(torch.equal(tensor, state[name]) for name, tensor in published.write_back(made.network).items())


def test_a_flow_of_another_scale_names_both(network, tmp_path):
    torch.save(published.write_back(network(scale=2)[0].network), tmp_path / "w.pth")
    made, options = network(scale=4)
    with pytest.raises(WeightsError, match="RRDB of scale 2, the options say scale 4"):
        weights.load(tmp_path / "w.pth", made, options, encoder_suffices=False)


@pytest.mark.parametrize("content", [[1], {"x": 1}, {}, {"params": {"x": {}}}, {"epoch": torch.tensor(1)}])
def test_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(published.PublishedError, match=r"w\.pth: expected a state dict, tensors by name, got"):
        published.read(tmp_path / "w.pth")


def test_safetensors_that_are_neither_ours_nor_published(network, tmp_path):
    made, options = network()
    for content in ({"a.b.c": torch.zeros(2)}, {"x": torch.zeros(())}, {}):
        safetensors.torch.save_file(content, tmp_path / "w.safetensors")
        with pytest.raises((WeightsError, published.PublishedError), match=r"w\.safetensors: "):
            weights.load(tmp_path / "w.safetensors", made, options, encoder_suffices=True)
