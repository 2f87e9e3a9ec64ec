import math

import torch

from robustflow.bijections.coupling import Coupling
from robustflow.bijections.elementwise import Affine, ExpAffine, InverseAffine
from robustflow.bijections.networks import ConvNetwork


def draw(n=1000):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, n, generator=generator), torch.randn(1, 2, n, generator=generator)


def test_exp_affine_follows_its_equation():
    x, params = draw()
    y, log_slope = ExpAffine()(x, params)
    torch.testing.assert_close(y, x * torch.exp(params[:, 1]) + params[:, 0])
    assert torch.equal(log_slope, params[:, 1])


def test_untrained_exp_affine_coupling_is_the_identity():
    x = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    z, log_det = Coupling(ExpAffine(), ConvNetwork(3, 5, 6), 3)(x, torch.zeros(2, 5, 4, 4))
    assert torch.equal(z, x)
    assert not log_det.any()


def test_exp_affine_explodes_openly():
    y, params = torch.ones(1, 1), torch.tensor([[[0.0], [-100.0]]])
    x, log_slope = ExpAffine().inverse(y, params)
    assert float(x) == math.inf
    assert float(log_slope) == 100
    assert ExpAffine().inverse_bound() is None


def test_inverse_affine_is_affine_backwards():
    x, params = draw()
    t, r = params[:, 0], torch.sigmoid(params[:, 1] + 2) + 0.1
    y, log_slope = InverseAffine(0.1)(x, params)
    torch.testing.assert_close(y, (x + t) / r)
    torch.testing.assert_close(log_slope, -torch.log(r))
    torch.testing.assert_close(InverseAffine(0.1).inverse(x, params)[0], Affine(0.1)(x - t, params)[0] - t)


def test_sampling_with_inverse_affine_cannot_explode_but_encoding_can():
    x, params = draw()
    inverse = InverseAffine(1e-4)
    assert float(inverse.inverse(x, 100 * params)[1].max()) <= math.log(inverse.inverse_bound().factor) + 1e-6
    assert float(inverse(x, 100 * params)[1].max()) > 0.99 * math.log(1e4)
