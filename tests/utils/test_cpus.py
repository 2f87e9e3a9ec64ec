import os
import subprocess
import sys

import pytest
import torch

from robustflow.options.load import load
from robustflow.utils import cpus, precision

SHOWN = "print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('GOMP_SPINCOUNT'))"


def settled(call, shown=SHOWN, **environment):
    """Threads, and the spins of those that wait, in a fresh process after a call, before torch is loaded."""
    unset = ("OMP_", "MKL_", "GOMP_")
    own = {key: value for key, value in os.environ.items() if not key.startswith(unset)} | environment
    command = [sys.executable, "-c", f"import os; from robustflow.utils import cpus; cpus.{call}; {shown}"]
    return subprocess.run(command, env=own, check=True, capture_output=True, text=True).stdout.split()


def test_settles_before_torch_is_loaded():
    assert settled("settle(1)") == ["1", "None"]
    assert settled("settle(2)", "import torch; print(torch.get_num_threads())") == ["2"]
    assert settled("shorten_waits()") == ["None", "1000"]


def test_leaves_what_the_user_has_set():
    assert settled("settle(1)", OMP_NUM_THREADS="2") == ["2", "None"]
    assert settled("shorten_waits()", OMP_NUM_THREADS="2") == ["2", "None"]
    assert settled("shorten_waits()", GOMP_SPINCOUNT="7") == ["None", "7"]
    assert settled("shorten_waits()", OMP_WAIT_POLICY="passive") == ["None", "None"]


def test_reaches_torch_that_is_loaded(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        cpus.settle(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_counts_cpus_of_the_affinity():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:1])
    try:
        assert cpus.available() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({"cpu.max": "nonsense"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_reads_quotas_of_both_versions(tmp_path, files, granted):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cpus._granted(tmp_path) == granted


def test_a_quota_counts_in_whole_cpus(monkeypatch):
    monkeypatch.setattr(cpus, "_quota", lambda: 1.9)
    assert cpus.available() == 1
    monkeypatch.setattr(cpus, "_quota", lambda: 0.5)
    assert cpus.available() == 1


def test_threads_follow_the_size_of_the_network(monkeypatch):
    monkeypatch.setattr(cpus, "available", lambda: 8)
    demo, full = load("confs/demo.yml"), load("confs/fsncsr_4x_rq.yml")
    assert cpus.threads_for(demo.layer_elements(testing=False)) == 1
    assert cpus.threads_for(full.layer_elements(testing=False)) == 8
    assert cpus.threads_for(full.layer_elements(testing=True)) == 8
    monkeypatch.setattr(cpus, "available", lambda: 2)
    assert cpus.threads_for(full.layer_elements(testing=False)) == 2


@pytest.mark.parametrize(("flags", "warned"), [("avx2 fma", True), ("avx2 avx512_bf16", False), (None, False)])
def test_warns_of_bf16_without_units(monkeypatch, caplog, flags, warned):
    monkeypatch.setattr(
        cpus, "bf16_units", lambda: None if flags is None else sorted(cpus._BF16_UNITS & {*flags.split()})
    )
    precision.warn_if_slow("bf16", torch.device("cpu"))
    precision.warn_if_slow("fp32", torch.device("cpu"))
    precision.warn_if_slow("bf16", torch.device("cuda"))
    assert ("slower than fp32" in caplog.text) == warned
    assert len(caplog.records) == warned
