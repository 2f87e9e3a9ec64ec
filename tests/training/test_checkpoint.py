import pytest
import torch

from robustflow.models.weights import WeightsError
from robustflow.training import checkpoint, optimizer
from robustflow.training.checkpoint import CheckpointError
from robustflow.training.run import Progress, Run


@pytest.fixture
def make_run(make_options, make_model):
    """Make a run of a tiny model: untrained, without data."""

    def make():
        options = make_options("run")
        model = make_model(options)
        return Run(options, model, optimizer.build(model, options.train), None, None, None, None)

    return make


@pytest.fixture
def trained(make_run):
    """Save a checkpoint of iteration 4 of a run whose optimizer has a state."""
    run = make_run()
    run.model.loss(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 4, 4), torch.Generator()).backward()
    run.adam.step()
    run.progress.iteration = 4
    checkpoint.save(run)
    return run


@pytest.fixture
def fresh(make_run):
    """An untrained run like the saved one."""
    return make_run()


def state_of(run):
    return checkpoint.state_file(run.experiment, 4)


def test_round_trip(trained, fresh):
    assert checkpoint.resume(fresh, state_of(trained)) == Progress(4)
    for name, tensor in fresh.model.network.state_dict().items():
        assert torch.equal(tensor, trained.model.network.state_dict()[name]), name
    expected, states = (run.adam.state_dict()["state"] for run in (trained, fresh))
    assert states.keys() == expected.keys()
    assert all(torch.equal(states[k]["exp_avg_sq"], expected[k]["exp_avg_sq"]) for k in states)


def test_states_of_older_versions(trained, fresh):
    """A word has changed since, and there was a time when only the iteration was said."""
    saved = torch.load(state_of(trained), weights_only=True)
    assert saved.pop("rollback") is None
    torch.save({**saved, "went_back": (3, 2)}, state_of(trained))
    assert checkpoint.resume(fresh, state_of(trained)).rollback == (3, 2)
    torch.save({key: saved[key] for key in ("iteration", "optimizer")}, state_of(trained))
    assert checkpoint.resume(fresh, state_of(trained)) == Progress(4, validated=4)


def test_optimizer_and_network_stay_laid_out_alike(trained, fresh):
    """A step would convert its moments otherwise; moments saved in planes, as once, fit too."""
    state = state_of(trained)
    checkpoint.resume(fresh, state)
    adam, other, other_adam = trained.adam, fresh.model.network, fresh.adam
    expected = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    for optimizer_of in (adam, other_adam):
        for parameter, moments in optimizer_of.state.items():
            assert moments["exp_avg_sq"].stride() == parameter.stride()
    saved = torch.load(state, weights_only=True)
    for moments in saved["optimizer"]["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            moments[name] = moments[name].contiguous(memory_format=torch.contiguous_format)
    other_adam.load_state_dict(saved["optimizer"])
    for (_, moments), parameter in zip(adam.state.items(), other.parameters(), strict=True):
        assert torch.equal(other_adam.state[parameter]["exp_avg"], moments["exp_avg"])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"not a checkpoint",
    ],
    ids=["empty", "half", "one byte short", "text"],
)
def test_damaged_state(fresh, damage):
    state = state_of(fresh)
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(CheckpointError, match=r"00000004\.state: damaged checkpoint"):
        checkpoint.resume(fresh, state)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("content", [[], {"iteration": 4}, {"iteration": None, "optimizer": {}}], ids=str)
def test_state_of_something_else(fresh, content):
    state = state_of(fresh)
    torch.save(content, state)
    with pytest.raises(CheckpointError, match=r"00000004\.state: damaged checkpoint"):
        checkpoint.resume(fresh, state)


@pytest.mark.usefixtures("trained")
def test_optimizer_of_another_network(fresh):
    state = state_of(fresh)
    other = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    torch.save({"iteration": 4, "optimizer": other.state_dict()}, state)
    with pytest.raises(CheckpointError, match=r"00000004\.state"):
        checkpoint.resume(fresh, state)


@pytest.mark.usefixtures("trained")
def test_state_without_weights(fresh):
    file = checkpoint.weights_file(fresh.experiment, 4)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"00000004\.state: its weights .*00000004_G\.safetensors are missing"):
        checkpoint.resume(fresh, state_of(fresh))


@pytest.mark.usefixtures("trained")
def test_damaged_weights(fresh):
    file = checkpoint.weights_file(fresh.experiment, 4)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(WeightsError, match=r"00000004_G\.safetensors: damaged"):
        checkpoint.resume(fresh, state_of(fresh))


# Finding


def test_newest_is_by_number_and_junk_is_ignored(tmp_path):
    folder = tmp_path / "training_state"
    folder.mkdir()
    for name in ("99999999.state", "100000000.state", "latest.state", ".00000011.state.x7", "00000012.state~", "13.pt"):
        (folder / name).touch()
    (folder / "00000002.state").touch()
    names = ["100000000.state", "99999999.state", "00000002.state"]
    assert checkpoint.states(tmp_path) == [folder / name for name in names]
    assert checkpoint.newest(tmp_path) == folder / "100000000.state"


def test_nothing_to_find(tmp_path):
    assert checkpoint.find(tmp_path / "none", "auto") is None
    (tmp_path / "training_state").mkdir()
    assert checkpoint.find(tmp_path, "auto") is None


def test_without_resume_state_nothing_is_looked_for(tmp_path):
    (tmp_path / "training_state").mkdir()
    (tmp_path / "training_state" / "00000001.state").touch()
    assert checkpoint.find(tmp_path, None) is None


def test_named_state(tmp_path):
    torch.save({"iteration": 1}, tmp_path / "any.state")
    assert checkpoint.find(tmp_path / "elsewhere", str(tmp_path / "any.state")) == tmp_path / "any.state"
    with pytest.raises(CheckpointError, match=r"none\.state: expected a \.state file or 'auto'"):
        checkpoint.find(tmp_path, str(tmp_path / "none.state"))


# Older experiments of the same name


def test_older_runs_are_kept(tmp_path):
    experiment = tmp_path / "group" / "run"
    contents = []
    for number in range(3):
        (experiment / "models").mkdir(parents=True)
        (experiment / "models" / "weights").write_text(str(number))
        archived = checkpoint.archive(experiment)
        assert not experiment.exists()
        assert archived.parent == experiment.parent
        contents.append((archived / "models" / "weights", str(number)))
    assert len({file for file, _ in contents}) == 3
    assert all(file.read_text() == text for file, text in contents)


def test_room_that_is_there(tmp_path):
    assert checkpoint.archive(tmp_path / "new") is None
