"""The command, from address to the place where the recipes look, on a server on the loopback address."""

import hashlib
import io
import logging
import re
import tarfile
from pathlib import Path

import file_server
import pytest
import readme
import yaml

from robustflow import cli
from robustflow.downloads import catalogue, fetching
from robustflow.evaluation.metrics import perceptual


def make_archive(images):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in images.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server, and a function that runs the command with it as the mirror, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with file_server.serve() as (server, address):
        server.files["Set14_HR.tar.gz"] = make_archive({"Set14_HR/a.png": b"one", "Set14_HR/b.png": b"two", "._a": b""})
        yield server, lambda *words: cli.main(["fetch", *words, "--mirror", f"{address}/"])


@pytest.fixture
def told(caplog):
    """A function that gives what was said since it was last called."""
    caplog.set_level(logging.INFO)

    def take():
        text = caplog.text
        caplog.clear()
        return text

    return take


def know(monkeypatch, name, content, kind="sha256"):
    """Have the catalogue know a checksum."""
    what, (published, *_) = catalogue.FILES[name]
    checksum = f"{kind}:{hashlib.new(kind, content).hexdigest()}"
    monkeypatch.setitem(catalogue.FILES, name, (what, (published._replace(checksum=checksum),)))


def tree():
    return {str(file): file.read_bytes() for file in Path().rglob("*") if file.is_file()}


def test_a_set_is_fetched_unpacked_and_noted(served, told):
    server, fetch = served
    assert fetch("set14") == 0
    digest = hashlib.sha256(server.files["Set14_HR.tar.gz"]).hexdigest()
    found = tree()
    record = found.pop("datasets/downloads/Set14_HR.tar.gz.sha256").decode()
    assert record.splitlines()[0] == f"{digest}  Set14_HR.tar.gz"
    assert found == {"datasets/Set14/HR/a.png": b"one", "datasets/Set14/HR/b.png": b"two"}
    assert f"no checksum of it is known here: SHA-256 {digest} is noted" in told()
    assert fetch("set14") == 0
    assert len(server.requests) == 1
    assert "datasets/Set14/HR: the 2 files of Set14_HR.tar.gz are there already, unaltered" in told()


def test_a_later_fetch_must_bring_the_same(served, told):
    server, fetch = served
    assert fetch("set14") == 0
    Path("datasets/Set14/HR/a.png").unlink()
    whole = server.files["Set14_HR.tar.gz"]
    server.files["Set14_HR.tar.gz"] = make_archive({"Set14_HR/a.png": b"other", "Set14_HR/b.png": b"two"})
    told()
    assert fetch("set14") == 1
    assert "what came is another file, and removed" in told()
    server.files["Set14_HR.tar.gz"] = whole
    assert fetch("set14") == 0
    assert "SHA-256 as when it was first fetched" in told()
    assert Path("datasets/Set14/HR/a.png").read_bytes() == b"one"


def test_images_that_were_altered_are_not_overwritten(served, told):
    _, fetch = served
    fetch("set14")
    Path("datasets/Set14/HR/a.png").write_bytes(b"mine")
    assert fetch("set14") == 2
    assert "1 files of Set14_HR.tar.gz are no longer as they came (a.png)" in told()
    Path("datasets/Set14/HR/b.png").unlink()
    assert fetch("set14") == 2
    assert "holds 1 other files of the same names (a.png)" in told()
    assert Path("datasets/Set14/HR/a.png").read_bytes() == b"mine"


def test_a_file_put_in_place_by_hand_needs_no_network(served, told, monkeypatch):
    server, fetch = served
    content = server.files.pop("Set14_HR.tar.gz")
    know(monkeypatch, "set14", content, "md5")
    assert fetch("set14") == 1
    advice = re.search(r"download it by other means \(see (\S+)\), put it at (\S+),", told())
    assert advice[1] == "https://github.com/jbhuang0604/SelfExSR"
    Path(advice[2]).parent.mkdir(parents=True, exist_ok=True)
    Path(advice[2]).write_bytes(content[:-1])
    assert fetch("set14") == 2
    assert "is there, but is another file: expected MD5" in told()
    Path(advice[2]).write_bytes(content)
    assert fetch("set14", "--keep") == 0
    assert "MD5 as published" in told()
    assert Path(advice[2]).read_bytes() == content
    assert len(server.requests) == 1


