"""The public checkers accept what is right and fail, with the right message, for planted faults."""

import pytest
import torch
from torch import nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.base import Bijection, Elementwise, InverseBound
from robustflow.testing import check_bijection, check_elementwise, take_item


class Scale(Bijection):
    """z = x·exp(mean of the item's condition + logs), the stem of the faulty bijections."""

    def __init__(self):
        super().__init__()
        self.logs = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def log_scale(self, cond):
        return self.logs + cond.mean(1)

    def forward(self, x, cond=None):
        log_scale = self.log_scale(cond)
        return x * log_scale.exp()[:, None], log_scale * x.shape[1]

    def inverse(self, z, cond=None):
        log_scale = self.log_scale(cond)
        return z * (-log_scale).exp()[:, None], -log_scale * z.shape[1]


class WrongSign(Scale):
    def inverse(self, z, cond=None):
        x, log_det = super().inverse(z, cond)
        return x, -log_det


class MissingFactor(Scale):
    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return z, log_det / 2

    def inverse(self, z, cond=None):
        x, log_det = super().inverse(z, cond)
        return x, log_det / 2


class InverseOff(Scale):
    def inverse(self, z, cond=None):
        x, log_det = super().inverse(z, cond)
        return x + 1e-6, log_det


class BatchStatistics(Scale):
    def log_scale(self, cond):
        return super().log_scale(cond).mean().expand(len(cond))


class UnusedParameter(Scale):
    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.ones(2, dtype=torch.float64))


class CutParameter(UnusedParameter):
    def log_scale(self, cond):
        return super().log_scale(cond) + 0 * self.spare.sum()


class CutGraph(Scale):
    def log_scale(self, cond):
        return super().log_scale(cond).detach()


class CutParameterOfLogDet(Scale):
    """Both maps and log-determinants are right; a likelihood would train the log-scale by half of its gradient."""

    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return z, log_det.detach()


class DoubledParameter(Scale):
    def log_scale(self, cond):
        return super().log_scale(cond) + self.logs - self.logs.detach()


class NotFiniteGradient(Scale):
    def log_scale(self, cond):
        return super().log_scale(cond) + torch.sqrt(0 * self.logs)


class InPlace(Scale):
    def forward(self, x, cond=None):
        log_scale = self.log_scale(cond)
        with torch.no_grad():
            x.mul_(log_scale.exp()[:, None])
        return x.clone(), log_scale * x.shape[1]


class SummedLogDet(Scale):
    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return z, log_det.sum()


class SingleLogDet(Scale):
    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return z, log_det.float()


class NotFinite(Scale):
    def forward(self, x, cond=None):
        z, log_det = super().forward(x, cond)
        return z / 0, log_det


class NoLogDet(Scale):
    def forward(self, x, cond=None):
        return super().forward(x, cond)[0]


class DetachedInput(Scale):
    """Triangular, so the Jacobian's determinant is right although the graph is cut."""

    def forward(self, x, cond=None):
        shift = torch.cat([torch.zeros_like(x[:, :1]), x[:, :1].detach().expand(-1, x.shape[1] - 1)], dim=1)
        z, log_det = super().forward(x, cond)
        return z + shift, log_det

    def inverse(self, z, cond=None):
        first, _ = super().inverse(z[:, :1], cond)
        shift = torch.cat([torch.zeros_like(first), first.expand(-1, z.shape[1] - 1)], dim=1)
        return super().inverse(z - shift, cond)


class StaleCache(Scale):
    def log_scale(self, cond):
        return super().log_scale(cond) + (0 if torch.is_grad_enabled() else 1e-6)


def sample():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_right_bijection_passes():
    check_bijection(Scale(), *sample())


@pytest.mark.parametrize(
    ("bijection", "message"),
    [
        (WrongSign, r"log-det of inverse against minus log-det of forward: difference .*limit 1e-08; .*wrong sign"),
        (MissingFactor, "log-det of item 0 against .* Jacobian"),
        (InverseOff, r"inverse\(forward\(x\)\) against x: difference .*limit 1e-09"),
        (BatchStatistics, "z of forward, item 0 alone .*statistics over the batch"),
        (UnusedParameter, "parameter spare receives no gradient"),
        (CutParameter, "parameter spare receives no gradient"),
        (CutGraph, "cuts the graph"),
        (CutParameterOfLogDet, "forward: derivative by the input and parameters"),
        (DoubledParameter, "forward: derivative by the input and parameters"),
        (NotFiniteGradient, "gradient of parameter logs is not finite"),
        (InPlace, "changed its input in place"),
        (SummedLogDet, r"log_det must have shape \(2,\).* got \(\)"),
        (SingleLogDet, "log_det in torch.float32"),
        (NotFinite, "tensor that is not finite"),
        (NoLogDet, r"must return \(tensor, log_det\), got Tensor"),
        (DetachedInput, "forward: derivative by the input"),
        (StaleCache, "under torch.no_grad"),
    ],
)
def test_faulty_bijection_fails(bijection, message):
    with pytest.raises(AssertionError, match=message):
        check_bijection(bijection(), *sample())


