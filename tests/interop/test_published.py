"""The network against the published ones: latents, likelihoods, samples, gradients, training steps."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
import yaml
from published_fixtures import (
    CASES,
    FLOWS,
    LOW_LIGHT,
    assert_gradient_norms,
    bits_per_position,
    difference,
    fixture,
    gradient_norms,
    load_flow,
    load_rrdb,
    needs_fixtures,
    noise_of,
)
from published_fixtures import unused as unused_in

import robustflow
from robustflow.encoders.low_light import chromaticity
from robustflow.interop import layout, published

pytestmark = needs_fixtures

# Reached by a plain implementation: 1e-6 / 1e-14 for affine networks, 1e-4 / 1e-13 for splines.
LIMITS = {("affine", torch.float32): 1e-5, ("spline", torch.float32): 1e-3}
EXACT = 1e-11


@cache
def loaded(name):
    case = fixture(name)
    return case, load_flow(case["options"], case["state_dict"])


def limit(name, dtype):
    return EXACT if dtype == torch.float64 else LIMITS["spline" if "spline" in name else "affine", dtype]


def model(name, dtype):
    case, flow = loaded(name)
    return case, flow.to(dtype)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def answers(case, mode, dtype):
    call = case["calls"][mode]
    return call if dtype == torch.float32 else call["f64"]


def shift(condition):
    """The prior's mean, which the published latents contain."""
    return 0 if condition.mean is None else condition.mean


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_encoding(name, dtype):
    case, flow = model(name, dtype)
    gt, lr = (case["inputs"][key].to(dtype) for key in ("gt", "lr"))
    condition = flow.condition(lr)
    for mode in case["calls"]:
        expected = answers(case, mode, dtype)["fwd"]
        encoding = flow.encode(gt, condition, noise_of(case, mode, dtype))
        assert difference(bits_per_position(encoding.log_prob, gt), expected["nll"]) <= limit(name, dtype)
        last = -0.5 * (encoding.latents[-1] ** 2 + math.log(2 * math.pi)).flatten(1).sum(1)
        assert difference(encoding.log_prob - last, expected["logdet"]) <= limit(name, dtype)
        found = [*encoding.latents[:-1], encoding.latents[-1] + shift(condition)]
        for latent, other in zip(found, expected["epses"] or [], strict=expected["epses"] is not None):
            assert difference(latent, other) <= limit(name, dtype)


@pytest.mark.parametrize("name", LOW_LIGHT)
@torch.no_grad()
def test_prior_means(name, dtype):
    """That of the encoder, and that of the normal-light image. Both are kept in float32."""
    case, flow = model(name, dtype)
    gt, lr = (case["inputs"][key].to(dtype) for key in ("gt", "lr"))
    condition = flow.condition(lr)
    assert difference(F.pixel_shuffle(condition.mean, 8), case["encoder_color_map"]) <= max(limit(name, dtype), 1e-6)
    bits = bits_per_position(flow.encode(gt, lr, mean=chromaticity(gt)).log_prob, gt)
    assert difference(bits, case["calls"]["plain"]["fwd"]["nll_gtbranch"]) <= max(limit(name, dtype), 2e-6)


@torch.no_grad()
def test_noise_may_be_one_value_per_image():
    case, flow = model("a_ncsr4x_affine_eps1e-4", torch.float64)
    gt, lr = (case["inputs"][key].double() for key in ("gt", "lr"))
    expected = case["calls"]["std0"]["f64"]["fwd"]["nll"]
    assert (
        difference(bits_per_position(flow.encode(gt, lr, case["stds"]["std0"].double()).log_prob, gt), expected)
        <= EXACT
    )


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_decoding(name, dtype):
    case, flow = model(name, dtype)
    condition = flow.condition(case["inputs"]["lr"].to(dtype))
    *first, last = (z.to(dtype) for z in case["epses_rand"])
    latents = [*first, last - shift(condition)]
    for mode in case["calls"]:
        expected, noise = answers(case, mode, dtype), noise_of(case, mode, dtype)
        assert difference(flow.decode(latents, condition, noise)[0], expected["rev_rand"]["sr"]) <= limit(name, dtype)
        if expected.get("rev_heat0") and expected["rev_heat0"]["sr"] is not None:
            mean = flow.decode([torch.zeros_like(z) for z in latents], condition, noise)[0]
            assert difference(mean, expected["rev_heat0"]["sr"]) <= limit(name, dtype)


