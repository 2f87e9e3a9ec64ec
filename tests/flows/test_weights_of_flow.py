"""What is made of a flow's weights alone: when it is made anew, and that log-determinants of linear layers add up."""

import copy
import threading

import pytest
import torch

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.permutation import FixedOrthogonal, InvertibleConv, Permutation
from robustflow.flows import build, conditional_flow, level
from robustflow.interop import published
from robustflow.models import FlowInputs, LLFlow
from robustflow.options.schema import FlowOptions, NetworkOptions

FLOW = {"K": 2, "L": 3, "S": (0, 1, 2), "hidden_channels": 5}
MADE = {
    "weights": lambda flow: flow.fold(),
    "inverses": lambda flow: flow.fold_unmixings(),
    "log-determinant": lambda flow: flow.mixing_log_det(),
}
LEVELS = FLOW["L"]


def made(**options):
    torch.manual_seed(0)
    return build(NetworkOptions(nf=4, nb=2, gc=3, flow=FlowOptions(**{**FLOW, **options})), 4)


def draw(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.fixture(params=["learned", "fixed"])
def flow(request, perturb):
    return perturb(made(permutation_train=request.param == "learned"), std=0.05)


@pytest.fixture
def counted(monkeypatch):
    """How often each thing was made of a level's weights."""
    counts = dict.fromkeys(MADE, 0)

    def count(name, function):
        def counting(*arguments):
            counts[name] += 1
            return function(*arguments)

        return counting

    monkeypatch.setattr(level.FlowLevel, "fold", count("weights", level.FlowLevel.fold))
    for name, function in (("inverses", "fold_unmixing"), ("log-determinant", "mixing_log_det")):
        monkeypatch.setattr(conditional_flow, function, count(name, getattr(conditional_flow, function)))
    return counts


def make_all(flow):
    return {name: make(flow) for name, make in MADE.items()}


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [] if value is None else [tensor for part in value for tensor in tensors_of(part)]


def use(flow):
    """Encode and decode; return all results."""
    x, y, noise = draw(2, 3, 8, 16, seed=1), draw(2, 3, 2, 4, seed=2), draw(2, 3, 8, 16, seed=3)
    reference = next(flow.parameters())
    x, y, noise = (value.to(reference) for value in (x, y, noise))
    encoding = flow.encode(x, y, noise)
    latents = [draw(2, *shape, seed=4).to(reference) for shape in flow.latent_shapes(8, 16)]
    return [encoding.log_prob, *encoding.latents, *flow.decode(latents, y, noise)]


def assert_same(found, expected, **limits):
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, **limits)


# Kept


@torch.no_grad()
def test_each_is_made_once(flow, counted):
    first = make_all(flow)
    for _ in range(2):
        use(flow)
        flow.sample(draw(1, 3, 2, 4, seed=2), 2, 0.9, torch.Generator())
    assert counted == dict.fromkeys(MADE, LEVELS) | {"log-determinant": LEVELS}
    for name, value in make_all(flow).items():
        assert value is first[name]


CHANGES = {
    "train and eval": lambda flow: flow.train().eval(),
    "eval": lambda flow: flow.eval(),
    "to float32": lambda flow: flow.to(torch.float32),
    "float": lambda flow: flow.float(),
    "load_state_dict": lambda flow: flow.load_state_dict(flow.state_dict()),
    "to a layout": lambda flow: flow.to(memory_format=torch.channels_last),
    "forget": lambda flow: flow.forget(),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_drop_what_is_kept(flow, counted, change):
    before = make_all(flow)
    change(flow)
    after = make_all(flow)
    assert counted == dict.fromkeys(MADE, 2 * LEVELS)
    dtype = next(flow.parameters()).dtype
    for name in MADE:
        assert after[name] is not before[name]
        assert {tensor.dtype for tensor in tensors_of(after[name])} == {dtype}


def test_fine_tuning_in_eval_mode_is_seen(flow):
    """Whoever computes gradients is about to write to the weights."""
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-3)
    x, y = draw(1, 3, 8, 16, seed=1), draw(1, 3, 2, 4, seed=2)
    with torch.no_grad():
        before = flow.encode(x, y).log_prob
    flow.encode(x, y).log_prob.sum().backward()
    optimizer.step()
    with torch.no_grad():
        found = flow.encode(x, y).log_prob
        expected = flow.eval().encode(x, y).log_prob
    assert torch.equal(found, expected)
    assert not torch.equal(found, before)


@torch.no_grad()
def test_a_training_flow_keeps_nothing(flow, counted):
    flow.train()
    make_all(flow), make_all(flow)
    assert counted == dict.fromkeys(MADE, 2 * LEVELS)
    assert flow._kept == {}


