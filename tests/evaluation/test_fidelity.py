import dataclasses
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from robustflow.data.bicubic import downsample, upsample
from robustflow.data.images import to_uint8
from robustflow.evaluation.metrics import Sample, SampleMetric, Target, choose
from robustflow.evaluation.metrics.fidelity import lr_psnr, ssim
from robustflow.evaluation.metrics.images import grey, luma, psnr, scale_to_mean_of

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "l_lrpsnr_metrics.pt"


METRICS = {metric.name: metric for metric in choose()}


def measure(name, image, other, crop=0):
    """A metric of an image in 0..255 that is a sample."""
    target = Target(lr=other, upsampled=other / 255, gt=other, crop=crop)
    return METRICS[name].of_sample(Sample(image / 255, target), target)


def psnr_y(image, other, crop=0):
    return measure("psnr_y", image, other, crop)


def ssim_y(image, other, crop=0):
    return measure("ssim_y", image, other, crop)


def noisy_pair(height=24, width=20):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, height, width), generator=generator)
    noise = torch.randint(-30, 31, (3, height, width), generator=generator)
    return image.to(torch.uint8), (image + noise).clamp(0, 255).to(torch.uint8)


def test_psnr_agrees_with_scikit_image():
    image, other = noisy_pair()
    expected = peak_signal_noise_ratio(image.numpy(), other.numpy(), data_range=255)
    assert psnr(image, other) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["lr", "gt", "upsampled"])
def test_images_of_another_type_are_refused(name):
    """Their values would be taken for those of another range: a PSNR of 5 dB in place of 26."""
    image, other = noisy_pair()
    images = {"lr": image, "upsampled": image / 255, "gt": other}
    wrong = other if name == "upsampled" else other / 255
    with pytest.raises(ValueError, match=rf"expected {name} .*, got {wrong.dtype}: "):
        Target(**{**images, name: wrong})
    assert Target(**images).gt is other


def test_psnr_of_equal_images_is_infinite():
    image, _ = noisy_pair()
    assert psnr(image, image) == math.inf


def test_ssim_is_the_mean_over_channels():
    image, other = noisy_pair()
    settings = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    channels = zip(image.numpy(), other.numpy(), strict=True)
    expected = np.mean([structural_similarity(a, b, **settings) for a, b in channels])
    assert ssim(image, other) == pytest.approx(expected, abs=1e-12)
    assert ssim(image, image) == pytest.approx(1)


@pytest.mark.parametrize(("size", "known"), [((11, 11), True), ((10, 11), False), ((11, 10), False), ((1, 1), False)])
def test_ssim_needs_11_pixels(size, known):
    assert (ssim(*noisy_pair(*size)) is not None) == known


def reference_luma(image):
    return rgb2ycbcr(image.permute(1, 2, 0).numpy())[..., 0]


def test_luma_agrees_with_scikit_image():
    image, _ = noisy_pair()
    assert luma(image).dtype == torch.float64
    np.testing.assert_allclose(luma(image)[0].numpy(), reference_luma(image), atol=1e-6)
    ends = luma(torch.tensor([0, 255], dtype=torch.uint8).expand(3, 1, 2))
    assert ends.flatten().tolist() == pytest.approx([16, 235])


@pytest.mark.parametrize("crop", [0, 1, 4])
def test_cropped_and_luma_metrics_agree_with_scikit_image(crop):
    image, other = noisy_pair()
    inner = (slice(crop, 24 - crop), slice(crop, 20 - crop))
    settings = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    rgb = [x.permute(1, 2, 0).numpy()[inner] for x in (image, other)]
    y = [reference_luma(x)[inner] for x in (image, other)]
    assert psnr(image, other, crop) == pytest.approx(peak_signal_noise_ratio(*rgb, data_range=255), abs=1e-6)
    assert ssim(image, other, crop) == pytest.approx(structural_similarity(*rgb, channel_axis=2, **settings), abs=1e-6)
    assert psnr_y(image, other, crop) == pytest.approx(peak_signal_noise_ratio(*y, data_range=255), abs=1e-6)
    assert ssim_y(image, other, crop) == pytest.approx(structural_similarity(*y, **settings), abs=1e-6)