@pytest.mark.parametrize("name", FLOWS)
@torch.no_grad()
def test_bf16_changes_bits_per_dimension_by_less_than_half_a_percent(name):
    case, exact = model(name, torch.float32)
    rough = load_flow(case["options"], case["state_dict"], precision="bf16")
    gt, lr, noise = case["inputs"]["gt"], case["inputs"]["lr"], noise_of(case, case["grad"]["std"], torch.float32)
    bits = bits_per_position(exact.encode(gt, lr, noise).log_prob, gt)
    change = bits_per_position(rough.encode(gt, lr, noise).log_prob, gt) - bits
    assert 0 < (change / bits).abs().max() < 0.005
    latents = case["epses_rand"]
    assert rough.decode(latents, lr, noise)[0].isfinite().all() == exact.decode(latents, lr, noise)[0].isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_gradients(name, dtype):
    case, flow = model(name, dtype)
    flow.zero_grad()
    gt, lr = (case["inputs"][key].to(dtype) for key in ("gt", "lr"))
    encoding = flow.encode(gt, lr, noise_of(case, case["grad"].get("std", "plain"), dtype))
    bits_per_position(encoding.log_prob, gt).mean().backward()
    assert_gradient_norms(gradient_norms(flow), case)


def test_encoder_alone():
    case = fixture("i_rrdbnet_4x")
    network = load_rrdb(case["state_dict"])
    with torch.no_grad():
        assert (network(case["inputs"]["x"]) - case["out"]).abs().max() <= 1e-6
        assert difference(network.double()(case["inputs"]["x"].double()), case["out_f64"]) <= 1e-13


def test_training_steps():
    """ActNorm initialised from the batch, then four Adam steps."""
    case = fixture("m1_trainstep_affine")
    flow = load_flow(case["options"], case["state_dict"])
    for module in flow.modules():
        if hasattr(module, "initialized"):
            module.initialized.fill_(False)
    flow.train()
    gt, lr, noise = (case["inputs"][key] for key in ("gt", "lr", "eps"))
    adam = torch.optim.Adam(flow.parameters(), 2e-4)
    losses = []
    for step in range(len(case["losses"])):
        loss = bits_per_position(flow.encode(gt, lr, noise).log_prob, gt).mean()
        if step == 0:
            check_initialisation(flow, case["actnorm_after_init"])
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert losses == pytest.approx(case["losses"], rel=1e-4)


