import signal

import pytest

from robustflow.training.interruption import Interruption, ignore_interrupt


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
def number(request):
    return request.param


@pytest.fixture
def received(number):
    """Count signals in place of the process's own handler."""
    signals = []
    previous = signal.signal(number, lambda *arguments: signals.append(arguments[0]))
    yield signals
    signal.signal(number, previous)


def test_first_signal_sets_the_flag_and_the_second_acts_as_before(number, received):
    with Interruption() as interruption:
        assert not interruption.requested
        signal.raise_signal(number)
        assert (interruption.requested, received) == (True, [])
        signal.raise_signal(number)
        assert received == [number]


def test_handlers_are_restored(number, received):
    before = signal.getsignal(number)
    with pytest.raises(RuntimeError), Interruption():
        raise RuntimeError
    assert signal.getsignal(number) is before
    with Interruption() as interruption:
        signal.raise_signal(number)
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before
    signal.raise_signal(number)
    assert interruption.requested
    assert received == [number]


def test_loader_processes_leave_it_to_the_main_process(number):
    # A terminal, and many batch systems, send their signals to all processes of a run.
    previous = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        ignore_interrupt(0)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
