"""The robust maps that were tried keep the contract of the package's own, and train."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from robustflow.commands import reproduce
from robustflow.options.load import load_recipe
from robustflow.testing import check_elementwise

NAME = "benchmarks.robust_maps"
MAPS = {
    "learned": lambda of: of.LearnedSoftAffine(B=3.0, limit=30.0, eps=0.1),
    "growing": lambda of: of.GrowingSoftAffine(B=3.0, start=0.3, passes=10, eps=0.1),
    "one knot": lambda of: of.ManyKnots(knots=1, bound=0.5, eps=1e-3),
    "seven knots": lambda of: of.ManyKnots(knots=7, bound=2.0, eps=1e-2),
}


@pytest.fixture
def variants(monkeypatch):
    """The plugin, registered for one test alone."""
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    return importlib.import_module(NAME)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", MAPS)
def test_maps_keep_the_contract(variants, name):
    check_elementwise(MAPS[name](variants).double().eval())


def test_b_grows_in_training_alone_and_arrives(variants):
    growing, x = variants.GrowingSoftAffine(B=4.0, start=1.0, passes=2, eps=0.1), torch.ones(1, 1, 1, 1)
    seen = []
    for training in (True, False, True, True):
        growing.train(training)(x, torch.zeros(1, 2, 1, 1, 1))
        seen.append(growing.B.item())
    assert seen == pytest.approx([2, 2, 4, 4])


def test_soft_actnorm_is_set_by_the_first_batch_and_inverts(variants):
    sizes = {"nf": 8, "nb": 1, "gc": 4, "K": 2, "L": 2, "S": (0, 1), "hidden_channels": 8}
    model = variants.SoftNorm(4, {"type": "soft_affine", "B": 3.0, "eps": 0.1}, norm_B=2.0, **sizes).double()
    hr, lr = torch.rand(2, 3, 16, 16, dtype=torch.float64), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    model.train().loss(hr, lr).backward()
    norm = model.flow.levels[0].steps[0].injector.norm
    assert norm.is_initialized() and norm.logs.grad.abs().min() > 0 and norm.bias.grad.abs().min() > 0
    z = model.eval().encode(hr, lr)
    torch.testing.assert_close(model.decode(z, lr), hr)


def test_the_recipe_is_right(variants, monkeypatch):
    file = Path(variants.__file__).with_suffix(".yml")
    monkeypatch.chdir(file.parents[1])
    recipe = load_recipe(file)
    jobs = [reproduce.Job(file, given, 0, small=False) for given in recipe.runs]
    reproduce._require_tested(recipe, jobs)
    assert len({job.options.name for job in jobs}) == len(jobs)
    assert {job.options.network_G.flow.coupling.type for job in jobs} > {"many_knots", "soft_affine", "rq_spline"}
