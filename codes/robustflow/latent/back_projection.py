"""Making an image agree with its LR image by iterative back-projection (Irani and Peleg, 1991)."""

from torch import Tensor

from robustflow.data.bicubic import downsample, upsample


def back_projected(image: Tensor, lr: Tensor, scale: int, iterations: int) -> Tensor:
    """Repeat x ← x + U(y − D(x)), clamped, with the exact bicubic D and U of the degradation.

    Args:
        image: x, (..., 3, H, W), floating; clamped to [0, 1] at first, as it is when written.
        lr: y, (..., 3, ceil(H / scale), ceil(W / scale)), floating.
        scale: Of D and U.
        iterations: How often; each shrinks the difference at the LR image's resolution.

    Returns:
        As ``image``, in [0, 1].
    """
    height, width = image.shape[-2:]
    image = image.clamp(0, 1) if iterations > 0 else image
    for _ in range(iterations):
        image = (image + upsample(lr - downsample(image, scale), scale)[..., :height, :width]).clamp(0, 1)
    return image
