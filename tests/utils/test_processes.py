"""Processes agree, share their errors and exchange tensors."""

import hashlib
import os
import time

import pytest
import torch
from several import forked, in_group

from robustflow.utils import answer, devices, distributed
from robustflow.utils.errors import UserError

pytestmark = pytest.mark.forks


def mean_of_noise():
    noise = torch.rand(100_000, generator=torch.Generator().manual_seed(distributed.rank()))
    distributed.average([noise])
    return hashlib.sha256(noise.numpy().tobytes()).hexdigest()


def test_exchanges():
    def exchange():
        number = float(distributed.rank())
        tensors = [torch.full((2, 3), number), torch.tensor(number).double()]
        distributed.average(tensors)
        return {
            "means": [tensor.tolist() for tensor in tensors],
            "bits": mean_of_noise(),
            "main": distributed.on_main(distributed.rank),
            "all": distributed.gather(distributed.rank()),
            "distributed": [distributed.gather(list(distributed.distribute(n))) for n in (5, 0)],
        }

    first, *others = forked(in_group(exchange), 3)
    assert others == [first, first]
    assert first["means"] == [[[1.0] * 3] * 2, 1.0]
    assert first["main"] == 0
    assert first["all"] == [0, 1, 2]
    assert sorted(number for part in first["distributed"][0] for number in part) == [0, 1, 2, 3, 4]
    assert first["distributed"][1] == [[], [], []]


def test_modules_and_optimizers_get_the_state_of_the_main_process():
    """Laid out in memory as in the main process, truth values included."""

    def share():
        torch.manual_seed(distributed.rank())
        network = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        network.register_buffer("initialised", torch.tensor(distributed.is_main()))
        adam = torch.optim.Adam(network.parameters(), fused=True)
        if distributed.is_main():
            network(torch.rand(1, 3, 8, 8)).sum().backward()
            adam.step()
        distributed.share(network, adam)
        moments = adam.state[network.weight]
        assert moments["exp_avg"].stride() == network.weight.stride()
        tensors = [network.weight, network.initialised, *moments.values()]
        return [tensor.tolist() for tensor in tensors]

    torch.optim.Adam([torch.zeros(1)])  # the first one imports what takes seconds; forks have it then
    first, second = forked(in_group(share))
    assert first == second
    assert first[1] is True


def test_a_slow_process_delays_no_other():
    def take():
        taken = []
        for number in distributed.distribute(8):
            taken.append(number)
            time.sleep(distributed.rank())
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
@pytest.mark.parametrize("where", ["gather", "on_main", "average", "share", "the end"])
def test_an_error_of_one_is_an_error_of_all(error, elsewhere, where):
    def fail():
        if distributed.rank() == 1:
            raise error
        arguments = {"gather": (1,), "on_main": (list,), "average": ([torch.ones(2)],), "share": ()}
        return "done" if where == "the end" else getattr(distributed, where)(*arguments[where])

    first, second = forked(in_group(fail))
    assert first == elsewhere
    assert f"{type(error).__name__}: {error}" in second


def test_a_process_that_dies_leaves_none_waiting():
    def die():
        distributed.gather(None)  # gloo of torch 2.6 may still connect while a process is there already
        if distributed.rank() == 1:
            os._exit(1)
        return distributed.gather(None)

    (first,) = forked(in_group(die), dying=(1,))
    assert first.startswith("FailedElsewhere: another process of this run ended")


def test_one_process_that_failed_ends_the_work_of_the_others():
    def work():
        taken = []
        for number in distributed.distribute(1000):
            if distributed.rank() == 1:
                raise UserError("mistake")
            taken.append(number)
            time.sleep(0.05)
        distributed.gather(taken)

    began = time.monotonic()
    first, _ = forked(in_group(work))
    assert first == "UserError: mistake"
    assert time.monotonic() - began < 40


# What torchrun tells


@pytest.fixture
def as_second(monkeypatch):
    for key, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": "3",
        "LOCAL_RANK": "1",
    }.items():
        monkeypatch.setenv(key, value)


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with distributed.joined():
        assert (distributed.size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
        assert distributed.rank("LOCAL_RANK") == 0
    answer.require_one_process()


def test_only_the_first_process_of_a_machine_complains(as_second, monkeypatch, capsys, caplog):
    assert (distributed.size(), distributed.rank(), distributed.rank("LOCAL_RANK")) == (4, 3, 1)
    assert distributed.size("LOCAL_WORLD_SIZE") == 2
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with pytest.raises(SystemExit), answer.exit_on_mistake():
        answer.require_one_process()
    assert capsys.readouterr().err == caplog.text == ""
    # torchrun ends all processes once one has ended: the first must have spoken.
    assert waited == [answer.PATIENCE]
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SystemExit) as exit_, answer.exit_on_mistake():
        answer.require_one_process()
    assert exit_.value.code == 2
    assert caplog.messages == ["error: expected one process, got 4; start it without torchrun"]


def test_what_one_process_computes_is_not_begun_by_several(as_second, caplog):
    assert answer.answer(lambda: pytest.fail("begun")) == 2
    assert caplog.messages == ["error: expected one process, got 4; start it without torchrun"]


def test_each_process_has_a_gpu_of_its_own(as_second, monkeypatch):
    assert devices.choose("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert [devices.choose(name) for name in ("auto", "cuda")] == [torch.device("cuda", 1)] * 2
    with pytest.raises(UserError, match=r"expected auto, cuda or cpu for several processes, got cuda:1"):
        devices.choose("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="got 2 GPUs here; lower torchrun's --nproc_per_node to 2"):
        devices.choose("auto")
