import pytest
import torch

from robustflow.models.weights import WeightsError
from robustflow.training import checkpoint, optimizer
from robustflow.training.checkpoint import CheckpointError, Progress


@pytest.fixture
def trained(make_options, make_model, tmp_path):
    """Save a checkpoint of iteration 4 of a tiny model whose optimizer has a state."""
    options = make_options()
    model = make_model(options)
    adam = optimizer.build(model.network, options.train)
    model.loss(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 4, 4), torch.Generator()).backward()
    adam.step()
    checkpoint.save(tmp_path / "run", model, adam, options, Progress(4))
    return model, adam, options


@pytest.fixture
def fresh(make_options, make_model):
    """An untrained model like the saved one, its optimizer and options."""
    options = make_options()
    model = make_model(options)
    return model, optimizer.build(model.network, options.train), options


def test_round_trip(trained, fresh, tmp_path):
    network, adam, _ = trained
    other, other_adam, options = fresh
    assert checkpoint.resume(checkpoint.state_file(tmp_path / "run", 4), other, other_adam, options) == Progress(4)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name
    expected, states = adam.state_dict()["state"], other_adam.state_dict()["state"]
    assert states.keys() == expected.keys()
    assert all(torch.equal(states[k]["exp_avg_sq"], expected[k]["exp_avg_sq"]) for k in states)


def test_optimizer_and_network_stay_laid_out_alike(trained, fresh, tmp_path):
    """A step would convert its moments otherwise; moments saved in planes, as once, fit too."""
    _, adam, _ = trained
    state = checkpoint.state_file(tmp_path / "run", 4)
    other, other_adam, options = fresh
    checkpoint.resume(state, other, other_adam, options)
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
def test_damaged_state(fresh, tmp_path, damage):
    state = checkpoint.state_file(tmp_path / "run", 4)
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(CheckpointError, match=r"00000004\.state: damaged checkpoint"):
        checkpoint.resume(state, *fresh)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("content", [[], {"iteration": 4}, {"iteration": None, "optimizer": {}}], ids=str)
def test_state_of_something_else(fresh, tmp_path, content):
    state = checkpoint.state_file(tmp_path / "run", 4)
    torch.save(content, state)
    with pytest.raises(CheckpointError, match=r"00000004\.state: damaged checkpoint"):
        checkpoint.resume(state, *fresh)


@pytest.mark.usefixtures("trained")
def test_optimizer_of_another_network(fresh, tmp_path):
    state = checkpoint.state_file(tmp_path / "run", 4)
    other = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    torch.save({"iteration": 4, "optimizer": other.state_dict()}, state)
    with pytest.raises(CheckpointError, match=r"00000004\.state"):
        checkpoint.resume(state, *fresh)


@pytest.mark.usefixtures("trained")
def test_state_without_weights(fresh, tmp_path):
    file = checkpoint.weights_file(tmp_path / "run", 4)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"00000004\.state: its weights .*00000004_G\.safetensors are missing"):
        checkpoint.resume(checkpoint.state_file(tmp_path / "run", 4), *fresh)


@pytest.mark.usefixtures("trained")
def test_damaged_weights(fresh, tmp_path):
    file = checkpoint.weights_file(tmp_path / "run", 4)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(WeightsError, match=r"00000004_G\.safetensors: damaged"):
        checkpoint.resume(checkpoint.state_file(tmp_path / "run", 4), *fresh)


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
        archived = checkpoint.make_room(experiment)
        assert not experiment.exists()
        assert archived.parent == experiment.parent
        contents.append((archived / "models" / "weights", str(number)))
    assert len({file for file, _ in contents}) == 3
    assert all(file.read_text() == text for file, text in contents)


def test_room_that_is_there(tmp_path):
    assert checkpoint.make_room(tmp_path / "new") is None
