"""One file, from a server on the loopback address."""

import errno
import hashlib
import http.server
import shutil
import socket
from pathlib import Path

import file_server
import pytest

from robustflow.downloads import transfer
from robustflow.utils.errors import RunFailed
from robustflow.utils.files import CannotWrite

CONTENT = bytes(range(256)) * 40
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def served():
    with file_server.serve() as (server, address):
        server.files["file.bin"] = CONTENT
        yield server, address


def download(address, place, name="file.bin", checksum=CHECKSUM, folder=None):
    transfer.download(f"{address}/{name}", place, checksum=checksum, advice="do it by hand", folder=folder)


def left_in(folder):
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("name", ["file.bin", "moved"])
def test_a_file_comes_whole_and_alone(served, tmp_path, name):
    download(served[1], tmp_path / "new" / "file.bin", name)
    assert (tmp_path / "new" / "file.bin").read_bytes() == CONTENT
    assert left_in(tmp_path / "new") == ["file.bin"]


def test_a_folder_will_do_as_a_mirror(tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    download(tmp_path.as_uri(), tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [CHECKSUM, None])
def test_a_broken_transfer_goes_on(served, tmp_path, checksum):
    server, address = served
    server.breaks_after = 3000
    with pytest.raises(RunFailed, match=r"broken off .*again to go on"):
        download(address, tmp_path / "file.bin", checksum=checksum)
    assert not (tmp_path / "file.bin").exists()
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:3000]
    download(address, tmp_path / "file.bin", checksum=checksum)
    assert server.requests[1:] == [("file.bin", "bytes=2999-")]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert left_in(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("change", [{"ranges": False}, {"tag": '"2"'}])
def test_it_begins_again_where_a_file_has_changed_or_cannot_be_resumed(served, tmp_path, change):
    server, address = served
    server.files["file.bin"], server.breaks_after = b"older" * 2000, 3000
    with pytest.raises(RunFailed):
        download(address, tmp_path / "file.bin", checksum=None)
    server.files["file.bin"] = CONTENT
    vars(server).update(change)
    download(address, tmp_path / "file.bin", checksum=None)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("checksum", [CHECKSUM, None])
def test_a_whole_part_is_not_fetched_again(served, tmp_path, checksum):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    (tmp_path / "file.bin.part.tag").write_text(served[0].tag)
    download(served[1], tmp_path / "file.bin", checksum=checksum)
    assert served[0].requests == [("file.bin", f"bytes={len(CONTENT) - 1}-")]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_dropped(served, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(bytes(len(CONTENT) + 5))
    download(served[1], tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_part_of_unknown_origin_is_dropped_where_no_checksum_would_tell(served, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(bytes(100))
    download(served[1], tmp_path / "file.bin", checksum=None)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_length_that_was_announced_must_come(served, tmp_path):
    served[0].announced = len(CONTENT) + 1
    with pytest.raises(RunFailed, match="broken off"):
        download(served[1], tmp_path / "file.bin", checksum=None)
    assert left_in(tmp_path) == ["file.bin.part", "file.bin.part.tag"]


def test_another_file_than_expected_is_removed(served, tmp_path):
    served[0].files["file.bin"] = b"<html>log in</html>"
    expected = f"another file, and removed: expected SHA256 {CHECKSUM[7:]}, got .*by hand"
    with pytest.raises(RunFailed, match=expected):
        download(served[1], tmp_path / "file.bin")
    assert left_in(tmp_path) == []


def test_an_answer_that_is_none(served, tmp_path):
    with pytest.raises(RunFailed, match=r"gone\.bin: the server answered 404 Not Found; do it by hand"):
        download(served[1], tmp_path / "file.bin", "gone.bin")
    assert left_in(tmp_path) == []


def test_no_network(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(RunFailed, match=r"cannot be reached \(.*refused.*\); without a network, do it by hand"):
            download(address, tmp_path / "file.bin")
    with pytest.raises(RunFailed, match=r"cannot be reached"):
        download("http://no-such-host.invalid", tmp_path / "file.bin")
    with pytest.raises(RunFailed, match=r"cannot be reached \(Invalid IPv6 URL\)"):
        download("http://[no-address", tmp_path / "file.bin")


@pytest.mark.parametrize(("unpacked", "free"), [(False, len(CONTENT) - 1), (True, 2 * len(CONTENT) - 1)])
def test_space_is_asked_for_before_anything_is_written(served, tmp_path, monkeypatch, unpacked, free):
    folder = tmp_path / "new" if unpacked else None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free))
    with pytest.raises(CannotWrite, match=r"too little space for file.bin: expected .* MiB free"):
        download(served[1], tmp_path / "file.bin", folder=folder)
    assert not (tmp_path / "file.bin.part").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free + 1))
    download(served[1], tmp_path / "file.bin", folder=folder)


def test_what_is_unpacked_may_go_to_another_disk(served, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(transfer, "_device_of", lambda place: place.name)
    free = {"other": len(CONTENT) - 1}
    usage = lambda place: shutil._ntuple_diskusage(10**9, 0, free.get(place.name, len(CONTENT)))  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(CannotWrite, match=r"other: too little space for what is unpacked of file.bin"):
        download(served[1], tmp_path / "file.bin", folder=tmp_path / "other")
    free["other"] += 1
    download(served[1], tmp_path / "file.bin", folder=tmp_path / "other")


def test_a_disk_that_fills_up(served, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def truncate(self, _):
            pass

        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: (Full if "ab" in mode else lambda x: x)(opened(self, *mode)))
    with pytest.raises(CannotWrite, match=r"file.bin.part: cannot be written \(No space left on device\)"):
        download(served[1], tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()


def test_a_server_that_speaks_another_language(tmp_path):
    class Nonsense(http.server.BaseHTTPRequestHandler):
        def handle(self):
            self.wfile.write(b"nonsense\r\n\r\n")

    with http.server.HTTPServer(("127.0.0.1", 0), Nonsense) as server:
        import threading

        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(RunFailed, match="cannot be reached"):
            download(f"http://127.0.0.1:{server.server_port}", tmp_path / "file.bin")
        thread.join()
