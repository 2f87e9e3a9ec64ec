import pytest
import torch

from robustflow import data
from robustflow.data.degradations import Gain, Noise, apply
from robustflow.data.images import write_png
from robustflow.data.sources.folders import FolderOptions
from robustflow.data.whole_images import WholeImages
from robustflow.utils.errors import UserError
from robustflow.utils.seeds import derive_seed

SIZE = (20, 28)


def condition_of(image):
    """The image, and what depends on all of it: its largest value everywhere."""
    largest = image.amax((-2, -1), keepdim=True).expand_as(image)
    return torch.cat([image, largest])


@pytest.fixture
def folders(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for kind in ("high", "low"):
        for name in ("a", "b"):
            write_png(tmp_path / kind / f"{name}.png", torch.rand(3, *SIZE, generator=generator))
    return {"mode": "folder", "dataroot_GT": str(tmp_path / "high"), "dataroot_LQ": str(tmp_path / "low")}


def options(folders, **changed):
    return FolderOptions.model_validate({**folders, **changed})


def lows(folders):
    source = data.open_folders(folders["dataroot_GT"], folders["dataroot_LQ"], 1)
    return {name: source.pair(index)[1] for index, name in enumerate(source.names)}


def test_crops_hold_what_was_made_of_the_whole_image(folders):
    items = data.build_evaluation(options(folders, GT_size=8, n_crops=6), 1, condition_of)
    for item in items:
        whole = lows(folders)[item.name.split("_")[0]] / 255
        assert item.lr.shape == (3, 8, 8)
        assert item.condition.shape == (6, 8, 8)
        assert torch.equal(item.condition[:3], item.lr)
        assert torch.equal(item.condition[3:].amax((-2, -1)), whole.amax((-2, -1)))
        assert not item.lr_altered


def test_training_crops_are_flipped_as_one(folders):
    crops = data.build_training(options(folders, GT_size=8, use_flip=True, use_rot=True), 1, 0, condition_of)
    plain = data.build_training(options(folders, GT_size=8, use_flip=True, use_rot=True), 1, 0)
    for number in range(8):
        sample, expected = crops[number], plain[number]
        assert torch.equal(sample["gt"], expected["gt"])
        assert torch.equal(sample["lr"][:3], expected["lr"])
        assert sample["lr"].shape == (6, 8, 8)


def test_images_are_altered_before_their_condition_is_made(folders):
    item = data.build_evaluation(options(folders, lr_gain=0.5, lr_noise=0.1), 1, condition_of)[0]
    generator = torch.Generator().manual_seed(derive_seed("lr noise", 0, "a"))
    expected = apply([Gain(0.5), Noise(0.1)], lows(folders)["a"] / 255, generator)
    assert torch.equal(item.condition, condition_of(expected))
    assert item.lr_altered


def test_noise_in_training_differs_from_epoch_to_epoch(folders, tmp_path):
    for file in tmp_path.glob("*/*.png"):
        write_png(file, torch.full((3, 8, 8), 0.5))
    crops = data.build_training(options(folders, GT_size=8, lr_noise=0.1), 1, 0, condition_of)
    noises = [crops[number]["lr"][:3] - 0.5 for number in range(6)]
    assert all(0.05 < noise.std() < 0.15 for noise in noises)
    # Each crop is a whole image: three epochs of two images, six noises.
    assert len({noise.sum().item() for noise in noises}) == 6
    assert all(torch.equal(crops[number]["lr"][:3] - 0.5, noise) for number, noise in enumerate(noises))


def test_noise_of_an_epoch_is_that_of_the_whole_image(folders):
    noisy = data.build_training(options(folders, GT_size=8, lr_noise=0.1, lr_gain=0.5), 1, 3, condition_of).source
    pairs = [[noisy.pair(index, epoch)[1] for index in range(2)] for epoch in (0, 1, 0)]
    for index in range(2):
        first, second, again = (of_epoch[index] for of_epoch in pairs)
        assert torch.equal(first, again) and not torch.equal(first, second)
        assert torch.equal(first, condition_of(first[:3]))


def test_images_without_ground_truth(folders):
    (item, _) = data.evaluation_of_folder(folders["dataroot_LQ"], 1, condition_of)
    assert item.gt is None
    assert item.condition.shape == (6, *SIZE)


def test_without_conditions_items_are_as_ever(folders):
    item = data.build_evaluation(options(folders), 1)[0]
    assert item.whole is None
    assert item.condition is item.lr


def test_an_input_that_would_have_to_be_made_is_refused(folders):
    source = data.open_folders(folders["dataroot_GT"], None, 1)
    with pytest.raises(UserError, match="image 'a': expected an input image beside"):
        WholeImages(source, [], condition_of).pair(0)
