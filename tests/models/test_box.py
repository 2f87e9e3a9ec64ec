"""The models in the box: small, whole, as their option files say, and aware of what they were trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import robustflow as rf
from robustflow.data import BundledSource
from robustflow.data.bicubic import downsample
from robustflow.data.images import to_float
from robustflow.diagnostics.ood import mahalanobis
from robustflow.models import weights
from robustflow.options.load import load
from robustflow.utils import packaged

NAMES = ("box_4x", "box_4x_affine")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_small_and_described(name):
    folder = packaged.folder("pretrained_weights")
    assert (folder / f"{name}.safetensors").stat().st_size < 4e6
    assert (folder / f"{name}.ood.safetensors").is_file()
    card = (folder / "box_4x.md").read_text(encoding="utf-8")
    assert name in card and "train.py -opt confs/mini/box" in card


@pytest.mark.parametrize("name", NAMES)
def test_loads_by_name_as_its_option_file_says(name):
    model = rf.load(name)
    assert model.options.network_G == load(name).network_G == load(f"confs/mini/{name.replace('_4x', '')}").network_G
    lr = downsample(to_float(BundledSource("test", 4).pair(0)[0][None, :, :96, :96]), 4)
    samples = model.sample(lr, n=2, temperature=0.7, generator=torch.Generator().manual_seed(0))
    assert samples.shape == (2, 1, 3, 96, 96)
    again = downsample(samples.clamp(0, 1)[:, 0], 4)
    assert -10 * (again - lr).square().mean().log10() > 35


def test_a_folder_without_weights_does_not_hide_them():
    Path("box_4x").mkdir()
    assert weights.locate("box_4x") == packaged.folder("pretrained_weights") / "box_4x.safetensors"
    with pytest.raises(weights.WeightsError, match=r"box_5x: .*model of the box \(box_4x, box_4x_affine\)"):
        rf.load("box_5x")


def draw_page():
    """A page of text, black on white: (3, 240, 320)."""
    page = Image.new("RGB", (320, 240), "white")
    for line in range(12):
        ImageDraw.Draw(page).text((10, 8 + 18 * line), 8 * "The quick brown fox. ", fill="black")
    return torch.from_numpy(np.array(page)).movedim(-1, 0).float() / 255


def test_text_and_noise_are_unlike_what_it_was_trained_on_and_photographs_are_not():
    model = rf.load("box_4x")
    score = mahalanobis.load_beside(model.file, model.encoder)

    def is_unlike(lr):
        value, colour = score.bind(model)(lr)
        return bool(mahalanobis.unlike(score, {"x": value}) or mahalanobis.pale(score, {"x": colour}))

    photographs = [downsample(to_float(BundledSource("test", 4).pair(k)[0])[None], 4)[0] for k in range(3)]
    assert not any(map(is_unlike, photographs))
    noise = torch.randn(photographs[0].shape, generator=torch.Generator().manual_seed(0))
    assert is_unlike((photographs[0] + 0.2 * noise).clamp(0, 1))
    assert is_unlike(draw_page())
    print_and_board = BundledSource("text", 4)
    assert all(is_unlike(to_float(print_and_board.pair(k)[0])) for k in range(len(print_and_board)))
