import torch

from robustflow.data.bicubic import downsample
from robustflow.models.rrdb import EncoderPretraining


def test_loss_is_the_mean_absolute_error_and_falls(make_model):
    task, network = make_model("RRDB")
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(2, 3, 1, 1, generator=generator).expand(2, 3, 16, 16)
    lr = downsample(gt, 4)
    adam = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        loss = task.loss(network, gt, lr, generator)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    with torch.no_grad():
        expected = (network(lr) - gt).abs().mean()
        torch.testing.assert_close(task.loss(network, gt, lr, generator), expected)
    assert expected < losses[5] < losses[0]


def test_has_no_likelihood(make_model):
    task, network = make_model("RRDB")
    assert task.likelihood(network, torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 2, 2), torch.Generator()) is None


@torch.no_grad()
def test_all_samples_are_the_one_image(make_model):
    task, network = make_model("RRDB")
    lr = torch.rand(1, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    samples = task.drawing(network, lr)(0.9, [torch.Generator()] * 3)
    assert samples.shape == (3, 3, 12, 20)
    assert torch.equal(samples, network(lr).expand(3, -1, -1, -1))


def test_encoder_is_the_part_without_the_head(make_model):
    task, network = make_model("RRDB")
    of_encoder = {id(parameter) for parameter in task.encoder(network).parameters()}
    head = {name for name, parameter in network.named_parameters() if id(parameter) not in of_encoder}
    assert {name.split(".")[0] for name in head} >= {"conv_hr", "conv_last"}
    assert not any(name.startswith("encoder.") for name in head)


@torch.no_grad()
def test_l2_is_the_mean_squared_error(make_model):
    _, network = make_model("RRDB")
    gt, lr = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 4, 4)
    task = EncoderPretraining(4, "l2")
    assert (task.loss_name, EncoderPretraining(4).loss_name) == ("l2", "l1")
    torch.testing.assert_close(task.loss(network, gt, lr, torch.Generator()), ((network(lr) - gt) ** 2).mean())
