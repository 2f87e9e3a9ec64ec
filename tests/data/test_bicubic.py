from pathlib import Path

import numpy as np
import pytest
import torch
from matlab_resize import cubic, reference
from PIL import Image

from robustflow.data.bicubic import downsample, mirror_pad, upsample
from robustflow.data.images import read_image

SHARED = Path(__file__).resolve().parents[3] / "shared"
FIXTURE = SHARED / "golden" / "k_imresize.pt"
SET5 = SHARED / "data" / "set5_x4"


KERNELS = {
    "bicubic": (cubic, Image.Resampling.BICUBIC),
    "bilinear": (lambda x: np.maximum(1 - abs(x), 0), Image.Resampling.BILINEAR),
    "area": (lambda x: 1.0 * ((x >= -0.5) & (x < 0.5)), Image.Resampling.BOX),
    "lanczos": (lambda x: np.sinc(x) * np.sinc(x / 3) * (abs(x) < 3), Image.Resampling.LANCZOS),
}


@pytest.mark.parametrize("scale", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 17, 13), (2, 5, 1), (1, 1, 9), (1, 1, 1)])
def test_matches_explicit_kernel(shape: tuple[int, ...], scale: int):
    x = np.random.default_rng(0).random(shape)
    y = (x * 255).round().astype(np.uint8)
    for resize, factor in ((downsample, 1 / scale), (upsample, float(scale))):
        result = resize(torch.from_numpy(x), scale).numpy()
        np.testing.assert_allclose(result, reference(x, factor), atol=1e-12)
        np.testing.assert_array_equal(resize(torch.from_numpy(y), scale).numpy(), reference(y, factor))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 17, 13), (2, 5, 1), (1, 1, 1)])
def test_every_kernel_matches_its_formula(kernel: str, scale: int, shape: tuple[int, ...]):
    x = np.random.default_rng(0).random(shape)
    y = (x * 255).round().astype(np.uint8)
    formula, _ = KERNELS[kernel]
    result = downsample(torch.from_numpy(x), scale, kernel).numpy()
    np.testing.assert_allclose(result, reference(x, 1 / scale, formula, 3), atol=1e-12)
    found = downsample(torch.from_numpy(y), scale, kernel).numpy()
    np.testing.assert_array_equal(found, reference(y, 1 / scale, formula, 3))
    torch.testing.assert_close(
        downsample(torch.from_numpy(x).float(), scale, kernel), torch.from_numpy(result).float(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_inner_pixels_are_those_of_pillow(kernel: str, scale: int):
    # Pillow drops what reaches over the border, where MATLAB mirrors.
    x = torch.rand(1, 15 * scale, 12 * scale, generator=torch.Generator().manual_seed(0))
    expected = Image.fromarray(x[0].numpy()).resize((12, 15), KERNELS[kernel][1])
    found = downsample(x.double(), scale, kernel)[0, 3:-3, 3:-3]
    np.testing.assert_allclose(found, np.asarray(expected)[3:-3, 3:-3], atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_large_images_are_made_in_bands(kernel: str, monkeypatch: pytest.MonkeyPatch):
    x = torch.randint(256, (3, 50, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = downsample(x, 4, kernel)
    monkeypatch.setattr("robustflow.utils.memory._BAND", 1000)
    assert downsample(x, 4, kernel).equal(whole)


@pytest.mark.skipif(not FIXTURE.exists(), reason="larger fixtures are not part of the project")
def test_matches_fixture():
    factors = {1 / s: (downsample, s) for s in (2, 4, 8)} | {float(s): (upsample, s) for s in (2, 3, 4, 8)}
    compared = 0
    for case in torch.load(FIXTURE, weights_only=True):
        if set(case["kwargs"]) != {"scalar_scale"} or case["kwargs"]["scalar_scale"] not in factors:
            continue
        resize, scale = factors[case["kwargs"]["scalar_scale"]]
        x, expected = (case[k].reshape(*case[k].shape[:2], -1).permute(2, 0, 1) for k in ("img", "out"))
        tolerance = 0 if x.dtype == torch.uint8 else 1e-6
        torch.testing.assert_close(resize(x, scale).double(), expected.double(), rtol=0, atol=tolerance)
        compared += 1
    assert compared > 50


@pytest.mark.skipif(not SET5.exists(), reason="photographs are not part of the project")
def test_matches_matlab_files():
    for file in sorted((SET5 / "HR").iterdir()):
        lr = read_image(SET5 / "LR" / file.name).int()
        made = downsample(read_image(file), 4).int()
        inner = (made - lr)[:, 3:-3, 3:-3].abs()
        assert inner.max() <= 1
        assert (inner == 0).float().mean() >= 0.998


def test_float32_batches_and_dtypes():
    x = torch.rand(2, 3, 4, 10, 14, generator=torch.Generator().manual_seed(0))
    batched = downsample(x, 2)
    assert batched.shape == (2, 3, 4, 5, 7)
    assert batched.is_contiguous()
    torch.testing.assert_close(batched[1, 2], downsample(x[1, 2].double(), 2).float(), rtol=0, atol=1e-6)
    assert upsample(x.bfloat16(), 2).dtype == torch.bfloat16


def test_overshoot_is_clipped_in_uint8_only():
    step = torch.zeros(1, 8, 8)
    step[..., 4:] = 1
    assert upsample(step, 4).min() < -0.01
    assert upsample(step, 4).max() > 1.01
    stepped = upsample((step * 255).to(torch.uint8), 4)
    assert stepped[..., :12].max() <= 128  # a wrapped negative value would be near 255


def test_gradients():
    x = torch.rand(1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: downsample(x, 2), x)
    assert torch.autograd.gradcheck(lambda x: upsample(x, 2), x)


def test_mirror_pad_equals_numpy():
    x = torch.arange(6).reshape(1, 2, 3)
    expected = np.pad(x.numpy(), ((0, 0), (7, 5), (4, 11)), mode="symmetric")
    np.testing.assert_array_equal(mirror_pad(x, left=4, right=11, top=7, bottom=5).numpy(), expected)
    assert mirror_pad(x[:, :1, :1] + 3, 2, 2, 2, 2).eq(3).all()


@pytest.mark.parametrize(
    ("x", "scale"),
    [(torch.zeros(4, 4), 2), (torch.zeros(1, 4, 0), 2), (torch.zeros(1, 4, 4).int(), 2), (torch.zeros(1, 4, 4), 0)],
)
def test_refuses(x: torch.Tensor, scale: int):
    with pytest.raises(ValueError, match="expected"):
        downsample(x, scale)
