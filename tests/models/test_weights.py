from typing import Literal

import pytest
import safetensors.torch
import torch
import yaml

from robustflow.bijections.base import Elementwise
from robustflow.models import weights
from robustflow.models.weights import WeightsError
from robustflow.registry import ELEMENTWISE, Options


def state_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_state(network, expected):
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def saved(tmp_path, make_model, make_options):
    """Save a tiny model and return the file."""

    def save(model="FS-NCSR", name="1_G.safetensors", **options):
        weights.save(tmp_path / name, make_model(model, **options), make_options(model, **options), 7)
        return tmp_path / name

    return save


def test_round_trip(saved, make_model, make_options):
    file = saved()
    model = make_model()
    expected = state_of(model.network)
    for tensor in model.network.state_dict().values():
        tensor.zero_()
    assert weights.load(file, model, make_options(), encoder_suffices=False) == "network"
    assert_state(model.network, expected)


def test_layout_in_memory_is_no_part_of_files(saved, make_model, make_options, tmp_path):
    """Kernels are channels last in memory, and in files as ever; files of either layout can be read."""
    model = make_model()
    tensors, metadata = weights.read(saved())
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensors[name], tensor), name
        assert tensor.dim() != 4 or tensor.is_contiguous(memory_format=torch.channels_last), name
    safetensors.torch.save_file(tensors, tmp_path / "2_G.safetensors", metadata)
    expected = state_of(model.network)
    for tensor in model.network.state_dict().values():
        tensor.zero_()
    weights.load(tmp_path / "2_G.safetensors", model, make_options(), encoder_suffices=False)
    assert_state(model.network, expected)
    for name, tensor in model.network.state_dict().items():
        assert tensor.dim() != 4 or tensor.is_contiguous(memory_format=torch.channels_last), name


def test_metadata_hold_options_and_iteration(saved):
    tensors, metadata = weights.read(saved(coupling="rq_spline"))
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}
    assert metadata["iteration"] == "7"
    assert yaml.safe_load(metadata["options"])["network_G"]["flow"]["coupling"]["type"] == "rq_spline"


@pytest.mark.parametrize(("scale", "L"), [(2, 1), (2, 3), (4, 3), (8, 4)])
def test_pretrained_encoder_suffices_for_a_flow(saved, make_model, make_options, scale, L):
    file = saved("RRDB", scale=scale)
    model = make_model(scale=scale, L=L, S=(1,))
    for tensor in model.network.state_dict().values():
        tensor.zero_()
    before = state_of(model.network)
    assert weights.load(file, model, make_options(scale=scale), encoder_suffices=True) == "encoder"
    assert_state(model.network, before | {k: v for k, v in weights.read(file)[0].items() if k.startswith("encoder.")})
    assert model.network.encoder.conv_first.weight.abs().sum() > 0


def test_pretrained_encoder_is_no_flow(saved, make_model, make_options):
    model = make_model()
    with pytest.raises(WeightsError, match=r"model\.type: the weights were trained with RRDB, the options say FS-NCSR"):
        weights.load(saved("RRDB"), model, make_options(), encoder_suffices=False)


def test_a_flow_is_no_pretrained_encoder(saved, make_model, make_options):
    model = make_model(coupling="rq_spline")
    with pytest.raises(WeightsError):
        weights.load(saved(), model, make_options(coupling="rq_spline"), encoder_suffices=True)


def test_misfit_names_options_and_tensors_and_leaves_the_network_alone(saved, make_model, make_options):
    file = saved(coupling="affine")
    model = make_model(coupling="rq_spline")
    before = state_of(model.network)
    with pytest.raises(WeightsError) as caught:
        weights.load(file, model, make_options(coupling="rq_spline"), encoder_suffices=True)
    message = str(caught.value)
    assert str(file) in message
    assert "network_G.flow.coupling.type: the weights were trained with affine, the options say rq_spline" in message
    assert "levels.0.steps.0.injector.network.head.bias: expected shape (48,), got (24,)" in message
    assert_state(model.network, before)


def test_misfit_of_sizes_counts_what_it_does_not_list(saved, make_model, make_options):
    model = make_model(nf=16)
    with pytest.raises(
        WeightsError, match=r"nf: the weights were trained with 8, the options say 16(.|\n)*and \d+ more"
    ):
        weights.load(saved(nf=8), model, make_options(nf=16), encoder_suffices=False)


