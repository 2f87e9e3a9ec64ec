"""LLFlow against the published network: latents, likelihoods under both prior means, samples, gradients, tensors."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
import yaml
from published_fixtures import (
    LOW_LIGHT,
    assert_gradient_norms,
    bits_per_position,
    difference,
    fixture,
    needs_fixtures,
)

from robustflow.encoders.low_light import chromaticity
from robustflow.interop import published

pytestmark = needs_fixtures


@cache
def loaded(name):
    case = fixture(name)
    return case, published.load(case["options"], case["state_dict"])


@pytest.fixture(params=LOW_LIGHT)
def name(request):
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def limit(name, dtype):
    if dtype == torch.float64:
        return 1e-11
    return 1e-3 if "spline" in name else 1e-5


@pytest.fixture
def case(name, dtype):
    """The fixture, its network, x and y in the precision asked for, and what the published network answers."""
    found, flow = loaded(name)
    gt, lr = (found["inputs"][key].to(dtype) for key in ("gt", "lr"))
    answers = found["calls"]["plain"]
    return found, flow.to(dtype), gt, lr, answers if dtype == torch.float32 else answers["f64"]


@torch.no_grad()
def test_encoding(case, limit):
    found, flow, gt, lr, expected = case
    condition = flow.condition(lr)
    encoding = flow.encode(gt, condition)
    assert difference(encoding.latents[0] + condition.mean, expected["fwd"]["epses"][0]) <= limit
    assert difference(encoding.log_det, expected["fwd"]["logdet"]) <= limit
    assert difference(bits_per_position(encoding.log_prob, gt), expected["fwd"]["nll"]) <= limit
    # The color map is kept in float32.
    assert difference(F.pixel_shuffle(condition.mean, 8), found["encoder_color_map"]) <= max(limit, 1e-6)


@torch.no_grad()
def test_likelihood_under_the_mean_of_the_normal_light_image(case, limit):
    found, flow, gt, lr, _ = case
    encoding = flow.encode(gt, lr, mean=chromaticity(gt))
    # Kept in float32.
    assert difference(bits_per_position(encoding.log_prob, gt), found["calls"]["plain"]["fwd"]["nll_gtbranch"]) <= max(
        limit, 2e-6
    )


@torch.no_grad()
def test_decoding(case, limit, dtype):
    found, flow, _, lr, expected = case
    condition = flow.condition(lr)
    x, _ = flow.decode([found["epses_rand"][0].to(dtype) - condition.mean], condition)
    assert difference(x, expected["rev_rand"]["sr"]) <= limit
    x, _ = flow.decode([torch.zeros_like(condition.mean)], condition)
    assert difference(x, expected["rev_heat0"]["sr"]) <= limit


def test_gradients(case):
    found, flow, gt, lr, _ = case
    flow.zero_grad()
    bits_per_position(flow.encode(gt, lr).log_prob, gt).mean().backward()
    ours = published.gradient_norms(flow)
    assert_gradient_norms(ours, found)
    assert ours["RRDB.fine_tune_color_map.0.weight"] > 0


def test_writing_back_is_exact(name):
    found, flow = loaded(name)
    written, unused = published.write_back(flow.float()), published.unused(flow, found["state_dict"])
    assert written.keys() == found["state_dict"].keys()
    ends = ("conv_last", "HRconv", "downconv3", "awb_para", "f.0")
    assert sorted(unused) == sorted(key for key in written if key.rsplit(".", 1)[0].endswith(ends))
    for theirs, tensor in found["state_dict"].items():
        assert written[theirs].shape == tensor.shape, theirs
        assert theirs in unused or torch.equal(written[theirs], tensor.float()), theirs


def test_option_file_and_checkpoint_load_as_they_are(name, tmp_path):
    found, flow = loaded(name)
    (tmp_path / "x.yml").write_text(yaml.safe_dump(found["options"]))
    # The fixture holds unused tensors as one value, expanded.
    torch.save({key: tensor.clone() for key, tensor in found["state_dict"].items()}, tmp_path / "x.pth")
    again = published.load_file(tmp_path / "x.yml", tmp_path / "x.pth")
    for ours, tensor in again.state_dict().items():
        assert torch.equal(tensor, flow.float().state_dict()[ours])


def test_misfits_name_tensor_and_remedy():
    found, _ = loaded(LOW_LIGHT[0])
    tensors = dict(found["state_dict"])
    del tensors["RRDB.downconv2.weight"]
    network = {**found["options"]["network_G"], "nf": 64}
    with pytest.raises(
        published.PublishedError, match=r"(?s)missing: RRDB\.downconv2\.weight.*network_G\.nf: \d+ would"
    ):
        published.load({**found["options"], "network_G": network}, tensors)
