"""The package against what a plain implementation computed: features, latents, likelihoods, log-dets, samples."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import make
import numpy as np
import pytest
import tiny
import torch
from golden_cases import CASES, inputs, latents, weights
from published_fixtures import load_rrdb

from robustflow import models
from robustflow.encoders.low_light import chromaticity
from robustflow.interop import published

# Largest difference, relative to the largest value.
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-13}


def options_of(case):
    """As of a YAML file; likelihoods are those of images without training noise."""
    noise = {"SRFlow": {"noise_std": 0}, "LLFlow": {}}.get(case.model, {"noise_max": 0})
    every = len(case.splits) == case.L - 1
    return tiny.options(
        {"type": case.model, **noise},
        scale=case.scale,
        coupling={"type": case.coupling, **{k: v for k in ("eps", "B") if (v := getattr(case, k)) is not None}},
        hidden_channels=case.hidden,
        permutation_train=not case.fixed,
        stackRRDB={"blocks": case.taps},
        split={"enable": bool(case.splits), "correct_splits": every, "max_log_scale": case.max_log_scale},
        **{key: getattr(case, key) for key in ("L", "K", "S", "nf", "nb", "gc")},
    )


@cache
def loaded(name):
    case = CASES[name]
    model = models.build(options_of(case)).eval()
    if case.coupling in ("exp_affine", "soft_affine"):
        # In no published checkpoint: their heads are laid out as those of affine.
        affine = models.build(options_of(replace(case, coupling="affine", eps=1e-4, B=None)))
        published.fill(affine.network, weights(case))
        model.load_state_dict(affine.state_dict())
    else:
        published.fill(model.network, weights(case))
    return model.eval()


def stored(name):
    return np.load(Path(make.__file__).parent / f"{name}.npz")


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=CASES)
def given(request, dtype):
    """A case, its model and inputs in the precision asked for, and a check of values with the stored ones."""
    case, expected = CASES[request.param], stored(request.param)
    images = {name: value.to(dtype) for name, value in vars(inputs(case)).items()}

    def check(**values):
        for name, value in values.items():
            found, known = value.double().numpy(), expected[name]
            assert found.shape == known.shape, name
            difference = np.abs(found - known).max() / np.abs(known).max()
            assert difference <= LIMITS[dtype], f"{name}: {difference:.2g}"

    model = loaded(request.param).to(dtype)
    condition = model.encoder_input(model.condition_of(images["lr"]))
    return SimpleNamespace(case=case, model=model, flow=model.flow, condition=condition, check=check, **images)


@torch.no_grad()
def test_features(given):
    pyramid = given.model.encoder(given.condition)
    given.check(taps=pyramid.taps, **{f"native_{k}": native for k, native in enumerate(pyramid.native)})
    if given.case.is_low_light:
        given.check(mean=pyramid.mean)
    else:
        assert pyramid.mean is None


@torch.no_grad()
def test_encoding(given):
    clean = given.model.inputs(given.hr, given.model.condition_of(given.lr), torch.Generator())
    noise = given.noise if any(given.case.S) else None
    encoding = given.flow.encode(clean.x + given.noise, given.condition, noise)
    given.check(log_prob=encoding.log_prob, log_det=encoding.log_det)
    given.check(**{f"latent_{k}": latent for k, latent in enumerate(encoding.latents)})


@torch.no_grad()
def test_bits_per_dimension(given):
    given.check(bits_per_dim=given.model.bits_per_dim(given.hr, given.lr))
    if given.case.is_low_light:
        of_colors = given.flow.encode(given.hr, given.condition, mean=chromaticity(given.hr))
        given.check(log_prob_of_own_colors=of_colors.log_prob)


@torch.no_grad()
def test_decoding(given):
    z = latents(given.z, given.flow.latent_shapes(*given.hr.shape[-2:]))
    image = given.model.decode(z, given.lr)
    given.check(image=image, decoded_log_det=given.flow.decode(z, given.condition)[1])
    # The latents of the second item are zero.
    sample = given.model.sample(given.lr[1:], temperature=0)
    torch.testing.assert_close(sample[0], image[1:], rtol=1e-4, atol=1e-4)


def test_image_of_the_encoder_alone(dtype):
    case = CASES["srflow_affine"]
    tensors = {name.removeprefix("RRDB."): value for name, value in weights(case).items() if name.startswith("RRDB.")}
    network = load_rrdb(tensors).to(dtype)
    found = network(inputs(case).lr.to(dtype)).detach().numpy()
    assert np.abs(found - stored("srflow_affine")["rrdb"]).max() <= (1e-14 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_stored_values_are_those_of_the_maker(name):
    known, found = stored(name), make.expected(CASES[name])
    assert known.keys() == found.keys()
    for key, value in found.items():
        np.testing.assert_allclose(value, known[key], rtol=0, atol=1e-13 * np.abs(value).max())


def test_fixtures_are_small():
    assert sum(path.stat().st_size for path in Path(make.__file__).parent.glob("*.npz")) <= 400_000
