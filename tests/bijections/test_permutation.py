import copy

import pytest
import torch

from robustflow.bijections.permutation import FixedOrthogonal, InvertibleConv, random_rotation


def adam_step(conv):
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.1)
    z, log_det = conv(torch.ones(1, 3, 2, 2, dtype=conv.weight.dtype))
    (z.square().sum() - log_det.sum()).backward()
    optimizer.step()


def sgd_step(conv):
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.1, foreach=True)
    conv(torch.ones(1, 3, 2, 2, dtype=conv.weight.dtype))[0].square().sum().backward()
    optimizer.step()


def move_away_and_back(conv):
    weight = conv.weight.data
    conv.float()
    conv.double()
    assert conv.weight.data.data_ptr() != weight.data_ptr()


CHANGES = {
    "Adam": adam_step,
    "SGD": sgd_step,
    "load_state_dict": lambda conv: conv.load_state_dict({"weight": torch.eye(3) + 0.1}),
    "load_state_dict, assign": lambda conv: conv.load_state_dict({"weight": torch.eye(3).double() + 0.1}, assign=True),
    "other dtype": lambda conv: conv.float(),
    "other dtype and back": move_away_and_back,
    "in place": lambda conv: conv.weight.add_(0.1),
    "new data": lambda conv: setattr(conv.weight, "data", torch.eye(3).double() + 0.1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_kept_inverse_follows_the_weight(change):
    conv = InvertibleConv(3).double().eval()
    z = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        conv.inverse(z)
    with torch.set_grad_enabled("step" in CHANGES[change].__name__):
        CHANGES[change](conv)
    z = z.to(conv.weight.dtype)
    with torch.no_grad():
        x, inverse_log_det = conv.inverse(z)
        _, log_det = conv(z)
    expected = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(conv.weight.detach().double()), z.double())
    expected_log_det = 4 * torch.linalg.slogdet(conv.weight.detach().double())[1].expand(2)
    limit = 1e-12 if z.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(x.double(), expected, rtol=limit, atol=limit)
    torch.testing.assert_close(log_det.double(), expected_log_det, rtol=limit, atol=limit)
    torch.testing.assert_close(inverse_log_det.double(), -expected_log_det, rtol=limit, atol=limit)


def test_inverse_is_kept_without_autograd(monkeypatch):
    conv, z = InvertibleConv(3), torch.randn(2, 3, 2, 2)
    with torch.no_grad():
        first, _ = conv.inverse(z)
        monkeypatch.setattr(torch.linalg, "inv", None)
        again, _ = conv.inverse(z)
        conv(z)
    assert torch.equal(first, again)


def test_copies_do_not_share_what_is_kept():
    conv, z = InvertibleConv(3).double(), torch.randn(2, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        conv.inverse(z)
        other = copy.deepcopy(conv)
        other.weight.mul_(2)
        torch.testing.assert_close(2 * other.inverse(z)[0], conv.inverse(z)[0])


def test_gradient_of_the_log_det_is_the_inverse_transpose():
    conv = InvertibleConv(4).double()
    with torch.no_grad():
        conv.weight.add_(0.1 * torch.randn(4, 4))
    _, log_det = conv(torch.zeros(2, 4, 3, 5, dtype=torch.float64))
    log_det[0].backward()
    torch.testing.assert_close(conv.weight.grad, 15 * torch.linalg.inv(conv.weight.detach()).T)


@pytest.mark.parametrize("channels", [1, 4, 48])
def test_initial_weight_is_a_rotation(channels):
    for weight, tolerance in (
        (random_rotation(channels), 1e-14),
        (InvertibleConv(channels).weight.double(), 1e-6),
        (FixedOrthogonal(channels).weight, 1e-14),
        (FixedOrthogonal(channels).float().double().weight, 1e-14),
    ):
        eye = torch.eye(channels, dtype=torch.float64)
        torch.testing.assert_close(weight @ weight.T, eye, rtol=0, atol=tolerance)


def test_fixed_weight_is_saved_but_not_trained():
    fixed = FixedOrthogonal(4)
    assert list(fixed.state_dict()) == ["weight"]
    assert list(fixed.parameters()) == []


def test_same_torch_seed_same_rotation():
    torch.manual_seed(3)
    first = random_rotation(5)
    torch.manual_seed(3)
    assert torch.equal(first, random_rotation(5))