def test_a_crop_that_leaves_nothing():
    image, other = noisy_pair()
    assert psnr(image, other, 9) is not None
    assert ssim(image, other, 5) is None
    for crop in (10, 12, 100):
        assert psnr(image, other, crop) is psnr_y(image, other, crop) is ssim_y(image, other, crop) is None
    with pytest.raises(ValueError, match="0 pixels or more"):
        psnr(image, other, -1)


def test_sizes_must_agree():
    image, other = noisy_pair()
    for metric in (psnr, ssim, psnr_y, ssim_y):
        with pytest.raises(ValueError, match="one size"):
            metric(image, other[:, :1])


def test_lr_psnr_compares_what_a_png_would_hold():
    image, other = noisy_pair()
    sample = other / 255 + 0.4 / 255
    rounded = to_uint8(sample)
    assert lr_psnr(rounded, downsample(image, 4), 4) == psnr(downsample(rounded, 4), downsample(image, 4))
    assert lr_psnr(image, downsample(image, 4), 4) == math.inf


# Figures of the published evaluation script. Its images are uint8, so that its truncation of floats plays no part.


@pytest.fixture(params=[0, 1, 2])
def published(request):
    if not GOLDEN.is_file():
        pytest.skip("published figures are not there")
    case = torch.load(GOLDEN, weights_only=True)["sets"][request.param]
    gt = case["gt"].permute(2, 0, 1)
    height, width = (side - side % 8 for side in gt.shape[-2:])
    samples = case["srs"].permute(0, 3, 1, 2)[..., :height, :width]
    return case, gt[:, :height, :width], samples


def test_published_lr_psnr(published):
    case, gt, samples = published
    reference = downsample(gt, case["scale"])
    assert torch.equal(reference, case["gt_lr"].permute(2, 0, 1))
    values = [lr_psnr(sample, reference, case["scale"]) for sample in samples]
    assert values == pytest.approx(case["lrpsnr"], rel=1e-12)
    rows = [{"image": "image", "lr_psnr": v, "lr_psnr_gt": v, "lr_psnr_lr": v} for v in values]
    summary = METRICS["lr_psnr"].summarize(pd.DataFrame(rows))
    for key in ("lr_psnr_min", "lr_psnr_mean", "lr_psnr_std"):
        assert summary[key] == pytest.approx(case[key.replace("lr_psnr", "lrpsnr")], rel=1e-12)


def test_published_psnr(published):
    case, gt, samples = published
    assert [psnr(sample, gt) for sample in samples] == pytest.approx(case["hr_psnr"], rel=1e-12)


def test_published_rounding():
    if not GOLDEN.is_file():
        pytest.skip("published figures are not there")
    case = torch.load(GOLDEN, weights_only=True)["test_rgb"]
    assert torch.equal(to_uint8(case["t"], truncate=True).permute(1, 2, 0), case["rgb_truncating"])
    assert torch.equal(to_uint8(case["t"]).permute(1, 2, 0).flip(-1), case["tensor2img_bgr_rounding"])


def test_brightness_of_the_reference():
    generator = torch.Generator().manual_seed(0)
    reference = torch.rand(3, 20, 20, generator=generator)
    dark = 0.3 * reference
    torch.testing.assert_close(scale_to_mean_of(dark, reference), reference)
    # Against OpenCV's grey values, not the plain mean over channels.
    red = torch.zeros(3, 4, 4)
    red[0] = 0.2
    found = scale_to_mean_of(red, torch.full((3, 4, 4), 0.1))
    assert float(found[0, 0, 0]) == pytest.approx(0.1 / 0.299, rel=1e-5)
    assert torch.equal(scale_to_mean_of(torch.zeros(3, 4, 4), reference[:, :4, :4]), torch.zeros(3, 4, 4))


