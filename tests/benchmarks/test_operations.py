import collections

import pytest
import torch
from benchmarks.cases import dispatched
from benchmarks.networks import ROOT
from benchmarks.operations_child import COMPILED, Counter, _long_run
from benchmarks.setting import Setting

from robustflow.nn import fused

TINY = Setting(threads=1, tiny=True)


def test_views_and_allocations_are_apart():
    x = torch.ones(4, 6, requires_grad=True)
    with Counter() as counter:
        y = (x.view(6, 4).T * torch.empty(4, 6)).sum()
        y += 1
    assert counter.operations == {"mul": 1, "sum": 1, "add_": 1}
    assert (counter.views, counter.allocations) == (2, 1)
    # Of 24 numbers each: two read, one written; those read, one written; one read and written.
    assert counter.moved == {"mul": 3 * 96, "sum": 96 + 4, "add_": 8}
    with Counter() as counter:
        x.detach()
    assert not counter.operations
    # Torch 2.6 asks for two.
    assert counter.views >= 1


def test_a_compiled_chain_is_one_operation():
    with Counter() as counter:
        with counter.as_one(), counter.as_one():
            torch.ones(3).exp().sum()
        torch.zeros(2).neg()
    assert counter.operations[COMPILED] == 1
    assert counter.operations["neg"] == 1
    assert counter.operations["exp"] == 0


def test_counts_are_repeatable():
    first, second = (dispatched._count(TINY, "affine", ROOT) for _ in range(2))
    assert first == second
    assert first["forward"] > 0 < first["backward"]
    assert first["forward"] + first["backward"] == first["total"] == sum(first["operations"].values())
    assert first["operations"]["convolution"] == first["operations"]["convolution_backward"]


def test_long_runs_are_counted(monkeypatch):
    monkeypatch.setattr(fused, "_expected", [])
    monkeypatch.setattr(fused, "_mapped", collections.Counter())
    with _long_run():
        assert fused._is_worthwhile("cpu", fused.COMPILED_FROM)


@pytest.mark.parametrize("known", [True, False])
def test_table_has_both_couplings_before_and_now(known, monkeypatch, capsys):
    monkeypatch.setattr(dispatched, "_count", lambda setting, coupling, root: counts(2 if root == ROOT else 4))
    if known:
        monkeypatch.setattr(dispatched.revisions, "extract", lambda revision, folder: "")
    dispatched.operations(Setting(tiny=True, before="no-such-commit"))
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    assert ["rq", "now", "2", "2", "4", "1", "0", "0.5" if known else "–", "3"] in rows
    assert ["affine", "no-such-commit", *(["4", "4", "8", "1", "0", "1", "3"] if known else ["–"] * 7)] in rows
    assert ["rq", "mul", "8" if known else "–", "4", "3"] in rows
    assert ("no-such-commit: not measured" in printed) is not known


def counts(n):
    counted = {"operations": {"mul": 2 * n}, "moved": {"mul": 3_000_000, "convolution": 5_000_000}}
    return {"forward": n, "backward": n, "total": 2 * n, "views": 1, "allocations": 0, **counted}