def test_the_backbone_lands_where_lpips_looks(served, monkeypatch):
    server, fetch = served
    (published,) = catalogue.FILES["alexnet"][1]
    assert Path(published.place) == perceptual.FOLDER / perceptual.BACKBONE
    assert published.name == perceptual.BACKBONE
    assert published.checksum.startswith(f"sha256:{perceptual._DIGITS}")
    server.files[perceptual.BACKBONE] = b"weights"
    know(monkeypatch, "alexnet", b"weights")
    assert fetch("alexnet") == 0
    assert Path("pretrained_weights/alexnet-owt-7be5be79.pth").read_bytes() == b"weights"
    Path("pretrained_weights/alexnet-owt-7be5be79.pth").write_bytes(b"others")
    assert fetch("alexnet") == 2
    assert Path("pretrained_weights/alexnet-owt-7be5be79.pth").read_bytes() == b"others"


def test_a_wrong_checksum_is_a_failure(served, told):
    server, fetch = served
    server.files[perceptual.BACKBONE] = b"half"
    assert fetch("alexnet") == 1
    assert "expected SHA256 7be5be791159" in told()
    assert tree() == {}


def test_a_broken_transfer_goes_on(served, told):
    server, fetch = served
    server.breaks_after = 50
    assert fetch("set14") == 1
    assert "run the same command again to go on" in told()
    assert fetch("set14") == 0
    assert server.requests[1] == ("Set14_HR.tar.gz", "bytes=49-")
    assert Path("datasets/Set14/HR/b.png").read_bytes() == b"two"


def test_sets_that_ask_for_a_form_get_their_page(served, told):
    server, fetch = served
    for name, (page, _) in catalogue.FORMS.items():
        assert fetch(name) == 2
        assert page in told()
    assert (server.requests, tree()) == ([], {})


def test_the_list_names_all_and_fetches_nothing(served, capsys):
    server, fetch = served
    fetch("set14")
    assert cli.main(["fetch", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[2:]} == {*catalogue.FILES, *catalogue.FORMS}
    (row,) = (line for line in lines if line.startswith("set14"))
    assert "huggingface.co (mirror)" in row and "datasets/Set14/HR" in row and row.endswith("is there")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["alexnt"], "invalid choice: 'alexnt'"),
        ([], "required: NAME"),
        (["list", "alexnet"], "list: expected alone"),
        (["alexnet", "--mirror", "ftp://host"], "--mirror: expected an address that begins with http://"),
    ],
)
def test_mistakes(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["fetch", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_places_are_those_of_the_recipes():
    read = {
        dataset["dataroot_GT"]
        for file in (readme.ROOT / "confs").rglob("*.yml")
        for dataset in (yaml.safe_load(file.read_text()).get("datasets") or {}).values()
        if dataset and "dataroot_GT" in dataset
    }
    fetched = {one.place for name in ("div2k", "flickr2k", "urban100") for one in catalogue.FILES[name][1]}
    assert fetched <= read


@pytest.mark.parametrize(
    ("name", "member", "wanted"),
    [
        ("div2k", "DIV2K_train_HR/0001.png", True),
        ("flickr2k", "Flickr2K/Flickr2K_HR/000001.png", True),
        ("flickr2k", "Flickr2K/Flickr2K_LR_bicubic/X4/000001x4.png", False),
        ("urban100", "Urban100_HR/img_001.png", True),
        ("urban100", "Urban100_HR/._img_001.png", False),
        ("srflow", "pretrained_models/RRDB_DF2K_4X.pth", True),
    ],
)
def test_members_that_are_wanted(name, member, wanted):
    assert (re.fullmatch(catalogue.FILES[name][1][0].members, member) is not None) == wanted


def test_every_file_has_a_name_of_its_own():
    files = {one for _, several in catalogue.FILES.values() for one in several}
    assert len({one.name for one in files}) == len(files)
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", one.checksum) for one in files if one.checksum)
    assert all(fetching._file_of(one, Path()).name == one.name for one in files)
