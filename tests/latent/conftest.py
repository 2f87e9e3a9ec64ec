import pytest
import tiny
import torch
from photographs import piece

from robustflow.commands.apply import main
from robustflow.data.bicubic import downsample
from robustflow.data.images import write_png
from robustflow.models import weights
from robustflow.options.load import dump


def options(model="FS-NCSR", *, splits=True, **changes):
    """Options of a tiny model; with splits it makes as many as it can."""
    split = {"enable": splits and model != "LLFlow", "correct_splits": True}
    return tiny.options(model, split=split, **changes)


def built_calm(options, std):
    """As `built`, with samples near what they are conditioned on, as those of trained models are."""
    model = tiny.built(options, std)
    with torch.no_grad():
        model.network.levels[0].transitions[0].actnorm.logs += 3
    return model


@pytest.fixture
def make_model():
    """Make a tiny model whose weights are random, float32."""

    def make(model="FS-NCSR", **changes):
        return tiny.built(options(model, **changes), 0.03)

    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with options and weights of tiny models, and images for them."""
    place = tmp_path_factory.mktemp("model")
    for run in (options(), options("LLFlow", name="low", L=3)):
        weights.save(place / f"{run.name}_G.safetensors", built_calm(run, 0.01), run, 1)
        (place / f"{run.name}.yml").write_text(dump(run))
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