def check_initialisation(flow, expected):
    theirs, entries = published.write_back(flow), published.layout_of(flow)
    live = [name for name in expected if entries[name].pieces]
    assert len(live) > 20
    for name in live:
        torch.testing.assert_close(theirs[name], expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_writing_back_is_exact(name):
    case, flow = model(name, torch.float32)
    written, unused = published.write_back(flow), unused_in(flow)
    assert written.keys() == case["state_dict"].keys()
    ends = ("conv_last", "HRconv", "downconv3", "awb_para", "f.0") if name in LOW_LIGHT else ()
    assert not ends or sorted(unused) == sorted(key for key in written if key.rsplit(".", 1)[0].endswith(ends))
    assert {"flowUpsamplerNet.f.0.weight", "RRDB.conv_last.weight"} <= set(unused)
    for theirs, tensor in case["state_dict"].items():
        assert written[theirs].shape == tensor.shape, theirs
        assert theirs in unused or torch.equal(written[theirs], tensor.float()), theirs


@pytest.mark.parametrize("name", LOW_LIGHT)
def test_option_file_and_checkpoint_load_as_they_are(name, tmp_path):
    case, flow = model(name, torch.float32)
    (tmp_path / "x.yml").write_text(yaml.safe_dump(case["options"]))
    # The fixture holds unused tensors as one value, expanded.
    torch.save({key: tensor.clone() for key, tensor in case["state_dict"].items()}, tmp_path / "x.pth")
    again = robustflow.load(tmp_path / "x.yml", tmp_path / "x.pth").network
    for ours, tensor in again.state_dict().items():
        assert torch.equal(tensor, flow.state_dict()[ours])


def test_missing_extra_and_wrong_tensors_are_all_named():
    case, _ = loaded(FLOWS[0])
    tensors = dict(case["state_dict"])
    del tensors["RRDB.trunk_conv.bias"]
    tensors["surprise"] = torch.zeros(3)
    tensors["flowUpsamplerNet.layers.1.actnorm.bias"] = torch.zeros(1, 5, 1, 1)
    with pytest.raises(published.PublishedError) as caught:
        load_flow(case["options"], tensors)
    message = str(caught.value)
    assert "missing: RRDB.trunk_conv.bias" in message
    assert "not in this network: surprise" in message
    assert "layers.1.actnorm.bias: expected shape (1, 12, 1, 1), got (1, 5, 1, 1)" in message


@pytest.mark.parametrize(
    ("changed", "tensor", "remedy"),
    [
        ({"nf": 48}, "RRDB.conv_first.bias", "network_G.nf: 64 would fit"),
        ({"nb": 5}, "RRDB.RRDB_trunk.4.RDB1.conv1.weight", "network_G.nb (encoder blocks): the options make 5"),
        ({"gc": 32}, "RRDB.RRDB_trunk.0.RDB1.conv1.weight", "network_G.gc: 4 would fit"),
        ({"hidden": 32}, "fFeatures.2.weight", "hidden_channels: 16 would fit"),
        (
            {"permutation_train": False},
            "invconv.weight",
            "permutation_train: false (fixed 1x1 convolutions): the options make 15, the checkpoint has 0",
        ),
        ({"K": 4}, "fFeatures.0.weight", "network_G.flow.K times L (full steps): the options make 12"),
    ],
)
def test_remedy_for_options_that_do_not_fit(changed, tensor, remedy):
    case, _ = loaded("a_ncsr4x_affine_eps1e-4")
    network = {**case["options"]["network_G"]}
    flow = network["flow"] = {**network["flow"]}
    if "hidden" in changed:
        flow["CondAffineSeparatedAndCond"] = {"eps": 1e-4, "hidden_channels": changed["hidden"]}
    elif changed.keys() & {"K", "permutation_train"}:
        flow |= changed
    else:
        network |= changed
    with pytest.raises(published.PublishedError) as caught:
        load_flow({**case["options"], "network_G": network}, case["state_dict"])
    assert remedy in str(caught.value)


def test_sizes_that_the_options_lack_come_from_the_tensors():
    case, _ = loaded("a_ncsr4x_affine_eps1e-4")
    network = {key: value for key, value in case["options"]["network_G"].items() if key not in ("nf", "nb")}
    flow = load_flow({**case["options"], "network_G": network}, case["state_dict"])
    assert len(flow.encoder.blocks) == case["build_args"]["nb"]
    assert layout.of_flow(flow, layout.AFFINE).keys() == case["state_dict"].keys()


def test_misfits_of_low_light_name_tensor_and_remedy():
    case, _ = loaded(LOW_LIGHT[0])
    tensors = dict(case["state_dict"])
    del tensors["RRDB.downconv2.weight"]
    network = {**case["options"]["network_G"], "nf": 64}
    with pytest.raises(
        published.PublishedError, match=r"(?s)missing: RRDB\.downconv2\.weight.*network_G\.nf: \d+ would"
    ):
        load_flow({**case["options"], "network_G": network}, tensors)
