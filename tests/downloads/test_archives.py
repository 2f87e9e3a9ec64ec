"""What is taken of zip and tar archives."""

import hashlib
import io
import shutil
import tarfile
import zipfile

import pytest

from robustflow.downloads import archives
from robustflow.utils.errors import RunFailed, UserError
from robustflow.utils.files import CannotWrite

WANTED = r"(?:.*/)?HR/[^/]+\.png"
MEMBERS = {"set/HR/a.png": b"first", "set/HR/b.png": b"second" * 100, "set/LR/a.png": b"small", "readme.txt": b"read"}


def make_zip(file, members):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def make_tar(file, members, mode="w:gz"):
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture(params=[make_zip, make_tar])
def archive(request, tmp_path):
    """A function that makes an archive of members."""

    def make(members):
        request.param(tmp_path / "archive", members)
        return tmp_path / "archive"

    return make


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()} if folder.exists() else {}


def test_wanted_members_come_without_their_folders(archive, tmp_path):
    digests = archives.unpack(archive(MEMBERS), tmp_path / "out", WANTED)
    assert contents(tmp_path / "out") == {"a.png": b"first", "b.png": b"second" * 100}
    assert digests["a.png"] == hashlib.sha256(b"first").hexdigest()


def test_equal_files_stay_and_others_are_not_overwritten(archive, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.png").write_bytes(b"mine")
    (out / "a.png").write_bytes(b"first")
    archives.unpack(archive(MEMBERS), out, WANTED)
    assert contents(out) == {"a.png": b"first", "b.png": b"second" * 100, "mine.png": b"mine"}
    (out / "b.png").write_bytes(b"altered")
    (out / "a.png").unlink()
    with pytest.raises(UserError, match=r"holds 1 other files of the same names \(b.png\), and they are not"):
        archives.unpack(archive(MEMBERS), out, WANTED)
    assert contents(out) == {"b.png": b"altered", "mine.png": b"mine"}


OUTSIDE = ["../HR/evil.png", "/tmp/HR/evil.png", "set/../../HR/evil.png", "HR\\evil.png", "C:/HR/evil.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_members_that_lead_out_refuse_the_whole_archive(archive, tmp_path, name):
    with pytest.raises(RunFailed, match="refused, nothing was unpacked"):
        archives.unpack(archive({**MEMBERS, name: b"evil"}), tmp_path / "out", WANTED)
    assert contents(tmp_path / "out") == {}
    assert not list(tmp_path.rglob("*evil*"))


def test_links_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        link = tarfile.TarInfo("HR/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(RunFailed, match=r"HR/link.png is no regular file"):
        archives.unpack(tmp_path / "archive", tmp_path / "out", WANTED)
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a/HR/x.png": b"1", "b/HR/x.png": b"2"}, "found several members named x.png"),
        ({"LR/x.png": b"1"}, "found none; it holds LR/x.png"),
        ({}, "found none; it holds nothing"),
    ],
)
def test_archives_of_other_layouts(archive, tmp_path, members, message):
    with pytest.raises(RunFailed, match=message):
        archives.unpack(archive(members), tmp_path / "out", WANTED)


def test_damaged_archives_leave_nothing(archive, tmp_path):
    file = archive({**MEMBERS, "set/HR/c.png": bytes(range(256)) * 20})
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no archive", b"", whole[:60] + b"?" * 40 + whole[100:]):
        file.write_bytes(damaged)
        with pytest.raises(RunFailed, match="no whole zip or tar archive"):
            archives.unpack(file, tmp_path / "out", WANTED)
        assert contents(tmp_path / "out") == {}


def test_an_interruption_leaves_nothing_half(archive, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_require_unlike_none", interrupt)
    with pytest.raises(KeyboardInterrupt):
        archives.unpack(archive(MEMBERS), tmp_path / "out", WANTED)
    assert contents(tmp_path / "out") == {}


def test_what_a_killed_one_left_is_removed(archive, tmp_path):
    (tmp_path / "out" / ".unpacking.archive").mkdir(parents=True)
    (tmp_path / "out" / ".unpacking.archive" / "a.png").write_bytes(b"ha")
    archives.unpack(archive(MEMBERS), tmp_path / "out", WANTED)
    assert set(contents(tmp_path / "out")) == {"a.png", "b.png"}


def test_too_little_space(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 604))
    with pytest.raises(CannotWrite, match="too little space for what is unpacked of archive"):
        archives.unpack(archive(MEMBERS), tmp_path / "out", WANTED)
    assert contents(tmp_path / "out") == {}
