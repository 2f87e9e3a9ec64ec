import torch

from robustflow.data.bicubic import downsample
from robustflow.models.rrdb import RRDB


def test_loss_is_the_mean_absolute_error_and_falls(make_model):
    model = make_model("RRDB")
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(2, 3, 1, 1, generator=generator).expand(2, 3, 16, 16)
    lr = downsample(gt, 4)
    adam = torch.optim.Adam(model.network.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        loss = model.loss(gt, lr, generator)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    with torch.no_grad():
        expected = (model.network(lr) - gt).abs().mean()
        torch.testing.assert_close(model.loss(gt, lr, generator), expected)
    assert expected < losses[5] < losses[0]


def test_has_no_likelihood(make_model):
    model = make_model("RRDB")
    assert model.likelihood(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 2, 2), torch.Generator()) is None


@torch.no_grad()
def test_all_samples_are_the_one_image(make_model):
    model = make_model("RRDB")
    lr = torch.rand(1, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    samples = model.prepare(lr)(0.9, [torch.Generator()] * 3)
    assert samples.shape == (3, 3, 12, 20)
    assert torch.equal(samples, model.network(lr).expand(3, -1, -1, -1))


def test_encoder_is_the_part_without_the_head(make_model):
    model = make_model("RRDB")
    of_encoder = {id(parameter) for parameter in model.encoder.parameters()}
    head = {name for name, parameter in model.network.named_parameters() if id(parameter) not in of_encoder}
    assert {name.split(".")[0] for name in head} >= {"conv_hr", "conv_last"}
    assert not any(name.startswith("encoder.") for name in head)


@torch.no_grad()
def test_l2_is_the_mean_squared_error(make_model):
    model = make_model("RRDB")
    gt, lr = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 4, 4)
    l2 = RRDB(4, pixel_criterion="l2", nf=8, nb=1, gc=4)
    assert (l2.loss_name, model.loss_name) == ("l2", "l1")
    torch.testing.assert_close(l2.loss(gt, lr, torch.Generator()), ((l2.network(lr) - gt) ** 2).mean())
