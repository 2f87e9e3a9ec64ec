"""Whether two ways compute the same: what is compared for speed must agree first."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.jobs import TEMPERATURE
from benchmarks.networks import Network
from benchmarks.setting import Row

# Largest difference over largest value, float32. The textbook inverse of the spline cancels.
LIMITS = {"affine": 1e-5, "bounded": 1e-5, "rq": 1e-3, "soft_affine": 1e-4}


class Disagreement(SystemExit):
    """Two ways differ by too much; the message says in what."""


def require(coupling: str, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[Row]:
    """Compare pairs (found, expected) by name, at worst; return a table's rows. Disagreement if one is too far off."""
    return _require(coupling, pairs, "largest", lambda x: x.abs().max().item())


def require_on_average(coupling: str, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> list[Row]:
    """As ``require``, for quantities with jumps, such as gradients at a spline's knots: rounding chooses the side."""
    return _require(coupling, pairs, "average", lambda x: x.abs().mean().item())


def _require(
    coupling: str, pairs: Mapping[str, tuple[Tensor, Tensor]], kind: str, size: Callable[[Tensor], float]
) -> list[Row]:
    rows: list[Row] = []
    limit = LIMITS[coupling]
    for name, (found, expected) in pairs.items():
        value, difference = size(expected), size(found - expected)
        # Written so that NaN fails.
        if not difference <= limit * value:
            raise Disagreement(
                f"{coupling}, {name}: {kind} difference of plain and ours {difference:.3g}, {kind} value "
                f"{value:.3g}; expected at most {limit:g} of it"
            )
        rows.append(
            {
                "coupling": coupling,
                "quantity": name,
                f"{kind} value": value,
                f"{kind} difference": difference,
                "relative": difference / value,
                "limit": limit,
            }
        )
    return rows


@torch.no_grad()
def require_networks(
    coupling: str, ours: Network, plain: Network, gt: Tensor, lr: Tensor, *, decoding: bool = True
) -> list[Row]:
    """Compare encoding of gt and decoding of drawn latents; TF32 off, which would hide what is looked for."""
    if plain.plain is None:
        raise ValueError("expected the plain way as fourth argument, got ours")
    inputs = ours.model.inputs(gt, lr, _generator(lr))
    generator = _generator(lr)
    size = (gt.shape[-2], gt.shape[-1])
    drawn = [ours.flow.draw_latents(size, generator) for _ in range(len(lr))]
    z = [TEMPERATURE * torch.cat(level) for level in zip(*drawn, strict=True)]
    ours.flow.eval()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        encoding = ours.flow.encode(inputs.x, inputs.condition, inputs.noise)
        latents, log_prob = plain.plain.encode(inputs.x, inputs.condition, inputs.noise)
        pairs = {
            f"latent {number}": pair for number, pair in enumerate(zip(encoding.latents, latents, strict=True), start=1)
        }
        pairs["log-probability"] = (encoding.log_prob, log_prob)
        if decoding:
            pairs["decoded"] = (ours.flow.decode(z, lr)[0], plain.plain.decode(z, lr)[0])
    return require(coupling, pairs)


def _generator(reference: Tensor) -> torch.Generator:
    return torch.Generator(reference.device).manual_seed(0)
