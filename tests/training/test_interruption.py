import multiprocessing
import os
import signal
import time

import pytest

from robustflow.training import interruption
from robustflow.training.interruption import Interruption, leave_signals_to_main

WARNINGS = [signal.SIGUSR1, signal.SIGUSR2]


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *WARNINGS])
def number(request):
    return request.param


@pytest.fixture
def received(number):
    """Count signals in place of the process's own handler."""
    signals = []
    previous = signal.signal(number, lambda *arguments: signals.append(arguments[0]))
    yield signals
    signal.signal(number, previous)


def test_a_signal_sets_the_flag_and_a_second_ctrl_c_acts_as_before(number, received):
    if number in WARNINGS:
        signal.signal(number, signal.SIG_DFL)
    with Interruption() as interruption:
        assert not interruption.requested
        signal.raise_signal(number)
        assert (interruption.requested, received) == (True, [])
        # A batch system sends it to every process, and torchrun hands on its own.
        signal.raise_signal(number)
        assert received == ([number] if number == signal.SIGINT else [])


def test_handlers_are_restored(number, received):
    if number in WARNINGS:
        signal.signal(number, signal.SIG_DFL)
    before = signal.getsignal(number)
    with pytest.raises(RuntimeError), Interruption():
        raise RuntimeError
    assert signal.getsignal(number) is before
    with Interruption() as interruption:
        signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert interruption.requested


@pytest.mark.parametrize("number", WARNINGS)
def test_warnings_that_others_listen_to_are_theirs(number, received):
    with Interruption() as interruption:
        signal.raise_signal(number)
    assert (interruption.requested, received) == (False, [number])


def test_what_is_ignored_stays_so():
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
        assert not interruption.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def loader_process(sender):
    leave_signals_to_main(0)
    sender.send(interruption.GRACE)
    time.sleep(60)


def test_loader_processes_leave_it_to_the_main_process(number, monkeypatch):
    # A terminal, and many batch systems, send their signals to all processes of a run.
    monkeypatch.setattr(interruption, "GRACE", 1)
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=loader_process, args=(sender,), daemon=True)
    process.start()
    assert receiver.recv() == 1
    os.kill(process.pid, number)
    process.join(0.5)
    assert process.is_alive()
    # The main process can still end it, which is no fault.
    process.terminate()
    process.join(5)
    assert process.exitcode == 0