def test_misfit_without_metadata_names_tensors(tmp_path, make_model, make_options):
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    model = make_model()
    with pytest.raises(WeightsError, match="missing: encoder"):
        weights.load(tmp_path / "other.safetensors", model, make_options(), encoder_suffices=True)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1], ids=["empty", "no header", "half a header", "one byte short"])
def test_damaged_file(saved, make_model, make_options, kept):
    file = saved()
    file.write_bytes(file.read_bytes()[:kept])
    model = make_model()
    before = state_of(model.network)
    with pytest.raises(WeightsError, match=r"1_G\.safetensors: damaged"):
        weights.load(file, model, make_options(), encoder_suffices=False)
    assert_state(model.network, before)


def test_other_suffix(tmp_path):
    (tmp_path / "weights.ckpt").touch()
    with pytest.raises(
        WeightsError, match=r"weights\.ckpt: expected a \.safetensors or published \.pth file, got '\.ckpt'"
    ):
        weights.read(tmp_path / "weights.ckpt")


def test_experiment_folder_means_its_newest_weights(saved, tmp_path):
    # Iterations are compared as numbers, whatever the order of their names and dates.
    for name in ("00000900", "20000000", "100000000", "latest", "1e9"):
        saved(name=f"models/{name}_G.safetensors")
    saved(name="models/00000001_G.safetensors")
    assert weights.locate(str(tmp_path)) == tmp_path / "models" / "100000000_G.safetensors"


def test_file_means_itself(saved):
    file = saved()
    assert weights.locate(str(file)) == file


@pytest.mark.parametrize("place", ["missing.safetensors", "empty", "missing/folder"])
def test_nothing_there(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"train first, or correct path\.pretrain_model_G, path\.model_path or"):
        weights.locate(str(tmp_path / place))


class LearnedShiftOptions(Options):
    type: Literal["learned_shift"] = "learned_shift"


class LearnedShift(Elementwise):
    """A map with a parameter of its own, as a third party may write it."""

    num_params = 1

    def __init__(self):
        super().__init__()
        self.size = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, params):
        y = x + self.size * params[:, 0]
        return y, torch.zeros_like(y)

    def inverse(self, y, params):
        return y - self.size * params[:, 0], torch.zeros_like(y)


def test_maps_with_parameters_of_their_own_are_saved(saved, make_model, make_options):
    ELEMENTWISE.register("learned_shift", LearnedShiftOptions)(LearnedShift)
    file = saved(coupling="learned_shift")
    model = make_model(coupling="learned_shift")
    assert weights.load(file, model, make_options(coupling="learned_shift"), encoder_suffices=False) == "network"


BOUNDED = {"type": "affine", "eps": 0.1}


@pytest.mark.parametrize(
    ("trained", "tested", "key"),
    [
        ({"coupling": BOUNDED}, {"coupling": "affine"}, "network_G.flow.coupling.eps"),
        ({"coupling": "rq_spline"}, {"coupling": {"type": "rq_spline", "bounds": (-1.0, 1.0)}}, "coupling.bounds"),
        ({"model": "FS-NCSR"}, {"model": "NCSR"}, "model.type"),
    ],
)
def test_another_function_of_the_same_shapes_is_a_misfit(saved, make_model, make_options, trained, tested, key):
    file = saved(**trained)
    model = make_model(**tested)
    before = state_of(model.network)
    with pytest.raises(WeightsError, match=rf"(?s)weights of another function.*{key}") as raised:
        weights.load(file, model, make_options(**tested), encoder_suffices=False)
    assert "the weights were trained with" in str(raised.value)
    assert_state(model.network, before)
    # A training may start from them.
    assert weights.load(file, model, make_options(**tested), encoder_suffices=True) == "network"


def test_what_is_not_of_the_function_may_differ(saved, make_model, make_options):
    file = saved()
    model = make_model()
    options = make_options()
    flow = options.network_G.flow.model_copy(update={"projection_memory": 7})
    changed = options.network_G.model_copy(update={"flow": flow, "train_RRDB_delay": 0.5})
    options = options.model_copy(update={"network_G": changed})
    assert weights.load(file, model, options, encoder_suffices=False) == "network"
