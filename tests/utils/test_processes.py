"""Processes agree, share their errors and exchange tensors."""

import hashlib
import os
import time

import pytest
import torch
from several import forked, in_group

from robustflow.utils import devices, distributed, launcher
from robustflow.utils.errors import UserError

pytestmark = pytest.mark.forks


def mean_of_noise(processes):
    noise = torch.rand(100_000, generator=torch.Generator().manual_seed(processes.rank))
    processes.average([noise])
    return hashlib.sha256(noise.numpy().tobytes()).hexdigest()


def test_exchanges():
    def exchange(processes):
        number = float(processes.rank)
        tensors = [torch.full((2, 3), number), torch.tensor(number).double()]
        processes.average(tensors)
        own = [torch.tensor(processes.main), torch.full((3, 2), number).t()]
        processes.copy_from_main(own)
        return {
            "means": [tensor.tolist() for tensor in tensors],
            "bits": mean_of_noise(processes),
            "copies": [tensor.tolist() for tensor in own],
            "any": [processes.agree(processes.rank == 2), processes.agree()],
            "main": processes.on_main(lambda: processes.rank),
            "all": processes.gathered(processes.rank),
            "dealt": [processes.gathered(list(processes.dealt(n))) for n in (5, 0)],
        }

    first, *others = forked(in_group(exchange), 3)
    assert others == [first, first]
    assert first["means"] == [[[1.0] * 3] * 2, 1.0]
    assert first["copies"] == [True, [[0.0] * 3] * 2]
    assert first["any"] == [True, False]
    assert first["main"] == 0
    assert first["all"] == [0, 1, 2]
    assert sorted(number for part in first["dealt"][0] for number in part) == [0, 1, 2, 3, 4]
    assert first["dealt"][1] == [[], [], []]


def test_a_slow_process_delays_no_other():
    def take(processes):
        taken = []
        for number in processes.dealt(8):
            taken.append(number)
            time.sleep(processes.rank)
        return taken

    fast, slow = forked(in_group(take))
    assert sorted(fast + slow) == list(range(8))
    assert len(slow) <= 1


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (UserError("mistake"), "UserError: mistake"),
        (KeyError("bug"), "FailedElsewhere: process 1 failed: KeyError: 'bug'"),
    ],
    ids=["mistake", "bug"],
)
@pytest.mark.parametrize("where", ["agree", "on_main", "average", "gathered", "leave"])
def test_an_error_of_one_is_an_error_of_all(error, elsewhere, where):
    def fail(processes):
        if processes.rank == 1:
            raise error
        arguments = {"agree": (), "on_main": (list,), "average": ([torch.ones(2)],), "gathered": (1,)}
        return "left" if where == "leave" else getattr(processes, where)(*arguments[where])

    first, second = forked(in_group(fail))
    assert first == ("left" if where == "leave" else elsewhere)
    assert f"{type(error).__name__}: {error}" in second


def test_a_process_that_dies_leaves_none_waiting():
    def die(processes):
        if processes.rank == 1:
            os._exit(1)
        return processes.agree()

    (first,) = forked(in_group(die), dying=(1,))
    assert first.startswith("FailedElsewhere: another process of this run ended")


# What torchrun tells


@pytest.fixture
def as_second(monkeypatch):
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (launcher.size(), launcher.rank(), launcher.local_rank()) == (1, 0, 0)
    with distributed.joined() as processes:
        assert processes is distributed.ALONE
    launcher.require_one_process("toy")


def test_only_the_first_process_of_a_machine_complains(as_second, monkeypatch, capsys):
    assert (launcher.size(), launcher.rank(), launcher.local_rank()) == (4, 3, 1)
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(SystemExit), launcher.one_voice():
        launcher.require_one_process("toy")
    assert capsys.readouterr().err == ""
    # torchrun ends all processes once one has ended: the first must have spoken.
    assert waited == [launcher.PATIENCE]
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SystemExit) as exit_, launcher.one_voice():
        launcher.require_one_process("toy")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "toy: expected one process, got 4; start it without torchrun\n"


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    assert devices.choose_one_each("cpu", 1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert [devices.choose_one_each(name, 1) for name in ("auto", "cuda")] == [torch.device("cuda", 1)] * 2
    with pytest.raises(UserError, match="got 2 GPUs here; lower torchrun's --nproc_per_node to 2"):
        devices.choose_one_each("auto", 2)
    with pytest.raises(UserError, match=r"expected auto, cuda or cpu for several processes, got cuda:1"):
        devices.choose_one_each("cuda:1", 0)
