"""The published networks' answers, on the GPU in float32."""

import math

import pytest
import torch
from published_fixtures import FLOWS, bits_per_position, difference, fixture, load_flow, needs_fixtures, noise_of

pytestmark = needs_fixtures


def limit(name):
    return 1e-3 if "spline" in name else 1e-5


@pytest.mark.parametrize("name", FLOWS)
@torch.no_grad()
def test_flow(device, name):
    case = fixture(name)
    flow = load_flow(case["options"], case["state_dict"]).to(device)
    gt, lr, latents = case["inputs"]["gt"], case["inputs"]["lr"], case["epses_rand"]
    for mode, call in case["calls"].items():
        noise = noise_of(case, mode, torch.float32)
        noise = None if noise is None else noise.to(device)
        encoding = flow.encode(gt.to(device), lr.to(device), noise)
        assert difference(bits_per_position(encoding.log_prob, gt).cpu(), call["fwd"]["nll"]) <= limit(name)
        last = -0.5 * (encoding.latents[-1] ** 2 + math.log(2 * math.pi)).flatten(1).sum(1)
        assert difference((encoding.log_prob - last).cpu(), call["fwd"]["logdet"]) <= limit(name)
        for latent, expected in zip(encoding.latents, call["fwd"]["epses"] or encoding.latents, strict=True):
            assert difference(latent.cpu(), expected.cpu()) <= limit(name)
        x, _ = flow.decode([z.to(device) for z in latents], lr.to(device), noise)
        assert difference(x.cpu(), call["rev_rand"]["sr"]) <= limit(name)
