"""Making an image agree with its LR image by iterative back-projection (Irani and Peleg, 1991)."""

from torch import Tensor

from robustflow.data.bicubic import downsample, upsample


def back_projected(image: Tensor, lr: Tensor, scale: int, iterations: int) -> Tensor:
    """Repeat x ← x + U(y − D(x)), with the exact bicubic D and U of the degradation.

    Args:
        image: x, (..., 3, H, W), floating.
        lr: y, (..., 3, H / scale, W / scale), floating.
        scale: Of D and U.
        iterations: How often; each shrinks the difference at the LR image's resolution.

    Returns:
        As ``image``, not clamped.
    """
    for _ in range(iterations):
        image = image + upsample(lr - downsample(image, scale), scale)
    return image
