"""Layouts and reads on a GPU, without one: under FakeTensorMode operations have shapes, strides and devices only.

A read of a value stops the host until the GPU is done, and so does each tensor made of Python's numbers; neither can
be captured. Converting the flow's variables between planes and channels last takes as long as an elementwise map.
"""

import contextlib
import functools
import math
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from robustflow import models
from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.coupling import Coupling
from robustflow.flows.prior import SplitPrior
from robustflow.flows.step import FlowStep, TransitionStep
from robustflow.models import FlowInputs
from robustflow.nn import fused
from robustflow.nn.convolutions import COMPUTE_DTYPES
from robustflow.options.load import load

# A torch without cuDNN would say other layouts.
pytestmark = pytest.mark.skipif(not torch.backends.cudnn.is_available(), reason="needs a torch built for CUDA")

SMALL = "network_G.nb=2|network_G.nf=16|network_G.gc=8|network_G.flow.K=2|network_G.flow.hidden_channels=16"
SPLITS = "network_G.flow.split.correct_splits=true"
# Name → configuration, what is changed, sides of y.
CASES = {
    "affine 4x": ("fsncsr_4x_affine", "network_G.flow.S=[0,1,1]", (8, 12)),
    "spline 4x": ("fsncsr_4x_rq", "network_G.flow.S=[0,1,1]", (8, 12)),
    "spline 4x, all splits": ("fsncsr_4x_rq", f"network_G.flow.S=[0,1,1]|{SPLITS}", (8, 12)),
    "spline 8x": ("fsncsr_8x_rq", "network_G.flow.S=[0,0,1,1]", (4, 6)),
    "LLFlow": ("llflow_lol", "network_G.flow.S=[0]", (32, 48)),
}
B, SAMPLES = 2, 3
aten = torch.ops.aten
READS = (DataDependentOutputException, DynamicOutputShapeException)
COPIES = {aten.clone, aten._to_copy, aten.copy_}


@pytest.fixture(autouse=True, scope="module")
def needs_fakes():
    """Torch 2.6 asks the driver even for a fake. Not tried on import: no test could train and then fork after that."""
    try:
        with FakeTensorMode():
            torch.empty(2, 6, 4, 4, device="cuda").contiguous(memory_format=torch.channels_last)
    except RuntimeError:
        pytest.skip("needs a newer torch, or a GPU")


def layout(tensor):
    """Of a map (b, c, h, w): "planes", "channels last", or None where it is neither alone, or not dense."""
    if tensor.dim() != 4:
        return None
    planes, last = (tensor.is_contiguous(memory_format=f) for f in (torch.contiguous_format, torch.channels_last))
    return None if planes == last else "planes" if planes else "channels last"


def goes_to_magma(packet, *inputs):
    """Whether torch's CUDA factorises these matrices by MAGMA, for which it synchronises the device: ATen's rule."""
    if packet not in (aten._linalg_slogdet, aten.linalg_lu_factor_ex):
        return False
    *batch, rows, _ = inputs[0].shape
    n = math.prod(batch)
    return not (n == 1 or rows <= 16 or (rows <= 128 and n <= 16))


class Watch(TorchDispatchMode):
    """Records what operations do.

    Attributes:
        waits: Operations that the host and the GPU wait for each other in.
        copies: Of 4-D tensors in steps of the flow: operation, layouts before and after.
        made: Operations in steps that made planes.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.copies, self.made, self.in_step = [], [], [], False

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        packet = function.overloadpacket
        try:
            results = function(*arguments, **(keywords or {}))
        except READS:
            self.waits.append(function)
            raise
        inputs, outputs = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
            for tree in ((arguments, keywords), results)
        )
        if (
            packet is aten.lift_fresh
            or (packet in COPIES and self._crosses(inputs + outputs))
            or goes_to_magma(packet, *inputs)
        ):
            self.waits.append(function)
        if self.in_step and outputs and not self._is_view(function):
            if packet in COPIES and outputs[0].dim() == 4:
                self.copies.append((str(packet), layout(inputs[-1]), layout(outputs[0])))
            if any(layout(output) == "planes" for output in outputs):
                self.made.append((function, [tuple(output.shape) for output in outputs]))
        return results

    @staticmethod
    def _crosses(tensors):
        return len({tensor.device.type for tensor in tensors}) > 1

    @staticmethod
    def _is_view(function):
        return any(
            returned.alias_info is not None and not returned.alias_info.is_write
            for returned in function._schema.returns
        )

    @contextlib.contextmanager
    def stepping(self, active):
        before, self.in_step = self.in_step, active
        try:
            yield
        finally:
            self.in_step = before


@pytest.fixture
def watch(monkeypatch):
    """Watches operations; knows when a step or a split prior computes, but for the rows of elementwise maps."""
    watch = Watch()

    def marked(owner, name, active):
        function = getattr(owner, name)

        @functools.wraps(function)
        def marking(*arguments, **keywords):
            with watch.stepping(active and isinstance(arguments[1], torch.Tensor)):
                return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, marking)

    for owner, names in (
        (TransitionStep, ("mix", "unmix")),
        (FlowStep, ("couple", "uncouple")),
        (SplitPrior, ("split",)),
    ):
        for name in names:
            marked(owner, name, True)
    marked(fused, "run", False)
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    return watch


@pytest.fixture
def fake():
    with FakeTensorMode() as mode:
        yield mode


def onto_gpu(network):
    """Replace all tensors by fake ones on a GPU, laid out alike."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, own in tensors.items():
                if own is not None:
                    made = torch.empty_strided(own.shape, own.stride(), dtype=own.dtype, device="cuda")
                    tensors[name] = torch.nn.Parameter(made) if tensors is module._parameters else made
    return network


