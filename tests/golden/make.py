"""Compute what the networks of golden_cases.py give, in float64, with nothing of the package: *.npz beside this file.

    PYTHONPATH=. python tests/golden/make.py

The flow is that of benchmarks/plain*.py; the rest is below. Same machine, same bytes.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.plain import PlainFlow
from benchmarks.plain_maps import Affine, ExpAffine, InverseAffine, SoftAffine, Spline
from golden_cases import CASES, Case, inputs, latents, weights

HERE = Path(__file__).parent


def flow_of(case: Case) -> PlainFlow:
    couplings = {
        "affine": lambda: Affine(case.eps),
        "rq_spline": lambda: Spline(eps=case.eps),
        "exp_affine": ExpAffine,
        "inverse_affine": lambda: InverseAffine(case.eps),
        "soft_affine": lambda: SoftAffine(case.B, case.eps),
    }
    return PlainFlow(weights(case), couplings[case.coupling](), case.scale, case.taps, case.S, case.max_log_scale)


def condition_of(case: Case, lr: torch.Tensor) -> torch.Tensor:
    """What the encoder reads: the image; for low light its logarithm, and its channels equalised."""
    if not case.is_low_light:
        return lr
    equal = np.stack([[equalized(channel) for channel in image] for image in lr.numpy()])
    return torch.cat([torch.log(lr + 1e-3), torch.from_numpy(equal)], dim=1)


def equalized(channel: np.ndarray) -> np.ndarray:
    """A level goes to 255 times the share of pixels at or below it, those of the lowest level counting as none."""
    levels = np.rint(channel * 255).astype(int)
    counts = np.bincount(levels.ravel(), minlength=256)
    lowest = counts.nonzero()[0][0]
    # In float32, which decides between the two levels beside a half.
    share = (counts.cumsum() - counts[lowest]).astype(np.float32) * np.float32(255 / (channel.size - counts[lowest]))
    return np.rint(share).astype(np.float64)[levels] / 255


def base_of(case: Case, lr: torch.Tensor) -> torch.Tensor | int:
    """What is added to the flow's data to give the image: frequency separation."""
    if case.model != "FS-NCSR":
        return 0
    return F.interpolate(lr, scale_factor=case.scale, mode="bicubic", align_corners=False)


@torch.no_grad()
def expected(case: Case) -> dict[str, np.ndarray]:
    """Features; latents, likelihood and log-det with noise; bits per dimension without; images and log-det of z."""
    flow, given = flow_of(case), inputs(case)
    y, base = condition_of(case, given.lr), base_of(case, given.lr)
    natives, taps, mean = flow.encoder.features(y, case.scale, case.L)
    found, log_prob = flow.encode(given.hr + given.noise - base, y, given.noise)
    of_latents = sum((-0.5 * (z**2 + math.log(2 * math.pi))).sum((1, 2, 3)) for z in found)
    x, decoded_log_det = flow.decode(latents(given.z, flow.latent_shapes(*given.hr.shape[-2:])), y)
    clean = flow.encode(given.hr - base, y)[1]
    values = {
        **{f"native_{number}": native for number, native in enumerate(natives)},
        "taps": taps,
        **{f"latent_{number}": latent for number, latent in enumerate(found)},
        "log_prob": log_prob,
        "log_det": log_prob - of_latents,
        "bits_per_dim": -clean / (math.log(2) * given.hr[0].numel()),
        "image": x + base,
        "decoded_log_det": decoded_log_det,
    }
    if mean is not None:
        colors = given.hr / (given.hr.sum(1, keepdim=True) + 1e-4)
        values |= {"mean": mean, "log_prob_of_own_colors": flow.encode(given.hr, y, mean=colors)[1]}
    if case.model == "SRFlow":
        values["rrdb"] = flow.encoder.image(given.lr, case.scale)
    return {name: value.numpy() for name, value in values.items()}


def main() -> None:
    torch.set_num_threads(1)  # more of them add in another order
    for name, case in CASES.items():
        np.savez_compressed(HERE / f"{name}.npz", **expected(case))


if __name__ == "__main__":
    main()
