import numpy as np
import pytest
import torch

from robustflow.data.degrade import degrade_lr, enhance
from robustflow.utils.seeds import derive_seed

KERNEL = np.array([[-1, -4, -1], [-4, 26, -4], [-1, -4, -1]])


@pytest.mark.parametrize(("kind", "divisor"), [("published", 3), ("unit", 6)])
def test_enhance_filters_each_channel(kind: str, divisor: int):
    x = np.random.default_rng(0).random((2, 5, 6)) * 0.4 + 0.1
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    expected = np.zeros_like(x)
    for row in range(3):
        for column in range(3):
            expected += KERNEL[row, column] / divisor * padded[:, row : row + 5, column : column + 6]
    result = enhance(torch.from_numpy(x), kind).numpy()
    np.testing.assert_allclose(result, expected.clip(0, 1), atol=1e-12)
    assert expected.max() > 1 or kind == "unit"


def test_enhance_sums():
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert enhance(grey, "published").eq(200).all()
    assert enhance(grey, "unit").eq(100).all()
    assert enhance(grey + 100, "published").eq(255).all()
    with pytest.raises(ValueError, match="'published' or 'unit'"):
        enhance(grey, "double")


def test_enhance_rounds_uint8():
    image = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = enhance(image.double() / 255, "unit") * 255
    assert (enhance(image, "unit") - exact).abs().max() <= 0.5 + 1e-9


def altered(lr: torch.Tensor, noise: float = 0.0, gain: float = 1.0, invert: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return degrade_lr(lr, noise=noise, gain=gain, invert=invert, generator=generator)


def test_lr_order_and_clipping():
    lr = torch.tensor([0.25, 0.75]).expand(3, 2, 2)
    assert altered(lr) is lr
    assert altered(lr, gain=4.0)[0, 0].tolist() == [1, 3]
    assert altered(lr, gain=4.0, invert=True)[0, 0].tolist() == [0, -2]
    noise = 0.1 * torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(altered(lr, noise=0.1, invert=True), (1 - lr + noise).clamp(0, 1))
    assert altered(lr, noise=0.1, gain=4.0).max() <= 1


def test_lr_noise_has_the_std_asked_for():
    noisy = altered(torch.full((3, 100, 100), 0.5), noise=0.05)
    assert noisy.std().item() == pytest.approx(0.05, rel=0.03)


def test_seeds_are_stable_and_distinct():
    # A constant: another value would change every crop and every noise of earlier runs.
    assert derive_seed("training crop", 0, 12) == 4912660978296404795
    parts = [("ab", "c"), ("a", "bc"), (1, 2), (12,), ("12",), ("1", 2), (2, 1), ("é",), ("\udcff",)]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
    assert all(0 <= derive_seed("range", n) < 2**63 for n in range(100))
