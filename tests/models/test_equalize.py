import cv2
import pytest
import torch

from robustflow.models.low_light import equalize


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 7, 9), (2, 3, 20, 30), (1, 16, 5)], ids=str)
def test_each_channel_is_equalised_as_by_opencv(shape):
    levels = (60 * rand(*shape)).to(torch.uint8)
    found = equalize(levels)
    assert found.dtype == torch.uint8
    for channel, other in zip(levels.flatten(0, -3), found.flatten(0, -3), strict=True):
        assert torch.equal(other, torch.from_numpy(cv2.equalizeHist(channel.numpy())))
    floating = equalize(levels / 255)
    assert torch.equal(floating, found / 255)


def test_dark_images_come_out_as_bright_as_others():
    image = rand(3, 64, 64)
    assert (equalize(0.2 * image) - equalize(image)).abs().max() < 0.03
    assert equalize(0.2 * image).max() == 1


def test_values_out_of_range_are_clamped_and_layout_does_not_matter():
    image = 3 * rand(2, 3, 8, 8, seed=1) - 1
    expected = equalize(image.clamp(0, 1))
    assert torch.equal(equalize(image), expected)
    assert torch.equal(equalize(image.contiguous(memory_format=torch.channels_last)), expected)
    assert torch.equal(equalize(image.mT.contiguous().mT), expected)
    assert equalize(image.double()).dtype == torch.float64
    assert equalize(torch.full((1, 2, 2), torch.nan)).isfinite().all()
    broken, dark = image.clone(), image.clone()
    broken[0, 0, 0, :3], dark[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf]), 0
    assert torch.equal(equalize(broken), equalize(dark))
