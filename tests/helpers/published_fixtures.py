"""Checkpoints of the published networks, where the large fixtures stand: beside the repository, or in it."""

import math
from pathlib import Path

import pytest
import torch

from robustflow.encoders.rrdb import RRDBEncoder, RRDBNet
from robustflow.flows import builder
from robustflow.interop import option_files, published, state_dicts
from robustflow.options.schema import NetworkOptions
from robustflow.utils.yaml_tree import node_of, plain

_REPOSITORY = Path(__file__).resolve().parents[2]
_PLACES = [folder / "shared" / "golden" for folder in (_REPOSITORY.parent, _REPOSITORY)]
GOLDEN = next((place for place in _PLACES if place.is_dir()), _PLACES[0])
CASES = sorted(path.stem for path in GOLDEN.glob("*.pt") if path.stem.split("_")[0] in ("a", "c", "e2", "g1", "h2"))
LOW_LIGHT = [name for name in CASES if name.startswith("h")]
FLOWS = [name for name in CASES if name not in LOW_LIGHT]

needs_fixtures = pytest.mark.skipif(not FLOWS, reason="the large fixtures are not beside this repository")


def fixture(name):
    return torch.load(GOLDEN / f"{name}.pt", weights_only=True)


def load_flow(options, tensors, precision="fp32"):
    """The flow of a published checkpoint, in eval mode: of its option file's values, and of tensors."""
    values = plain(option_files.translate(node_of(dict(options), "options"))[0])
    network = published.complete(NetworkOptions.model_validate(values["network_G"]), tensors)
    scale = values.get("scale", options["network_G"].get("scale"))
    flow = builder.build(network, scale, precision=precision)
    published.fill(flow, tensors)
    return flow.eval()


def load_rrdb(tensors):
    """The network of a published RRDB checkpoint, image head included, in eval mode."""
    scale, options = state_dicts.scale_of(tensors), published.complete(NetworkOptions(), tensors)
    network = RRDBNet(RRDBEncoder(scale, 1, options.nf, options.nb, options.gc, None), scale)
    published.fill(network, tensors)
    return network.eval()


def unused(network):
    """Names of the tensors that the published network carries and never uses."""
    return [name for name, entry in published.layout_of(network).items() if not entry.pieces]


def gradient_norms(network):
    """L2 norm of the gradient of each published tensor that is trained, over the pieces it was split into."""
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    norms = {}
    for name, entry in published.layout_of(network).items():
        pieces = [(piece, gradients.get(piece.name)) for piece in entry.pieces]
        squares = [piece.inside(grad).double().square().sum().item() for piece, grad in pieces if grad is not None]
        if squares:
            norms[name] = math.sqrt(sum(squares))
    return norms


def noise_of(case, mode, dtype):
    """The noise map of a mode at the size of x, or None."""
    std, gt = case["stds"][mode], case["inputs"]["gt"]
    return None if std is None else std.to(dtype).expand(gt.shape[0], 3, *std.shape[2:])


def bits_per_position(log_prob, gt):
    return -log_prob / (math.log(2) * gt.shape[-2] * gt.shape[-1])


def difference(actual, expected):
    """Largest difference, relative to the largest value."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def assert_gradient_norms(ours, case):
    """Gradient norms by published names are those of the published network; what is dead there is not live here."""
    for theirs, norm in case["grad"]["norms"].items():
        if norm is None:
            assert theirs not in ours, f"{theirs} is live here, dead there"
        else:
            assert ours[theirs] == pytest.approx(norm, rel=1e-4, abs=1e-8), theirs
    assert len(ours) > 100