class Case:
    """A model with a fake network on a GPU, and its inputs."""

    def __init__(self, name, precision):
        configuration, changes, size = CASES[name]
        options = load(f"confs/{configuration}.yml", f"{SMALL}|network_G.flow.stackRRDB.blocks=[0,1]|{changes}")
        self.model = models.build(options.model_copy(update={"precision": precision}))
        # Entered when all real numbers are drawn.
        self.mode = FakeTensorMode()
        with self.mode:
            self.model.network = self.network = onto_gpu(self.model.network)
        self.scale, self.size = options.scale, size

    def inputs(self):
        x = torch.empty(B, 3, *(side * self.scale for side in self.size), device="cuda")
        other = torch.empty_like(x)
        y = torch.empty(B, self.model.condition_channels, *self.size, device="cuda")
        return FlowInputs(x, y, None, other) if self.model.condition_channels == 6 else FlowInputs(x, y, other)

    def latents(self, n):
        sides = (side * self.scale for side in self.size)
        return [torch.empty(n * B, *shape, device="cuda") for shape in self.network.latent_shapes(*sides)]

    @property
    def n_couplings(self):
        return sum(isinstance(module, Coupling) for module in self.network.modules())

    @property
    def n_splits(self):
        return sum(isinstance(module, SplitPrior) for module in self.network.modules())

    def train(self):
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, ActNorm):
                module.mark_initialized()
        return self.network


def loss_under(watch, case):
    with case.mode:
        case.train()
        inputs = case.inputs()
        with watch:
            return case.model.data_loss(inputs)


@torch.no_grad()
def decode_under(watch, case):
    flow = case.network.eval()
    with case.mode:
        flow.fold_unmixings(), flow.mixing_log_det()
        inputs, latents = case.inputs(), case.latents(SAMPLES)
        with watch:
            return flow.decode(latents, inputs.condition, inputs.noise)[0]


def assert_layouts_kept(watch, case, *copies):
    """All in steps is channels last; copied are, for each coupling, the channels x_a out of a wider tensor, and so on.

    Args:
        copies: Layouts before and after, for each coupling.
    """
    assert watch.made == []
    found = Counter((before, after) for _, before, after in watch.copies)
    assert found == {each: n * case.n_couplings for each, n in Counter(copies).items()}


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def test_training_loss_on_a_gpu(name, watch):
    case = Case(name, "fp32")
    loss = loss_under(watch, case)
    assert loss.device.type == "cuda"
    assert watch.waits == []
    assert_layouts_kept(watch, case, (None, "channels last"))


def test_decoding_on_a_gpu(name, watch):
    case = Case(name, "fp32")
    x = decode_under(watch, case)
    assert x.device.type == "cuda"
    assert x.shape == (SAMPLES * B, 3, *(side * case.scale for side in case.size))
    assert watch.waits == []
    assert_layouts_kept(watch, case, (None, "channels last"))


@pytest.mark.parametrize("under", [loss_under, decode_under])
def test_16_bits_on_a_gpu(name, watch, under, monkeypatch):
    # Without a GPU, torch takes it for one that knows no bf16, and convolves in planes.
    monkeypatch.setitem(COMPUTE_DTYPES, "bf16", torch.float16)
    case = Case(name, "bf16")
    under(watch, case)
    assert watch.waits == []
    # To 16 bits, and the parameters back.
    assert_layouts_kept(watch, case, (None, "channels last"), ("channels last", "channels last"))


@pytest.mark.parametrize(("name", "sizes"), [("affine 4x", (12, 24, 96)), ("LLFlow", (12, 48, 192))])
def test_loss_of_the_weights_on_a_gpu(name, sizes, watch, monkeypatch):
    configuration, changes, size = CASES[name]
    monkeypatch.setitem(CASES, name, (configuration, f"{changes}|network_G.flow.K=16", size))
    case = Case(name, "fp32")
    assert [level.mixing_steps[0].actnorm.logs.numel() for level in case.network.levels] == list(sizes)
    with case.mode:
        case.train()
        with watch:
            loss = case.model.weight_loss()
    assert loss.device.type == "cuda"
    assert watch.waits == []


# What is watched for would be seen.

WAITS = {
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool((x > 0).all()),
    "mask": lambda x: x[x > 0],
    "list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "list like": lambda x: x.new_tensor([1.0, 2.0]),
    "number": lambda x: torch.tensor(2.0).to(x.device),
    "from the host": lambda x: torch.zeros(3).to(x.device),
    "copied from the host": lambda x: torch.zeros_like(x).copy_(torch.zeros(x.shape)),
    "to the host": lambda x: x.cpu(),
    "many matrices": lambda x: torch.linalg.slogdet(x.expand(5, -1, -1, -1, -1).repeat(1, 1, 1, 8, 8)),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_waits_are_seen(wait, watch):
    with FakeTensorMode():
        x = torch.empty(2, 3, 4, 4, device="cuda")
        with watch, contextlib.suppress(*READS):
            wait(x)
    assert watch.waits


def test_conversions_are_seen(watch):
    with FakeTensorMode(), watch, watch.stepping(True):
        x = torch.empty(2, 6, 4, 4, device="cuda").contiguous(memory_format=torch.channels_last)
        assert (watch.copies, watch.made[1:]) == ([("aten.clone", "planes", "channels last")], [])
        x[:, :3].contiguous(memory_format=torch.channels_last)
        assert watch.copies[1:] == [("aten.clone", None, "channels last")]
        (x + 1).movedim(1, -1).sum(-1)
        assert len(watch.made) == 1
        x.contiguous()
    assert len(watch.made) == 2
    assert watch.copies[2:] == [("aten.clone", "channels last", "planes")]
