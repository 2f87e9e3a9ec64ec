import pytest
import torch

from robustflow.bijections.permutation import FixedOrthogonal, InvertibleConv, random_rotation


def test_stacks_of_matrices_give_what_each_gives():
    for kind in (InvertibleConv, FixedOrthogonal):
        weights = torch.stack([kind(3).weight.double() + 0.1 * torch.eye(3) for _ in range(4)])
        if kind is FixedOrthogonal:
            weights = torch.stack([kind(3).weight for _ in range(4)])
        expected = torch.stack([torch.linalg.inv(weight) for weight in weights])
        torch.testing.assert_close(kind.invert_weights(weights), expected)
        expected = torch.stack([torch.linalg.slogdet(weight)[1] for weight in weights])
        torch.testing.assert_close(kind.log_abs_det(weights), expected, rtol=1e-12, atol=1e-12)


def test_bounds_are_the_largest_singular_values_of_inverses():
    conv = InvertibleConv(4)
    with torch.no_grad():
        conv.weight.add_(0.3 * torch.randn(4, 4))
    expected = torch.linalg.matrix_norm(torch.linalg.inv(conv.weight.detach().double()), ord=2).item()
    assert conv.inverse_bound() == (pytest.approx(expected), 0)
    assert FixedOrthogonal(4).inverse_bound() == (1, 0)


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
