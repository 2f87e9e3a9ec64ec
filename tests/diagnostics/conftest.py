import pytest
import torch
from evaluation_fixtures import make_model, make_options

from robustflow.data.images import write_png
from robustflow.diagnostics.ood import mahalanobis
from robustflow.models import weights

__all__ = ["make_model", "make_options"]


@pytest.fixture
def images(tmp_path):
    """A folder of HR images: 40 x 72 pixels, and one smaller than a patch of 16 x 16."""
    generator = torch.Generator().manual_seed(0)
    for name, size in (("large", (40, 72)), ("small", (12, 30))):
        write_png(tmp_path / "in" / f"{name}.png", torch.rand(3, *size, generator=generator))
    return tmp_path / "in"


@pytest.fixture
def model(make_options, make_model, tmp_path):
    """A tiny saved model with its score on patches of 16 x 16: options, model, score."""
    train = {"mode": "bundled", "split": "train", "GT_size": 16}
    test = {"mode": "bundled", "split": "text", "GT_size": 16, "n_crops": 2}
    options = make_options(
        "SRFlow", datasets={"train": train, "test_text": test, "test_more": {**test, "name": "more"}}
    )
    model = make_model(options)
    file = tmp_path / "experiments" / "tiny" / "models" / "00000005_G.safetensors"
    weights.save(file, model, options, 5)
    return options, model, mahalanobis.fit_and_save(options, file, model, n_patches=40, patch=16)
