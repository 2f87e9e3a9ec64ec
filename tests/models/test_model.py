"""One object per model: built in Python or from options, saved, loaded."""

import pickle
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

import robustflow as rf
from robustflow import models
from robustflow.interop import published
from robustflow.models import weights
from robustflow.models.weights import WeightsError
from robustflow.utils.errors import UserError

SIZES = {"nf": 8, "nb": 2, "gc": 4}
FLOW = {**SIZES, "K": 1, "hidden_channels": 8}
MODELS = {
    "SRFlow": lambda: rf.SRFlow(coupling=rf.Affine(eps=0.1), noise_std=0.01, **FLOW),
    "NCSR": lambda: rf.NCSR(scale=8, noise_max=0.02, **FLOW),
    "FSNCSR": lambda: rf.FSNCSR(scale=2, coupling=rf.RationalQuadratic(bounds=(-1.0, 1.0)), L=2, **FLOW),
    "LLFlow": lambda: rf.LLFlow(train_gt_ratio=0.5, **FLOW),
    "RRDB": lambda: rf.RRDB(pixel_criterion="l2", **SIZES),
}


class Unregistered(rf.Affine):
    pass


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def image(scale=1, seed=1):
    return torch.rand(2, 3, 8 * scale, 8 * scale, generator=generator(seed))


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def test_what_is_saved_is_loaded(model, tmp_path):
    lr = image()
    model.loss(image(model.scale), lr, generator())
    expected = model.eval().sample(lr, n=2, temperature=0.8, generator=generator())
    model.save(tmp_path / "m.safetensors")
    loaded = rf.load(tmp_path / "m.safetensors", device="cpu")
    assert type(loaded) is type(model) and not loaded.training and loaded.file == tmp_path / "m.safetensors"
    assert loaded.options.model == model.options.model and loaded.options.network_G == model.options.network_G
    assert torch.equal(loaded.sample(lr, n=2, temperature=0.8, generator=generator()), expected)


def test_what_is_pickled_is_the_same_model(model):
    """As processes hand it to each other, sampled from before or not."""
    lr = image()
    expected = model.eval().sample(lr, n=2, temperature=0.8, generator=generator())
    other = pickle.loads(pickle.dumps(model))
    assert torch.equal(other.sample(lr, n=2, temperature=0.8, generator=generator()), expected)
    assert other.options == model.options


def test_options_build_the_same_model(model):
    other = models.build(model.options)
    assert type(other) is type(model)
    assert [p.shape for p in other.parameters()] == [p.shape for p in model.parameters()]
    assert other.options == model.options