def test_with_autograd_nothing_is_kept(flow, counted):
    with torch.no_grad():
        make_all(flow)
    values = [make_all(flow) for _ in range(2)]
    assert counted == dict.fromkeys(MADE, 3 * LEVELS)
    (sum(tensor.square().sum() for tensor in tensors_of(list(values[1].values())))).backward()
    folded = [p for module in flow.modules() for p in _folded_parameters(module)]
    assert folded
    for parameter in folded:
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def _folded_parameters(module):
    """All that ActNorms, 1×1 convolutions and networks have."""
    if isinstance(module, level.ConvNetwork | ActNorm | Permutation):
        return list(module.parameters())
    return []


def test_gradients_flow_after_an_evaluation_without(flow):
    expected = torch.autograd.grad(use(flow)[0].sum(), list(flow.parameters()), allow_unused=True)
    with torch.no_grad():
        use(flow)
    found = torch.autograd.grad(use(flow)[0].sum(), list(flow.parameters()), allow_unused=True)
    assert_same(found, expected, rtol=0, atol=0)
    with torch.no_grad():
        assert not any(tensor.requires_grad for tensor in tensors_of(list(make_all(flow).values())))


def test_made_in_inference_mode_is_usable_outside(flow):
    with torch.inference_mode():
        expected = use(flow)
        kept = tensors_of(list(make_all(flow).values()))
    assert not any(tensor.is_inference() for tensor in kept)
    with torch.no_grad():
        assert_same(use(flow), expected)
    # As latents' gradients through frozen weights want it.
    found = use(flow)
    found[0].sum().backward()


@torch.no_grad()
def test_made_under_autocast_is_what_is_made_without(flow):
    flow.float()
    expected = tensors_of(list(make_all(flow).values()))
    flow.forget()
    with torch.autocast("cpu", torch.bfloat16):
        found = tensors_of(list(make_all(flow).values()))
    assert_same(found, expected, rtol=0, atol=0)


@torch.no_grad()
def test_built_in_inference_mode_it_is_usable_outside(perturb):
    with torch.inference_mode():
        flow = perturb(made(), std=0.05)
        expected = use(flow)
    assert_same(use(flow), expected, rtol=0, atol=0)


def test_shapes_alone_are_computed_with(flow):
    """As for what a run will need."""
    flow = flow.to("meta")
    x, _ = flow.decode(
        [torch.empty(1, *shape, device="meta").double() for shape in flow.latent_shapes(8, 16)],
        torch.empty(1, 3, 2, 4, device="meta").double(),
    )
    assert x.shape == (1, 3, 8, 16)


@torch.no_grad()
def test_copies_share_nothing(flow):
    expected = use(flow)
    other = copy.deepcopy(flow)
    assert_same(use(other), expected, rtol=0, atol=0)
    assert other._kept is not flow._kept
    mine, theirs = ({t.data_ptr() for t in tensors_of(list(f._kept.values()))} for f in (flow, other))
    assert not mine & theirs
    for parameter in other.parameters():
        parameter.add_(0.01 * torch.ones_like(parameter))
    other.eval()
    assert (use(other)[0] - expected[0]).abs().min() > 1e-3
    assert_same(use(flow), expected, rtol=0, atol=0)
    # What either forgets, the other keeps.
    kept = flow.fold()
    other.forget()
    assert flow.fold() is kept


@torch.no_grad()
def test_what_is_kept_need_not_be_fit_for_copies(flow):
    """As CUDA graphs are not."""
    flow.keep("lock", threading.Lock)
    assert_same(use(copy.deepcopy(flow)), use(flow), rtol=0, atol=0)


@torch.no_grad()
def test_a_copy_follows_weights_loaded_into_it(flow):
    """The hook of a copy is its own."""
    other = copy.deepcopy(flow)
    expected = use(flow)
    for parameter in flow.parameters():
        parameter.add_(0.01)
    flow.eval()
    changed = use(flow)
    use(other)
    other.load_state_dict(flow.state_dict())
    assert_same(use(other), changed, rtol=0, atol=0)
    assert not torch.equal(changed[0], expected[0])


@torch.no_grad()
def test_results_follow_published_weights(perturb):
    flow, other = (perturb(made(), std=0.05, seed=seed).float() for seed in range(2))
    expected = use(other)
    assert not torch.allclose(use(flow)[0], expected[0])
    published.fill(flow, published.write_back(other), encoder_suffices=False)
    assert_same(use(flow)[:1], expected[:1], rtol=1e-4, atol=0)


def test_results_follow_the_optimizer(flow):
    with torch.no_grad():
        before = use(flow)
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-4)
    flow.train()
    for module in flow.modules():
        if isinstance(module, ActNorm):
            module.mark_initialized()
    (-use(flow)[0].sum()).backward()
    optimizer.step()
    flow.eval()
    with torch.no_grad():
        found = use(flow)
    fresh = copy.deepcopy(flow)
    fresh.forget()
    assert_same([value.detach() for value in use(fresh)], found, rtol=1e-12, atol=1e-12)
    assert (found[0] - before[0]).abs().min() > 1e-6


