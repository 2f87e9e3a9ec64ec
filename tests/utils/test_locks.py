"""Two runs do not write into one folder, and a lock lasts no longer than its process."""

import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import time

import pytest
from several import forked, holding, in_group

from robustflow.utils import distributed, locks
from robustflow.utils.locks import Locked

pytestmark = pytest.mark.forks


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "one"


@pytest.fixture(params=[locks.beside, locks.within])
def lock(request, folder):
    return request.param(folder)


@pytest.fixture
def elsewhere(lock, folder):
    """Another process, which holds the lock until it is told to leave."""
    with holding(lock, folder) as process:
        yield process


def test_a_folder_is_for_one_run(elsewhere, lock, folder):
    told = rf"one: another run is writing there \(process {elsewhere.pid} on .*; rename it"
    with pytest.raises(Locked, match=told), locks.hold(lock, folder, "rename it"):
        pass
    elsewhere.leave()
    assert not lock.exists()
    with locks.hold(lock, folder):
        assert lock.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(elsewhere, lock, folder, number):
    os.kill(elsewhere.pid, signal.SIGSTOP)
    with pytest.raises(Locked), locks.hold(lock, folder):
        pass
    os.kill(elsewhere.pid, number)
    os.kill(elsewhere.pid, signal.SIGCONT)
    elsewhere.join(60)
    assert lock.exists()  # left, and nobody's
    with locks.hold(lock, folder):
        pass
    assert not lock.exists()


def test_processes_that_a_run_started_do_not_keep_its_lock(lock, folder):
    context = multiprocessing.get_context("fork")
    has, leave = context.Event(), context.Event()

    def hold():
        with locks.hold(lock, folder):
            if os.fork() == 0:
                leave.wait(60)
                os._exit(0)
            has.set()
            time.sleep(60)

    process = context.Process(target=hold)
    process.start()
    assert has.wait(60)
    process.kill()
    process.join()
    with locks.hold(lock, folder):
        leave.set()


def test_nothing_stays_of_what_was_made_for_a_lock(lock, folder, tmp_path):
    with locks.hold(lock, folder):
        assert lock.exists()
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    (folder / "result").touch()
    with locks.hold(lock, folder):
        pass
    assert list(folder.iterdir()) == [folder / "result"]


def test_a_folder_that_moved_meanwhile(folder):
    lock = locks.within(folder)
    with locks.hold(lock, folder):
        folder.rename(folder.with_name("moved"))
        folder.mkdir()
        lock.write_text("of another")
    assert lock.read_text() == "of another"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_where_locks_do_not_work_work_goes_on(number, lock, folder, monkeypatch, caplog):
    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(locks.fcntl, "lockf", refuse)
    with locks.hold(lock, folder):
        pass
    (line,) = caplog.messages
    assert f"one: cannot be locked ({os.strerror(number)})" in line


def test_where_nothing_can_be_written_whoever_writes_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    with locks.hold(locks.within(tmp_path / "file"), tmp_path / "file"):
        pass
    assert "file: cannot be locked" in caplog.text


@pytest.mark.parametrize("below", ["one", "one/deeper/two"])
def test_locks_below_a_folder(below, tmp_path):
    inner = tmp_path / "runs" / below / "x"
    with (
        holding(locks.beside(inner), inner),
        pytest.raises(Locked, match="one: another run is writing there"),
    ):
        locks.require_free_below(tmp_path / "runs" / "one", "wait")
    locks.beside(inner).parent.mkdir(parents=True)
    locks.beside(inner).touch()
    locks.require_free_below(tmp_path / "runs" / "one", "wait")


def in_main(lock, folder, within):
    """A function that calls another while the main process holds the lock."""

    def hold():
        with contextlib.ExitStack() as stack:
            distributed.on_main(stack.enter_context, locks.hold(lock, folder))
            return within()

    return in_group(hold)


def test_processes_of_one_run_share_its_lock(lock, folder):
    assert forked(in_main(lock, folder, lambda: distributed.gather(lock.exists()))) == [[True] * 2] * 2
    assert not lock.exists()


def test_all_processes_of_a_run_learn_that_another_holds_it(elsewhere, lock, folder):
    for told in forked(in_main(lock, folder, lambda: "had it")):
        assert "another run is writing there" in told
    assert elsewhere.is_alive()
