import importlib.metadata
import os
import warnings
from pathlib import Path

import lpips
import pytest
import torch
import torchvision

from robustflow.evaluation.metrics import perceptual
from robustflow.evaluation.metrics.perceptual import BACKBONE, Perceptual, load

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def alexnet():
    torch.manual_seed(0)
    return torchvision.models.alexnet(weights=None).state_dict()


@pytest.fixture(scope="module")
def package(alexnet):
    """The package as it is used with weights of one's own, with and without ``spatial``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        networks = [lpips.LPIPS(net="alex", spatial=spatial, pnet_rand=True, verbose=False) for spatial in (0, 1)]
    for network in networks:
        for name, parameter in network.net.named_parameters():
            parameter.data.copy_(alexnet[name.replace(name.split(".")[0], "features")])
    return networks


@pytest.fixture(scope="module")
def ours(alexnet):
    return Perceptual(alexnet, "random", "cpu")


def images(n=3, height=40, width=52):
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(256, (n + 1, 3, height, width), generator=generator).to(torch.uint8)
    return drawn[:n], drawn[n]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("budget", [1, perceptual._PIXELS])
def test_agrees_with_the_package(alexnet, package, device, budget, monkeypatch):
    monkeypatch.setattr(perceptual, "_PIXELS", budget)
    samples, reference = images()
    inputs = [lpips.im2tensor(x.permute(1, 2, 0).numpy()) for x in (*samples, reference)]
    ours = Perceptual(alexnet, "random", device)
    with torch.no_grad():
        expected, maps = ([network(x, inputs[-1]) for x in inputs[:-1]] for network in package)
    found = ours.distances(samples, reference)
    assert found.tolist() == pytest.approx([x.item() for x in expected], abs=1e-6)
    assert min(found) > 0.01
    assert ours.distance(samples[0], reference) == pytest.approx(expected[0].item(), abs=1e-6)
    torch.testing.assert_close(ours.maps(samples, reference), torch.cat(maps)[:, 0], rtol=0, atol=1e-6)


def test_shapes_and_gradients(ours):
    samples, reference = images()
    assert ours.distances(samples, reference).shape == (3,)
    maps = ours.maps(samples, reference)
    assert maps.shape == (3, 40, 52)
    assert not maps.requires_grad
    assert ours.distance(reference, reference) == 0
    assert ours.version == f"lpips {importlib.metadata.version('lpips')}, alex, v0.1, backbone random"


@pytest.mark.parametrize(("size", "known"), [((31, 31), True), ((30, 64), False), ((64, 30), False), ((1, 1), False)])
def test_small_images(ours, package, size, known):
    samples, reference = images(2, *size)
    assert (ours.distance(samples[0], reference) is not None) == known
    assert (ours.maps(samples, reference) is not None) == known
    if not known:
        with pytest.raises(RuntimeError):
            package[0](samples[:1].float(), reference[None].float())


def test_refuses_other_images(ours):
    samples, reference = images()
    for bad in (samples.float(), samples[..., 1:]):
        with pytest.raises(ValueError, match="expected uint8 images"):
            ours.distances(bad, reference)


def test_leaves_the_random_numbers_alone(alexnet):
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Perceptual(alexnet, "random", "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_absent_weights_say_what_to_do(tmp_path):
    missing = load("cpu", [tmp_path])
    assert isinstance(missing, str)
    assert missing == (
        "run 'robustflow fetch alexnet', or put torchvision's AlexNet weights alexnet-owt-7be5be79.pth into the "
        "folder pretrained_weights, or into checkpoints of torch's hub cache, and test again"
    )


def test_default_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for folder in ("pretrained_weights", "hub/checkpoints"):
        assert isinstance(load("cpu"), str)
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / BACKBONE).write_bytes(b"half a download")
        assert f"{folder}/{BACKBONE}: expected a file whose SHA-256 begins with 7be5be79, got " in load("cpu")


def test_weights_are_checked(tmp_path, alexnet, monkeypatch):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / BACKBONE).write_bytes(b"")
    features = {name: tensor for name, tensor in alexnet.items() if name.startswith("features.")}
    torch.save(features, tmp_path / BACKBONE)
    assert "got e3b0c442; " in load("cpu", [tmp_path / "bad"])
    digest = perceptual.hashlib.sha256((tmp_path / BACKBONE).read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual, "_DIGITS", digest[:8])
    loaded = load("cpu", [tmp_path / "bad", tmp_path])
    assert isinstance(loaded, Perceptual)
    assert loaded.version.endswith(f"backbone sha256 {digest}")
    samples, reference = images()
    assert loaded.distance(samples[0], reference) == Perceptual(alexnet, "", "cpu").distance(samples[0], reference)


def test_weights_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(file):
        raise PermissionError(13, "Permission denied", str(file))

    (tmp_path / BACKBONE).write_bytes(b"")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert load("cpu", [tmp_path]).startswith(f"{tmp_path / BACKBONE}: cannot be read (Permission denied); run ")


def test_a_cache_of_someone_else_is_an_empty_one(monkeypatch):
    def refuse(path, *arguments, **settings):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "stat", refuse)
    assert str(load("cpu", [Path("elsewhere")])).startswith("run ")


def test_the_real_weights(monkeypatch):
    found = load("cpu")
    if isinstance(found, str):
        pytest.skip(found)
    samples, reference = images()
    assert 0.1 < found.distance(samples[0], reference) < 2