def test_samples_of_a_batch_are_those_of_its_images(model):
    lr = image()[..., :7, :6]
    model.eval()
    both = model.sample(lr, n=3, temperature=0.0)
    assert both.shape == (3, 2, 3, 7 * model.scale, 6 * model.scale)
    for number in range(2):
        torch.testing.assert_close(
            both[:, number], model.sample(lr[number : number + 1], 3, 0.0)[:, 0], rtol=0, atol=1e-5
        )
    parts = model.sample(lr, 3, 0.9, generator(), at_once=2)
    torch.testing.assert_close(parts, model.sample(lr, 3, 0.9, generator()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["SRFlow", "NCSR", "FSNCSR", "LLFlow"])
def test_encoding_and_decoding_are_inverse(name):
    model = MODELS[name]().double().eval()
    hr, lr = image(model.scale).double()[..., : 7 * model.scale, :], image().double()[..., :7, :]
    torch.testing.assert_close(model.decode(model.encode(hr, lr), lr), hr, rtol=0, atol=1e-9)
    assert model.bits_per_dim(image(model.scale).double(), image().double()).shape == (2,)


@pytest.mark.parametrize("sides", [(8, 8), (16, 16), (16, 32), (40, 32), (31, 32)], ids=str)
def test_images_that_do_not_fit_each_other_are_refused(sides):
    lr, message = image(), "expected hr with sides 4 times those of lr, got shapes"
    hr = torch.rand(2, 3, *sides)
    for model in (rf.RRDB(**SIZES), *(kind(L=2, **FLOW).eval() for kind in (rf.SRFlow, rf.NCSR, rf.FSNCSR))):
        with pytest.raises(ValueError, match=message):
            model.loss(hr, lr)
        if isinstance(model, models.FlowModel):
            with pytest.raises(ValueError, match=message):
                model.bits_per_dim(hr, lr)
            # What is mirrored is less than an LR pixel.
            if sides == (31, 32):
                assert model.encode(hr, lr)[-1].shape[-2:] == (8, 8)
            else:
                with pytest.raises(ValueError, match=message):
                    model.encode(hr, lr)


BAD_IMAGES = {
    "uint8": lambda images: images.byte(),
    "numpy": lambda images: images.numpy(),
    "list": lambda images: images.tolist(),
    "one image": lambda images: images[0],
    "grey": lambda images: images[:, :1],
    "none": lambda images: images[:0],
}


@pytest.mark.parametrize("spoil", BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_what_is_no_batch_of_images_is_refused(model, spoil):
    """Grey ones would be taken for colour ones, as sums are of what fits."""
    hr, lr = image(model.scale), image()
    calls = [
        (model.loss, (spoil(hr), lr), "hr"),
        (model.loss, (hr, spoil(lr)), "lr"),
        (model.sample, (spoil(lr),), "lr"),
    ]
    if isinstance(model, models.FlowModel):
        calls += [(f, (spoil(hr), lr), "hr") for f in (model.bits_per_dim, model.encode)]
        calls.append((model.decode, (model.encode(hr, lr), spoil(lr)), "lr"))
    for function, arguments, name in calls:
        with pytest.raises(
            ValueError, match=rf"expected {name} \(b, 3, h, w\), a floating tensor with values in \[0, 1\]"
        ):
            function(*arguments)


def test_what_is_of_another_type_than_the_weights_is_refused(model):
    """As images are that NumPy made, float64."""
    hr, lr = image(model.scale), image()
    calls = [
        (model.loss, (hr.double(), lr), "hr"),
        (model.loss, (hr, lr.double()), "lr"),
        (model.sample, (lr.half(),), "lr"),
    ]
    if isinstance(model, models.FlowModel):
        latents = model.encode(hr, lr)
        calls += [(f, (hr.double(), lr), "hr") for f in (model.bits_per_dim, model.encode)]
        calls += [(model.decode, (latents, lr.double()), "lr")]
        calls += [(model.decode, ([*latents[:-1], latents[-1].double()], lr), "latents")]
    for function, arguments, name in calls:
        with pytest.raises(
            ValueError, match=rf"expected {name} in torch\.float32, as the weights are, got torch\.\w+: "
        ):
            function(*arguments)
    model.double().loss(hr.double(), lr.double())


def test_what_is_no_generator_is_refused(model):
    """As a seed is none."""
    hr, lr = image(model.scale), image()
    calls = [partial(model.loss, hr, lr), partial(model.sample, lr)]
    if isinstance(model, models.FlowModel):
        calls.append(partial(model.bits_per_dim, hr, lr))
    for call in calls:
        with pytest.raises(ValueError, match=r"expected a torch\.Generator, as .* or None, got int"):
            call(generator=0)


def test_images_that_are_not_as_many_are_refused(model):
    for hr, lr in ((image(model.scale), image()[:1]), (image(model.scale)[:1], image())):
        with pytest.raises(ValueError, match="expected as many hr as lr, got"):
            model.loss(hr, lr)


def test_called_as_a_module_it_gives_its_loss(model):
    hr, lr = image(model.scale), image()
    model.loss(hr, lr)
    assert torch.equal(model(hr, lr, generator()), model.loss(hr, lr, generator()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_is_trained_under_autocast(model, perturb, dtype):
    hr, lr, first = image(model.scale), image(), "encoder.conv_first.weight"
    perturb(model.network, std=0.05).float()
    losses, gradients = [], []
    for active in (False, True):
        with torch.autocast("cpu", dtype, enabled=active):
            losses.append(model.loss(hr, lr, generator()))
        gradients += torch.autograd.grad(losses[-1], [dict(model.network.named_parameters())[first]])
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.02)
    assert 0 < (gradients[1] - gradients[0]).norm() < 0.2 * gradients[0].norm()


def test_weights_may_come_from_outside(model):
    """As of a network that makes them."""
    model, hr, lr = model.double(), image(model.scale).double(), image().double()
    model.loss(hr, lr)
    weights_of = {name: 1.01 * weight.detach() for name, weight in model.named_parameters()}
    found = torch.func.functional_call(model, weights_of, (hr, lr, generator()))
    with torch.no_grad():
        before = model.eval().loss(hr, lr, generator())
        found_without_autograd = torch.func.functional_call(model, weights_of, (hr, lr, generator()))
        assert torch.equal(model.loss(hr, lr, generator()), before)
    model.load_state_dict(weights_of, strict=False)
    for loss in (found, found_without_autograd):
        torch.testing.assert_close(loss, model.loss(hr, lr, generator()), rtol=1e-9, atol=0)


def test_properties_are_not_hidden_by_modules(model):
    names = list(model.state_dict())
    with pytest.raises(AttributeError, match="encoder"):
        model.encoder = torch.nn.Identity()
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("name", ["m", "m.pt", "m.ckpt"])
def test_files_that_could_not_be_loaded_are_not_saved(model, tmp_path, name):
    with pytest.raises(ValueError, match=r"expected a path that ends in \.safetensors"):
        model.save(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_home_and_variables_in_paths_are_filled_in(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    for path, place in (("~/m.safetensors", "home"), ("$RUNS/new/m.safetensors", "runs/new")):
        model.save(path)
        assert rf.load(path, device="cpu").file == tmp_path / place / "m.safetensors"
    assert not Path("~").exists()


@pytest.mark.parametrize("source", [None, 5, {}], ids=str)
def test_what_is_no_path_is_not_loaded(source):
    with pytest.raises(TypeError, match=r"expected str, bytes or os\.PathLike object, not "):
        rf.load(source)


def test_a_device_is_named_or_given(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    assert rf.load(tmp_path / "m.safetensors", device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize("numbers", [{"n": 0}, {"n": -1}, {"n": 2, "at_once": 0}, {"n": 2, "at_once": -1}], ids=str)
def test_no_samples_are_refused(model, numbers):
    with pytest.raises(ValueError, match="expected at least one sample, and one at once, got n = "):
        model.sample(image(), **numbers)


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_what_is_no_temperature_is_refused(model, temperature):
    with pytest.raises(ValueError, match="expected a finite temperature of at least 0, got "):
        model.sample(image(), temperature=temperature)


def test_state_dicts_of_ours_are_told_from_published_weights(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=r"got the state dict of a model of this package; give it to .*load_state"):
        rf.load(tmp_path / "m.pth")


def test_experiment_folders_are_loaded(tmp_path):
    options = tiny.options("SRFlow")
    for number in (1, 2):
        weights.save(tmp_path / f"models/0000000{number}_G.safetensors", tiny.built(options, 0.01), options, number)
    assert rf.load(str(tmp_path), device="cpu").file.name == "00000002_G.safetensors"


def test_published_weights_are_loaded_with_their_option_file(tmp_path):
    model = rf.SRFlow(**FLOW)
    torch.save(published.write_back(model.network), tmp_path / "x_G.pth")
    flow = "K: 1, L: 3, hidden_channels: 8"
    text = f"name: x\nmodel: SRFlow\nscale: 4\nnetwork_G: {{nf: 8, nb: 2, gc: 4, flow: {{{flow}}}}}\n"
    (tmp_path / "x.yml").write_text(text)
    loaded = rf.load(tmp_path / "x.yml", tmp_path / "x_G.pth", device="cpu")
    lr = image()
    assert torch.equal(loaded.sample(lr, 1, 0.5, generator()), model.eval().sample(lr, 1, 0.5, generator()))
    with pytest.raises(WeightsError, match="give their option file"):
        rf.load(tmp_path / "x_G.pth")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"S": 3, "K": 2}, ValueError, "^S: expected at most K = 2"),
        ({"L": 2, "max_log_scale": 2.0}, ValueError, "^max_log_scale: expected a level that splits"),
        ({"coupling": rf.Affine}, ValueError, "got <class '.*Affine'>, a class: make an instance"),
        ({"hidden_chanels": 8}, TypeError, "did you mean 'hidden_channels'"),
        ({"scale": 1}, ValueError, "scale: expected 2, 4, 8 or 16"),
        ({"nb": 0}, ValueError, "nb: Input should be greater than or equal to 1, got 0$"),
        ({"coupling": "afine"}, ValueError, "^coupling: unknown coupling 'afine'.* did you mean 'affine'"),
        ({"coupling": {"type": "affine", "eps": -1.0}}, ValueError, "eps: Input should be greater than 0, got -1.0$"),
        ({"encoder": torch.nn.Identity()}, ValueError, "encoder: expected its name or options, got an instance"),
        ({"coupling": Unregistered()}, ValueError, "expected a registered coupling, got Unregistered"),
        ({"encoder": "low_light"}, ValueError, "expected RRDB for super-resolution"),
    ],
    ids=str,
)
def test_what_cannot_be_is_an_error(arguments, error, message):
    with pytest.raises(error, match=message):
        rf.FSNCSR(**{**SIZES, **arguments})


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (rf.SRFlow, {"noise_std": -0.1}, "noise_std: Input should be greater"),
        (rf.SRFlow, {"noise_std": float("nan")}, "noise_std: Input should be"),
        (rf.NCSR, {"noise_max": -0.1}, "noise_max: Input should be greater"),
        (rf.FSNCSR, {"noise_max": "0.1"}, "noise_max: Input should be a valid number"),
        (rf.LLFlow, {"train_gt_ratio": 2.0}, "train_gt_ratio: Input should be less"),
        (
            rf.RRDB,
            {"pixel_criterion": "L1", "residual": "first"},
            "pixel_criterion: .*'l1' or 'l2', got 'L1'; residual: ",
        ),
        (rf.RRDB, {"precision": "half"}, "precision: expected one of auto, fp32, tf32, bf16, got 'half'"),
        (rf.SRFlow, {"precision": "half"}, "precision: expected one of auto, fp32, tf32, bf16, got 'half'"),
        (rf.SRFlow, {"checkpointing": "steps"}, "checkpointing: expected one of none, step, level, got 'steps'"),
        *((kind, {"scale": 3}, "scale: expected 2, 4, 8 or 16 .*got 3") for kind in (rf.SRFlow, rf.RRDB, rf.Bicubic)),
    ],
    ids=str,
)
def test_values_that_its_options_cannot_have_are_refused_by_a_model(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(**{**SIZES, **arguments})


def test_nothing_to_load(tmp_path):
    with pytest.raises(UserError, match=r"or a model of the box \(box_4x, box_4x_affine\); found none"):
        rf.load(tmp_path / "m.safetensors")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        rf.Nothing  # noqa: B018
    assert set(rf.__all__) <= set(dir(rf))


def test_published_sizes():
    """41.7 M is published; 0.6 M of it are parameters that the published network never uses."""
    with torch.device("meta"):
        models = rf.FSNCSR(), rf.FSNCSR(scale=8)
        assert rf.LLFlow().options.network_G.nb == 24
    assert 41.0e6 < sum(p.numel() for p in models[0].parameters()) < 41.2e6
    flows = [model.options.network_G.flow for model in models]
    assert [(flow.K, flow.L, flow.S) for flow in flows] == [(16, 3, (0, 16, 16)), (20, 4, (0, 0, 16, 16))]
    assert [model.largest_noise for model in models] == [0.05, 0.03]
    small = rf.SRFlow(scale=8, nf=4, nb=1, gc=2, K=1, hidden_channels=2)
    assert rf.NCSR(nf=4, nb=1, gc=2, K=3, L=2, hidden_channels=2).options.network_G.flow.S == (0, 3)
    assert small.options.network_G.flow.L == 4 and small.noise_std == pytest.approx(4 / 3**0.5 / 255)
