import errno
import os
import stat

import pytest

from robustflow.utils.errors import UserError
from robustflow.utils.files import remove_leftovers, require_inside, write_atomically


@pytest.mark.parametrize("durable", [True, False])
def test_writes_into_new_folders_and_over_old_files(tmp_path, durable):
    file = tmp_path / "a" / "b" / "file"
    write_atomically(file, b"old", durable=durable)
    write_atomically(file, b"new", durable=durable)
    assert file.read_bytes() == b"new"
    assert os.listdir(file.parent) == ["file"]


def test_text_with_what_is_not_utf_8_in_a_path(tmp_path):
    write_atomically(tmp_path / "page.html", "ü d\udcff")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "ü d?"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def fail(*paths):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"file: cannot be written \(disk full\); free some space.*is intact"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_went_wrong_first_is_told(tmp_path, monkeypatch):
    def fail(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail_too(*paths):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(os, "unlink", fail_too)
    with pytest.raises(UserError, match="No space left"):
        write_atomically(tmp_path / "file", b"")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_file_systems_without_fsync(tmp_path, monkeypatch, number):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    write_atomically(tmp_path / "file", b"written")
    assert (tmp_path / "file").read_bytes() == b"written"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/inside: cannot be written \(.*\)"):
        write_atomically(tmp_path / "file" / "inside", b"")


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    for name in (".00000004.state.ab3_x9zz", "00000004.state", ".hidden", ".00000004.state.short", ".other.ab3_x9zz"):
        (tmp_path / name).touch()
    (tmp_path / ".00000005.state.ab3_x9zz").mkdir()
    assert remove_leftovers(tmp_path, r"\d+\.state") == [tmp_path / ".00000004.state.ab3_x9zz"]
    assert len(os.listdir(tmp_path)) == 5
    assert remove_leftovers(tmp_path / "none", ".*") == []


def test_permissions_are_those_of_any_new_file(tmp_path):
    previous = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_the_umask_which_all_threads_share_is_not_set(tmp_path, monkeypatch):
    """Not for a moment: of two threads that set and reset it the one may restore what the other had set."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail(f"set to {mask:o}"))
    write_atomically(tmp_path / "file", b"written")
    assert (tmp_path / "file").read_bytes() == b"written"


def test_places_inside_a_folder(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "out").symlink_to(tmp_path)
    (tmp_path / "home" / "in").symlink_to(tmp_path / "home" / "set")
    for parts in (("set", "a.png"), ("in", "a.png"), ("set", "..", "a.png"), ()):
        require_inside(tmp_path / "home", *parts)
    for parts in (("..", "a.png"), ("out", "a.png"), ("/etc",), ("set", "../../a.png")):
        with pytest.raises(UserError, match="leads to"):
            require_inside(tmp_path / "home", *parts)