def test_grey_ssim_equals_that_of_grey_images():
    generator = torch.Generator().manual_seed(0)
    image, other = (torch.randint(0, 256, (3, 16, 18), generator=generator).to(torch.uint8) for _ in range(2))
    first, second = (grey(one)[0].numpy() for one in (image, other))
    expected = structural_similarity(
        first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert measure("ssim_grey", image, other) == pytest.approx(expected, abs=1e-6)


def test_spectral_distance_is_the_ratio_of_powers_above_the_limit_of_the_input():
    image, _ = noisy_pair(48, 64)
    assert measure("spectral_distance", image.float(), image) == 0
    halved = measure("spectral_distance", (image / 2).round(), image)
    assert halved == pytest.approx(20 * math.log10(2), abs=0.05)
    # Where details lie does not count, nor does what a smaller image can hold.
    assert measure("spectral_distance", image.flip(-1).float(), image) == pytest.approx(0, abs=1e-9)
    rows = torch.arange(48)[:, None].expand(3, 48, 64)
    slow = (8 * torch.sin(2 * math.pi * rows / 24)).round()
    base = (image * 0.8 + 20).round()
    assert measure("spectral_distance", base + slow, base.byte()) < 0.3


def test_spectral_distance_finds_bicubic_images_too_smooth():
    image, _ = noisy_pair(64, 64)
    smooth = upsample(downsample(image.to(torch.uint8), 4).float() / 255, 4) * 255
    assert measure("spectral_distance", smooth.clamp(0, 255), image) > 15
    assert measure("spectral_distance", image[..., :15].float(), image[..., :15]) is None


@pytest.mark.parametrize("size", [(24, 40), (25, 40), (40, 25)])
def test_spectral_distance_follows_its_definition(size):
    """As its protocol says, over the whole plane, of sides even and odd."""
    image, _ = noisy_pair(*size)
    height, width = size
    other = upsample(downsample(image, 2), 2)[..., :height, :width].round().clamp(0, 255)
    window = np.hanning(height)[:, None] * np.hanning(width)
    powers = []
    for one in (image, other):
        grey_values = one.double().permute(1, 2, 0).numpy() @ (0.299, 0.587, 0.114)
        spectrum = np.fft.fft2((grey_values - grey_values.mean()) * window)
        powers.append(np.abs(spectrum) ** 2 / (window**2).sum())
    rings = {}
    for row, column in np.ndindex(size):
        squared = Fraction(min(row, height - row), height) ** 2 + Fraction(min(column, width - column), width) ** 2
        if Fraction(1, 8) ** 2 < squared <= Fraction(1, 4):
            rings.setdefault(math.isqrt(math.floor(squared * min(size) ** 2)), []).append((row, column))
    theirs, ours = ([1 + np.mean([power[place] for place in ring]) for ring in rings.values()] for power in powers)
    expected = np.sqrt(np.mean((10 * np.log10(np.divide(ours, theirs))) ** 2))
    assert measure("spectral_distance", other.float(), image) == pytest.approx(expected, rel=1e-9)


def test_samples_are_measured_against_one_target_as_each_against_its_own():
    generator = torch.Generator().manual_seed(0)
    gt, *images = (torch.randint(0, 256, (3, 32, 28), generator=generator, dtype=torch.uint8) for _ in range(4))
    lr = downsample(gt, 4)
    metrics = [one for one in choose() if isinstance(one, SampleMetric) and "backbone" not in one.needs]

    def measure(image, target):
        sample = Sample(image.float() / 255, target)
        return {name: value for metric in metrics for name, value in metric.measure(sample, target).items()}

    shared = Target(lr, torch.rand(3, 32, 28), gt, crop=2)
    for image in images:
        assert measure(image, shared) == measure(image, dataclasses.replace(shared))
    values = [measure(image, shared) for image in images]
    assert all(len({one[key] for one in values}) == 3 for key in ("psnr_y", "ssim_y", "spectral_distance", "ssim_grey"))


def test_psnr_of_levels_is_that_of_numbers():
    image = torch.zeros(3, 600, 500, dtype=torch.uint8)
    other = torch.full_like(image, 255)
    assert psnr(image, other) == 0
    image, other = noisy_pair(333, 217)
    assert psnr(image, other) == psnr(image.double(), other.double())