def test_dead_parameters_are_allowed_by_name():
    check_bijection(UnusedParameter(), *sample(), dead_parameters={"spare"})


@pytest.mark.parametrize("x", [torch.zeros(2, 3), torch.zeros(1, 3).double(), torch.zeros(2, 2000).double()])
def test_unfit_sample_is_refused(x):
    with pytest.raises(ValueError, match="float64 with b >= 2 and at most 1024"):
        check_bijection(ActNorm(3), x)


def test_take_item():
    a, b = sample()
    first, second, none = take_item((a, b, None), 1)
    assert torch.equal(first, a[1:])
    assert torch.equal(second, b[1:])
    assert none is None
    with pytest.raises(ValueError, match="take_cond"):
        take_item({"a": a}, 0)


class Line(Elementwise):
    """y = x·exp(p0) + p1."""

    num_params = 2

    def forward(self, x, params):
        return x * params[:, 0].exp() + params[:, 1], params[:, 0].expand_as(x)

    def inverse(self, y, params):
        return (y - params[:, 1]) * (-params[:, 0]).exp(), -params[:, 0].expand_as(y)


class WrongSlope(Line):
    def forward(self, x, params):
        return super().forward(x, params)[0], params[:, 1].expand_as(x)


class WrongBound(Line):
    def inverse_bound(self):
        return InverseBound(1.0, 0.5)


class WrongInverse(Line):
    def inverse(self, y, params):
        x, log_slope = super().inverse(y, params)
        return x + 1e-6, log_slope


class WrongInverseSlope(Line):
    def inverse(self, y, params):
        x, log_slope = super().inverse(y, params)
        return x, -log_slope


class UnexpandedSlope(Line):
    def forward(self, x, params):
        return super().forward(x, params)[0], params[:, 0]


class Decreasing(Line):
    def forward(self, x, params):
        y, log_slope = super().forward(x, params)
        return -y, log_slope

    def inverse(self, y, params):
        return super().inverse(-y, params)


class Steep(Line):
    def forward(self, x, params):
        return super().forward(x, params + 2)

    def inverse(self, y, params):
        return super().inverse(y, params + 2)


class DetachedForward(Line):
    def forward(self, x, params):
        y, log_slope = super().forward(x, params)
        return y, log_slope.detach()


class DetachedInverse(Line):
    def inverse(self, y, params):
        return super().inverse(y, params.detach())


class OtherMapForSamples(Line):
    def forward(self, x, params):
        y, log_slope = super().forward(x, params)
        return (y + 1 if x.dim() == params.dim() else y), log_slope

    def inverse(self, y, params):
        return super().inverse(y - 1 if y.dim() == params.dim() else y, params)


class OtherMapForBatches(Line):
    def forward(self, x, params):
        return super().forward(x, params + 0.1 * (len(params) == 2))

    def inverse(self, y, params):
        return super().inverse(y, params + 0.1 * (len(params) == 2))


class OtherMapForPlaces(Line):
    def forward(self, x, params):
        return super().forward(x, params + 0.1 * torch.arange(params.shape[-1]))

    def inverse(self, y, params):
        return super().inverse(y, params + 0.1 * torch.arange(params.shape[-1]))


class OtherMapWithoutAutograd(Line):
    def inverse(self, y, params):
        return super().inverse(y, params if torch.is_grad_enabled() else params + 0.1)


def test_right_elementwise_map_passes():
    check_elementwise(Line())


@pytest.mark.parametrize(
    ("elementwise", "message"),
    [
        (WrongSlope, "log-slope of forward against autograd"),
        (WrongBound, r"inverse_bound .* is exceeded"),
        (WrongInverse, r"c\(c⁻¹\(y\)\) against y"),
        (WrongInverseSlope, "log-slope of inverse"),
        (UnexpandedSlope, "expected the shape of x twice"),
        (Decreasing, "log-slope of forward against autograd: difference nan"),
        (Steep, r"forward at zero parameters: \|log-slope\| reaches 2"),
        (DetachedForward, "forward: gradients"),
        (DetachedInverse, "inverse: gradient of x by parameters"),
        (OtherMapForSamples, "values of samples .* sharing parameters"),
        (OtherMapForBatches, "forward: value of an element alone"),
        (OtherMapForPlaces, "forward: value of an element alone"),
        (OtherMapWithoutAutograd, "inverse: value of an element alone under torch.no_grad"),
    ],
)
def test_faulty_elementwise_map_fails(elementwise, message):
    with pytest.raises(AssertionError, match=message):
        check_elementwise(elementwise())
