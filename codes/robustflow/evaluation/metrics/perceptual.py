"""LPIPS, version 0.1 on AlexNet (Zhang et al., CVPR 2018), by the lpips package. Nothing is ever downloaded."""

import hashlib
import importlib.metadata
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustflow.evaluation.metrics.base import Places, SetMetric, Target, stack
from robustflow.registry import METRICS

# torchvision's weights of AlexNet; its file names end in the first digits of the file's SHA-256.
BACKBONE = "alexnet-owt-7be5be79.pth"
_DIGITS = "7be5be79"
FOLDER = Path("pretrained_weights")
# Side of the smallest image of which AlexNet's second pooling leaves anything.
SMALLEST = 31
# Pixels computed at once, about 1 GB.
_PIXELS = 2**22


class Perceptual:
    """Distances of images to references; smaller is closer.

    Args:
        backbone: State dict of torchvision's AlexNet; its classifier is not used.
        origin: Where the backbone comes from, for ``version``.
        device: Where to compute.

    Attributes:
        version: Package, network, version of the weights and origin of the backbone, for protocols.
    """

    def __init__(self, backbone: Mapping[str, Tensor], origin: str, device: torch.device | str) -> None:
        self._network: Any = _network(backbone).to(device)
        self._device = device
        self.version = f"lpips {importlib.metadata.version('lpips')}, alex, v0.1, backbone {origin}"

    def distance(self, image: Tensor, reference: Tensor) -> float | None:
        """LPIPS of two uint8 images (3, H, W); None if a side is shorter than 31 pixels, which AlexNet cannot take."""
        distances = self.distances(image[None], reference)
        return None if distances is None else distances.item()

    def distances(self, images: Tensor, reference: Tensor) -> Tensor | None:
        """LPIPS of n uint8 images (n, 3, H, W) to one reference (3, H, W): float32 (n,), or None as `distance`."""
        distances = self._measure(images, reference, spatial=False)
        return None if distances is None else distances.flatten()

    def maps(self, images: Tensor, reference: Tensor) -> Tensor | None:
        """LPIPS at each pixel of n uint8 images (n, 3, H, W): float32 (n, H, W), or None as `distance`.

        The package's ``spatial`` maps: distances in each layer, bilinearly upsampled, and added. Their mean is close
        to the distance, not equal.
        """
        return self._measure(images, reference, spatial=True)

    @torch.no_grad()
    def _measure(self, images: Tensor, reference: Tensor, *, spatial: bool) -> Tensor | None:
        """Distances (n, H, W), or (n, 1, 1) unless spatial, on the CPU; None for images that are too small."""
        if images.dtype != torch.uint8 or reference.dtype != torch.uint8 or images.shape[1:] != reference.shape:
            raise ValueError(
                f"expected uint8 images (n, 3, H, W) and a reference (3, H, W), got {images.dtype} "
                f"{tuple(images.shape)} and {reference.dtype} {tuple(reference.shape)}"
            )
        height, width = reference.shape[-2:]
        if min(height, width) < SMALLEST:
            return None
        self._network.spatial = spatial
        target, chunks = self._input(reference[None]), images.split(max(1, _PIXELS // (height * width)))
        # GPUs would otherwise convolve in TF32, with three digits.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return torch.cat([self._network(self._input(chunk), target)[:, 0].cpu() for chunk in chunks])

    def _input(self, images: Tensor) -> Tensor:
        """Levels 0..255 to [-1, 1], as the package expects."""
        return images.to(self._device).float() / 127.5 - 1


def load(device: torch.device | str, folders: Sequence[Path] | None = None) -> Perceptual | str:
    """LPIPS, or why it cannot be computed and what to do: the backbone's weights are missing, or other ones.

    Args:
        device: Where to compute.
        folders: Where to look for the file `BACKBONE`; default: `pretrained_weights` and torch's hub cache.
    """
    wrong = []
    for folder in (FOLDER, Path(torch.hub.get_dir()) / "checkpoints") if folders is None else folders:
        file = folder / BACKBONE
        if not os.path.isfile(file):
            continue
        try:
            data = file.read_bytes()
        except OSError as error:
            wrong.append(f"{file}: cannot be read ({error.strerror}); ")
            continue
        digest = hashlib.sha256(data).hexdigest()
        if digest.startswith(_DIGITS):
            backbone = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return Perceptual(backbone, f"sha256 {digest}", device)
        wrong.append(f"{file}: expected a file whose SHA-256 begins with {_DIGITS}, got {digest[:8]}; ")
    return (
        f"{''.join(wrong)}run 'robustflow fetch alexnet', or put torchvision's AlexNet weights {BACKBONE} into the "
        f"folder {FOLDER}, or into checkpoints of torch's hub cache, and test again"
    )


def _network(backbone: Mapping[str, Tensor]) -> nn.Module:
    """The package's network, its linear weights from the package and its AlexNet from ``backbone``."""
    # Here, because it brings torchvision's models: seconds that runs without the weights need not wait.
    import lpips

    # A random AlexNet first (pnet_rand): otherwise the package would download one.
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning, module="torchvision")
        network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    # slice2.3.weight there is features.3.weight in torchvision.
    names = list(network.net.state_dict())
    network.net.load_state_dict({name: backbone[f"features.{name.split('.', 1)[1]}"] for name in names})
    return network.eval().requires_grad_(False)


@METRICS.register("lpips")
class LPIPS(SetMetric):
    """Learned perceptual distance of each sample to the ground truth."""

    label, better, limits, needs, each = "LPIPS", "low", (0, None), ("ground truth", "backbone"), True
    protocol = "AlexNet, v0.1, by the lpips package"
    places: Places = ("fidelity", "curves", "best", "differences", "captions", "worst")
    brightened = False

    def of_samples(self, samples: Tensor, target: Target) -> list[float] | None:
        """A distance of each, or None for images that are too small."""
        assert target.perceptual is not None and target.gt is not None
        distances = target.perceptual.distances(stack(samples, target, brighten=self.brightened), target.gt)
        return None if distances is None else distances.tolist()


@METRICS.register("lpips_gtmean")
class BrightenedLPIPS(LPIPS):
    """LPIPS at the ground truth's brightness."""

    label, usual, brightened, places = "LPIPS GT-mean", False, True, ("fidelity",)
    protocol = "as lpips, at the ground truth's brightness, see psnr_gtmean"
