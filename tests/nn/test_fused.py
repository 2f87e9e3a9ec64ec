import logging
from collections import Counter

import pytest
import torch

from robustflow.bijections.elementwise import Affine, RationalQuadratic, SoftAffine
from robustflow.nn import fused

pytestmark = pytest.mark.compiles


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch):
    fused._compile.cache_clear()
    monkeypatch.setattr(fused, "_without_compiler", set())


def results(elementwise, x, params):
    """Values, log-slopes and gradients of a map and, but for affine, its inverse: compiling takes seconds for each."""
    found = []
    for direction in (elementwise, elementwise.inverse)[: 1 if isinstance(elementwise, Affine) else 2]:
        variables = x.clone().requires_grad_(), params.clone().requires_grad_()
        y, log_slope = direction(*variables)
        weights = torch.linspace(0, 1, y.numel(), dtype=y.dtype).view(y.shape)
        found += [y.detach(), log_slope.detach()]
        found += torch.autograd.grad((weights * y).sum() + (weights**2 * log_slope).sum(), variables)
    return found


@pytest.mark.parametrize(
    "elementwise", [Affine(), RationalQuadratic(), SoftAffine()], ids=["affine", "rq_spline", "soft_affine"]
)
def test_compiled_equals_plain(elementwise, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(2, 3, 2, 8, 8, dtype=torch.float64, generator=generator)
    params = torch.randn(3, elementwise.num_params, 2, 8, 8, dtype=torch.float64, generator=generator)
    expected = results(elementwise, x, params)
    assert fused._compile.cache_info().currsize == 0
    monkeypatch.setattr(fused, "COMPILED_FROM", 1)
    found = results(elementwise, x, params)
    if "cpu" in fused._without_compiler:
        pytest.skip("no compiler here")
    assert fused._compile.cache_info().currsize == len(expected) // 2
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-10)


def double(x):
    return (2 * x,)


def test_sizes_may_vary_without_compiling_again(monkeypatch):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(fused, "COMPILED_FROM", 1)
    for n in (1, 2, 3, 10):
        for b in (1, 2, 5):
            for k in (24, 30, 1000, 2048):
                x = torch.rand(n, b, k)
                assert torch.equal(fused.run(double, [x])[0], 2 * x)
    # One graph for each of n, b equal to 1 or not.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


def test_small_inputs_are_not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    x = torch.rand(1, 2, 100)
    assert torch.equal(fused.run(double, [x])[0], 2 * x)


def test_without_a_compiler_it_runs_plainly_and_says_so_once(monkeypatch, caplog):
    def broken(chain, dynamic):
        def fail(*inputs):
            raise RuntimeError("no compiler found")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    x = torch.rand(1, 2, 2**14)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(fused.run(double, [x])[0], 2 * x)
    assert caplog.text.count("torch.compile does not work here") == 1
    assert "no compiler found" in caplog.text


def test_running_out_of_memory_is_not_taken_for_a_missing_compiler(monkeypatch):
    def full(*inputs):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", lambda chain, dynamic: full)
    with pytest.raises(torch.OutOfMemoryError):
        fused.run(double, [torch.rand(1, 2, 2**14)])


@pytest.mark.parametrize("piece", [1, 7, 64, 10_000])
def test_pieces_equal_the_whole(piece, monkeypatch):
    monkeypatch.setitem(fused.PIECE, "cpu", piece)
    generator = torch.Generator().manual_seed(0)
    x, params = torch.randn(2, 3, 2, 50, generator=generator), torch.randn(3, 2, 4, 50, generator=generator)
    spline = RationalQuadratic()
    numbers = [torch.tensor(value) for value in spline.constants]
    for chain, inputs in (
        (spline.evaluate, (x, params)),
        (spline.invert, (x, params)),
        (spline.differentiate, (x, params, x, 2 * x)),
        (spline.differentiate_inverse, (x, params, x, 2 * x)),
    ):
        in_pieces = fused.run(chain, inputs, numbers)
        for found, expected in zip(in_pieces, chain(*inputs, *numbers), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_short_run_is_not_compiled(monkeypatch):
    monkeypatch.setattr(fused, "COMPILED_FROM", 1)
    monkeypatch.setattr(fused, "_compile", lambda chain: lambda *inputs: ("compiled",))
    monkeypatch.setattr(fused, "_expected", [])
    x = torch.rand(1, 8)
    # The outermost counts: a validation computes as the training that it belongs to.
    with fused.expecting(fused.EARNED_BACK_FROM - 1), fused.expecting(2 * fused.EARNED_BACK_FROM):
        assert torch.equal(fused.run(double, [x])[0], 2 * x)
    with fused.expecting(fused.EARNED_BACK_FROM), fused.expecting(1):
        assert fused.run(double, [x]) == ("compiled",)


def test_what_nobody_announced_is_compiled_once_it_has_turned_out_to_be_long(monkeypatch):
    monkeypatch.setattr(fused, "COMPILED_FROM", 8)
    monkeypatch.setattr(fused, "EARNED_BACK_FROM", 24)
    monkeypatch.setattr(fused, "_compile", lambda chain: lambda *inputs: ("compiled",))
    monkeypatch.setattr(fused, "_expected", [])
    monkeypatch.setattr(fused, "_mapped", Counter())
    x = torch.rand(1, 8)
    small = x[:, :7]
    for _ in range(2):
        assert torch.equal(fused.run(double, [x])[0], 2 * x)
        assert torch.equal(fused.run(double, [small])[0], 2 * small)
    assert fused.run(double, [x]) == ("compiled",)
    assert torch.equal(fused.run(double, [small])[0], 2 * small)