@torch.no_grad()
def test_checkpoints_hold_nothing_of_it(flow):
    names = set(flow.state_dict())
    use(flow)
    assert set(flow.state_dict()) == names


# Log-determinants of linear layers


def sum_over_layers(flow):
    """Of each layer's own, which counts positions, over the pixels of x."""
    height, width = 8, 16
    total = torch.zeros((), dtype=torch.float64)
    for number, own in enumerate(flow.levels, start=1):
        for step in own.mixing_steps:
            z = draw(1, len(step.actnorm.bias), height >> number, width >> number, seed=number)
            total = total + step.actnorm(z)[1][0] + step.permutation(z)[1][0]
    return total / (height * width)


def test_log_det_is_the_sum_over_layers(flow):
    torch.testing.assert_close(flow.mixing_log_det(), sum_over_layers(flow), rtol=1e-13, atol=1e-13)


@torch.no_grad()
@pytest.mark.parametrize("index", [0, -1])
def test_a_permutation_may_be_replaced_by_one_of_another_kind(flow, index):
    replaced = flow.levels[1].mixing_steps[index]
    other = FixedOrthogonal if isinstance(replaced.permutation, InvertibleConv) else InvertibleConv
    replaced.permutation = other(len(replaced.actnorm.bias)).double()
    torch.testing.assert_close(flow.mixing_log_det(), sum_over_layers(flow), rtol=1e-13, atol=1e-13)
    x, y = draw(2, 3, 8, 16, seed=1), draw(2, 3, 2, 4, seed=2)
    torch.testing.assert_close(flow.decode(flow.encode(x, y).latents, y)[0], x, rtol=0, atol=1e-9)


@torch.no_grad()
def test_encoding_with_and_without_it(flow):
    x, y = draw(2, 3, 8, 16, seed=1), draw(2, 3, 2, 4, seed=2)
    whole, without = flow.encode(x, y), flow.encode(x, y, mixing=False)
    torch.testing.assert_close(whole.log_det - without.log_det, 128 * flow.mixing_log_det().expand(2))
    assert_same(whole.latents, without.latents, rtol=0, atol=0)
    assert flow.mixing_log_det().abs() > 1e-3


def model_of(flow):
    """Any model of the flow: images are not looked at."""
    model = LLFlow(nf=4, nb=1, gc=4, K=1, hidden_channels=4)
    model.network = flow
    return model


def test_loss_is_its_two_parts(flow):
    model = model_of(flow)
    x, y = draw(2, 3, 8, 16, seed=1), draw(2, 3, 2, 4, seed=2)
    inputs, parameters = FlowInputs(x, y, draw(2, 3, 8, 16, seed=3)), list(flow.parameters())
    expected = flow.encode(*inputs).bits_per_dim(3 * 8 * 16).mean()
    data, weights = model.data_loss(inputs), model.weight_loss()
    torch.testing.assert_close(data + weights, expected, rtol=1e-13, atol=1e-13)
    gradients = [
        torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        for value in (data, weights, expected)
    ]
    for of_data, of_weights, of_both in zip(*gradients, strict=True):
        torch.testing.assert_close(of_data + of_weights, of_both, rtol=1e-11, atol=1e-13)


def test_weight_loss_is_of_linear_layers_alone(flow):
    names = dict(flow.named_parameters())
    gradients = torch.autograd.grad(
        model_of(flow).weight_loss(), list(names.values()), allow_unused=True, materialize_grads=True
    )
    for name, gradient in zip(names, gradients, strict=True):
        is_linear = name.endswith((".actnorm.logs", ".permutation.weight"))
        assert (gradient.abs().max() > 0) == is_linear, name


def test_pieces_of_a_batch_add_up(flow):
    """As with micro_batch: data losses of pieces by their share, and the weights' once."""
    model, parameters = model_of(flow), list(flow.parameters())
    whole = FlowInputs(draw(3, 3, 8, 16, seed=1), draw(3, 3, 2, 4, seed=2), draw(3, 3, 8, 16, seed=3))
    expected = torch.autograd.grad(flow.encode(*whole).bits_per_dim(384).mean(), parameters)
    flow.zero_grad()
    for piece in (slice(0, 2), slice(2, 3)):
        part = FlowInputs(*(None if value is None else value[piece] for value in whole))
        (model.data_loss(part) * len(part.x) / 3).backward()
    model.weight_loss().backward()
    assert_same([parameter.grad for parameter in parameters], expected, rtol=1e-10, atol=1e-12)
