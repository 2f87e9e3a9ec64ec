"""Training crops that a GPU assembles."""

import pytest
import torch

from robustflow.data import TrainingCrops, collate
from robustflow.data.sources.bundled import BundledSource


@pytest.mark.parametrize("scale", [4, 8])
def test_crops_are_those_of_the_cpu_bit_for_bit(device, scale):
    crops = TrainingCrops(BundledSource("train", scale), scale, 64, use_flip=True, use_rot=True, hr_shift=scale)
    batch = collate([crops.crop(number) for number in range(4)])
    both = zip(crops.assemble(batch, device), crops.assemble(batch, torch.device("cpu")), strict=True)
    for found, expected in both:
        assert found.device.type == device.type
        assert torch.equal(found.cpu(), expected)
