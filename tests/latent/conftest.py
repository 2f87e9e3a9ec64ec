import pytest
import torch
from photographs import piece
from random_networks import built

from robustflow.data.bicubic import downsample
from robustflow.data.images import write_png
from robustflow.latent.command_line import main
from robustflow.models import weights
from robustflow.options.load import dump
from robustflow.options.schema import RunOptions


def tiny(name, model, *, coupling="affine", scale=4, L=2, splits=True):
    """Options of a tiny flow."""
    noisy = (0, *[1] * (L - 1)) if model in ("NCSR", "FS-NCSR") else (0,)
    flow = {"K": 1, "L": L, "S": noisy, "hidden_channels": 8, "coupling": coupling}
    flow["split"] = {"enable": splits, "correct_splits": True}
    network = {"encoder": "low_light" if model == "LLFlow" else "RRDB", "nf": 8, "nb": 1, "gc": 4, "flow": flow}
    values = {"name": name, "model": model, "scale": scale, "device": "cpu", "network_G": network}
    return RunOptions.model_validate({**values, "val": {"protocol": "llflow"}} if scale == 1 else values)


def built_calm(options, std):
    """As `built`, with samples near what they are conditioned on, as those of trained models are."""
    model = built(options, std)
    with torch.no_grad():
        model.network.levels[0].transitions[0].actnorm.logs += 3
    return model


@pytest.fixture
def make_model():
    """Make a tiny model whose weights are random, float32."""

    def make(model="FS-NCSR", **options):
        return built(tiny("tiny", model, **options), 0.03)

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with options and weights of tiny models, and images for them."""
    place = tmp_path_factory.mktemp("model")
    low_light = tiny("low", "LLFlow", scale=1, L=3, splits=False)
    for options in (tiny("tiny", "FS-NCSR"), low_light):
        model = built_calm(options, 0.01)
        weights.save(place / f"{options.name}_G.safetensors", model, options, 1)
        (place / f"{options.name}.yml").write_text(dump(options))
    mask = torch.zeros(3, 45, 38)
    mask[:, 5:20, 5:20] = 1
    images = {
        "photo": piece(0, 45, 38),
        "other": piece(1, 45, 38),
        "large": piece(1, 48, 40),
        "lr": downsample(piece(0, 48, 40), 4),
        "hr": piece(0, 48, 40),
        "dark": piece(0, 48, 40) // 5,
        "mask": mask,
        "black": torch.zeros(3, 45, 38),
        "all/one": piece(0, 21, 30),
        "all/two": piece(2, 24, 24),
        "all_lr/one": downsample(piece(0, 21, 30), 4),
        "all_lr/two": downsample(piece(1, 24, 24), 4),
        "tiny_lr": piece(0, 2, 2),
        "tiny_hr": piece(0, 8, 8),
        "few_lr/one": downsample(piece(0, 21, 30), 4),
    }
    for name, image in images.items():
        write_png(place / f"{name}.png", image)
    return place


@pytest.fixture
def call(folder, tmp_path, capsys, caplog):
    """Run a command; return (exit status, standard output, errors, output folder). A leading @ names a file."""

    def calling(kind, *arguments, output=None, model="tiny"):
        given = [str(folder / text[1:]) if text.startswith("@") else text for text in arguments]
        output = tmp_path / "out" if output is None else output
        weights = ("-opt", str(folder / f"{model}.yml"), "--weights", str(folder / f"{model}_G.safetensors"))
        status = main([kind, *weights, "--output", str(output), *given])
        return status, capsys.readouterr().out, caplog.text, output

    return calling
