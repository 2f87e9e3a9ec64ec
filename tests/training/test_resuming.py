"""What a run is resumed from: read before anything is moved, with what differs told, and by one run at a time."""

import multiprocessing
import re
import shutil

import pytest
import tiny
import torch
from several import holding
from training_runs import assert_same_end, folder_of

from robustflow.commands import evaluate as testing
from robustflow.models import weights
from robustflow.training import checkpoint, engine
from robustflow.training.loop import is_done, train
from robustflow.utils import locks

pytestmark = pytest.mark.forks


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def resuming(options, state, **train_options):
    path = options.path.model_copy(update={"resume_state": str(state)})
    return options.model_copy(
        update={"path": path, "train": options.train.model_copy(update={"niter": 6, **train_options})}
    )


@pytest.fixture(scope="module")
def run_of_three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    assert train(tiny.training_options(folder, train={"niter": 3}))
    return folder


@pytest.fixture
def run(run_of_three, make_options, tmp_path):
    """A run of three iterations, in a folder of its own for each test."""
    shutil.copytree(run_of_three, tmp_path, dirs_exist_ok=True)
    return make_options(train={"niter": 3})


@pytest.fixture(scope="module")
def six(run_of_three, tmp_path_factory):
    """The run of three iterations after it went on to six."""
    folder = shutil.copytree(run_of_three, tmp_path_factory.mktemp("six"), dirs_exist_ok=True)
    options = tiny.training_options(folder, path={"resume_state": "auto"})
    assert train(options)
    return options


def test_a_run_with_nothing_left_to_do(make_options):
    def run(name="tiny", niter=2, path=None, **train):
        path = {"resume_state": "auto", **(path or {})}
        return make_options(name, train={"niter": niter, "ema": 0.5, "ood_patches": 20, **train}, path=path)

    options = run()
    assert not is_done(options)
    assert train(options) and is_done(options) and is_done(run(path={"resume_state": None, "results": "elsewhere"}))
    before = contents(folder_of(options))
    assert train(options) and contents(folder_of(options)).keys() == before.keys()
    for others in (run(niter=3), run(niter=1), run(lr_G=2e-3), run(name="other")):
        assert not is_done(others)
    for file in (folder_of(options) / "models").glob("*"):
        kept = file.read_bytes()
        file.unlink()
        assert not is_done(options), file
        file.write_bytes(kept)
    state = checkpoint.state_file(folder_of(options), 2)
    shutil.rmtree(folder_of(options) / "checksums")
    assert is_done(options)
    torch.save({**torch.load(state, weights_only=True), "validated": 0}, state)
    assert not is_done(options)


def of_another_network(make_options, tmp_path):
    other = make_options("other", train={"niter": 3}, network_G={"nf": 12})
    assert train(other)
    return checkpoint.state_file(folder_of(other), 3)


def with_another_optimizer(make_options, tmp_path):
    other = make_options("other", train={"niter": 3})
    assert train(other)
    state = checkpoint.state_file(folder_of(other), 3)
    saved = torch.load(state, weights_only=True)
    saved["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)
    shutil.rmtree(folder_of(other) / "checksums")
    torch.save(saved, state)
    return state


def without_weights(make_options, tmp_path):
    (tmp_path / "alone").mkdir()
    torch.save({"iteration": 3, "optimizer": {}}, tmp_path / "alone" / "00000003.state")
    return tmp_path / "alone" / "00000003.state"


def a_file(name, content):
    def make(make_options, tmp_path):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            torch.save(content, tmp_path / name)
        return tmp_path / name

    return make


def an_empty_folder(make_options, tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_nothing_moves_where_loader_processes_cannot_work(run, make_options, monkeypatch, tmp_path, caplog):
    before = contents(folder_of(run))
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(tmp_path / "none"))
    assert engine.run(make_options(train={"niter": 1}, n_workers=1)) == 2
    assert "datasets.train.n_workers: expected 0" in caplog.text
    assert contents(folder_of(run)) == before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_file("x.state", b"nonsense"), "x.state: damaged checkpoint, or no .state file"),
        (a_file("x.state", b""), "x.state: damaged checkpoint, or no .state file"),
        (a_file("00000003.state", {"iteration": 3}), "its weights .* are missing"),
        (a_file("w.pth", {"a.weight": torch.zeros(1)}), "w.pth: expected the .state file of a checkpoint, got weights"),
        (a_file("w.pt", {"params_ema": {"a": torch.zeros(1)}}), "w.pt: .* got weights"),
        (a_file("w.state", {"state_dict": {"a": torch.zeros(1)}, "epoch": 1}), "w.state: .* got weights"),
        (a_file("w.safetensors", b"x"), "w.safetensors: .* got weights"),
        (a_file("1.state", {"epoch": 1, "iter": 9}), "1.state: .* got one with epoch, iter"),
        (of_another_network, "weights of another network"),
        (with_another_optimizer, "damaged checkpoint"),
        (without_weights, "its weights .* are missing"),
        (an_empty_folder, r"empty: expected a .state file, or the folder of an experiment"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value))[:30],
)
def test_nothing_moves_before_all_is_read(run, make, message, make_options, tmp_path, caplog):
    state = make(make_options, tmp_path)
    before = contents(folder_of(run))
    assert engine.run(resuming(run, state)) == 2
    assert re.search(message, caplog.text)
    assert contents(folder_of(run)) == before
    assert sorted(path.name for path in folder_of(run).parent.iterdir() if path.name.startswith("tiny")) == ["tiny"]


