"""What images suffer before they are restored."""

import io
import re
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustflow.data.images import to_uint8
from robustflow.utils.errors import UserError

_KINDS = {
    "noise": "standard deviation of white Gaussian noise, of 255, 0.1 or more",
    "jpeg": "quality of JPEG compression, 1 to 100",
    "blur": "standard deviation of a Gaussian blur, pixels, 0.1 or more",
}
DESCRIBED = "; ".join(f"{kind}=X: {meaning}" for kind, meaning in _KINDS.items())


class Degradation(NamedTuple):
    """A kind, and how strong it is."""

    kind: str
    strength: float

    def __str__(self) -> str:
        return f"{self.kind}={self.strength:g}"


def parsed(text: str) -> Degradation:
    """Read "noise=20", "jpeg=10" or "blur=1.5". UserError if it is none of them."""
    match = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)", text)
    kind, strength = (match[1], float(match[2])) if match is not None else ("", 0.0)
    fits = 1 <= strength <= 100 and strength.is_integer() if kind == "jpeg" else 0.1 <= strength <= 1000
    if kind not in _KINDS or not fits:
        raise UserError(f"--degrade: expected {DESCRIBED}; got {text}")
    return Degradation(kind, strength)


def degraded(image: Tensor, degradation: Degradation, generator: torch.Generator) -> Tensor:
    """Degrade an image (3, H, W), uint8 or floating in [0, 1]: uint8. Noise comes from the generator and is clipped."""
    image = to_uint8(image).cpu()
    kind, strength = degradation
    if kind == "noise":
        return to_uint8((image + strength * torch.randn(image.shape, generator=generator)) / 255)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    if kind == "jpeg":
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, format="JPEG", quality=int(strength))
        pixels = np.asarray(Image.open(encoded).convert("RGB"))
    else:
        pixels = cv2.GaussianBlur(pixels, (0, 0), strength, borderType=cv2.BORDER_REFLECT)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()