@pytest.mark.parametrize("name", ["models/00000003_G.safetensors", "checksums/00000003.sha256", "options.yml"])
def test_a_file_of_the_run_that_is_no_state(run, name, caplog):
    before = contents(folder_of(run))
    assert engine.run(resuming(run, folder_of(run) / name)) == 2
    if "models" in name:
        assert "got weights; resume " + str(checkpoint.state_file(folder_of(run), 3)) in caplog.text
    assert contents(folder_of(run)) == before


@pytest.mark.parametrize("below", ["", "training_state", "models", "checksums"])
def test_a_folder_is_taken(run, six, below):
    assert train(resuming(run, folder_of(run) / below))
    assert checkpoint.newest(folder_of(run)).stem == "00000006"
    assert_same_end(run, six)


def test_a_folder_of_another_run_is_taken(run, six, make_options, caplog):
    other = make_options("other", train={"niter": 3})
    assert train(resuming(other, folder_of(run)))
    assert f"resumed {checkpoint.state_file(folder_of(run), 3)} at iteration 3" in caplog.text
    assert_same_end(other, six)


def test_a_state_that_moves_with_the_older_run(run):
    inner = folder_of(run) / "superseded_x"
    for name in ("training_state", "models", "checksums"):
        shutil.copytree(folder_of(run) / name, inner / name)
    assert train(resuming(run, checkpoint.state_file(inner, 3)))
    assert checkpoint.newest(folder_of(run)).stem == "00000006"


def test_options_that_differ_are_told_and_kept(run, caplog):
    other = resuming(run, "auto", lr_G=2e-3, manual_seed=5, ema=0.9)
    data = {key: value for key, value in other.datasets.items() if key != "val"}
    data["train"] = data["train"].model_copy(update={"batch_size": 4, "lr_noise": 0.1})
    old = (folder_of(run) / "options.yml").read_text()
    assert train(other.model_copy(update={"datasets": data}))
    for line in (
        "options differ from those of the run so far:",
        "  train.lr_G: 0.001 before, now 0.002",
        "  train.manual_seed: 0 before, now 5",
        "  train.ema: null before, now 0.9",
        "  train.niter: 3 before, now 6",
        "  datasets.train.batch_size: 2 before, now 4",
        "  datasets.train.lr_noise: 0.0 before, now 0.1",
    ):
        assert f"{line}\n" in caplog.text
    assert "  datasets.val: " in caplog.text
    assert "path." not in caplog.text.partition("options differ")[2]
    (kept,) = folder_of(run).glob("options_until_00000003_*.yml")
    assert kept.read_text() == old
    assert "lr_G: 0.002" in (folder_of(run) / "options.yml").read_text()
    assert "train.lr_G" in (folder_of(run) / "train.log").read_text(encoding="utf-8")
    # Later on, what the run was before is told again; nothing more is kept.
    caplog.clear()
    assert train(other.model_copy(update={"datasets": data}))
    assert f"options were others until iteration 3 ({kept}):\n" in caplog.text
    assert "options differ" not in caplog.text
    assert list(folder_of(run).glob("options_until_*")) == [kept]


def test_the_same_options_are_not_told(run, caplog):
    assert train(run.model_copy(update={"path": run.path.model_copy(update={"resume_state": "auto"})}))
    assert "differ" not in caplog.text
    assert list(folder_of(run).glob("options_until*")) == []


def test_options_of_older_checkpoints(run):
    text = weights.read_options_text(checkpoint.weights_file(folder_of(run), 3))
    older = re.sub(r"(?m)^  (lr_G|ood_patches|micro_batch): .*\n", "", text) + "no_longer_known: 3\n"
    assert weights.list_changes(text, run) == []
    lines = ["train.lr_G: null before, now 0.001", "train.ood_patches: null before, now 0"]
    assert weights.list_changes(older, run) == lines
    assert weights.list_changes("{}", run) == []


# One run at a time


def test_a_second_run_of_one_name_is_refused(run, caplog):
    before = contents(folder_of(run))
    with holding(locks.beside(folder_of(run)), folder_of(run)):
        for options in (run, resuming(run, "auto")):
            assert engine.run(options) == 2
        assert "tiny: another run is writing there" in caplog.text
        assert "give this run another name" in caplog.text
        assert engine.run(run.model_copy(update={"name": "another"})) == 0
        assert engine.run(run, check=True) == 0
    assert contents(folder_of(run)) == before
    assert engine.run(resuming(run, "auto")) == 0
    assert not locks.beside(folder_of(run)).exists()


def test_a_run_whose_folder_lies_in_another_is_not_moved(run, caplog):
    inner = folder_of(run) / "inner"
    with holding(locks.beside(inner), inner):
        assert engine.run(run) == 2
    assert "tiny: another run is writing there" in caplog.text
    assert folder_of(run).is_dir()


@pytest.mark.parametrize("below", ["", "input"])
def test_a_second_test_of_one_name_is_refused(run, below, tmp_path, caplog):
    data = {"test_a": run.datasets["val"]}
    path = run.path.model_copy(update={"results": str(tmp_path / "results")})
    options = run.model_copy(update={"datasets": data, "path": path})
    folder = tmp_path / "results" / "tiny" / below
    with holding(locks.within(folder), folder):
        if below == "":
            assert testing.run(options, None, None) == 2
            assert "tiny: another run is writing there" in caplog.text
        assert testing.run(options, None, str(tmp_path / "other")) == 0
    assert testing.run(options, None, None) == 0
    assert not locks.within(folder).exists()
