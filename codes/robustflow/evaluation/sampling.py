"""Drawing samples, reproducibly: the same for a seed, an image's name and a sample's number."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from robustflow.data import EvaluationItem
from robustflow.models import Draw, Model
from robustflow.options.schema import ValOptions
from robustflow.utils import memory
from robustflow.utils.seeds import derive_seed


def latent_generator(seed: int, name: str, index: int) -> torch.Generator:
    """Generator of the latents of sample ``index`` of the image ``name``: independent of batches and other images."""
    return torch.Generator().manual_seed(derive_seed(seed, name, index))


def batch_generators(seed: int, name: str, n: int, batch: int) -> Iterator[list[torch.Generator]]:
    """Generators of n samples, at most ``batch`` at a time."""
    for first in range(0, n, batch):
        yield [latent_generator(seed, name, index) for index in range(first, min(first + batch, n))]


@torch.no_grad()
def draw_samples(
    model: Model,
    lr: Tensor,
    *,
    name: str,
    heats: Sequence[float],
    n: int | Callable[[float], int],
    seed: int,
    batch: int,
    tile: int | None = None,
    overlap: int | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """Yield (temperature, samples (n, 3, H, W)) for each temperature, not clamped.

    Args:
        model: In eval mode.
        lr: LR image (3, h, w), or what the model makes of it, see `Model.condition_of`; in [0, 1], of any size.
        name: Name of the image; part of the latents' seeds.
        heats: Temperatures. Work on the condition is done once for all of them; all use the same latents, scaled.
        n: Samples per temperature; one number, or a function of the temperature.
        seed: Seed of the latents.
        batch: Samples computed at once.
        tile: Side of the tiles that are decoded one after the other, LR pixels; None: the whole image at once. The
            latents are those of the whole image.
        overlap: LR pixels around each tile; None: so many that tiling changes nothing.
    """
    draw = model.prepare(lr[None], tile, overlap)
    for heat in heats:
        wanted = n if isinstance(n, int) else n(heat)
        samples, first = None, 0
        for generators in batch_generators(seed, name, wanted, batch):
            part = draw(heat, generators)
            if len(part) == wanted:
                samples = part.contiguous()
                break
            samples = part.new_empty(wanted, *part.shape[1:]) if samples is None else samples
            samples[first : first + len(part)] = part
            first += len(part)
            # Let go before the next batch is drawn: no more than one is held twice.
            del part
        assert samples is not None, "expected at least one sample"
        yield heat, samples


def batches(draw: Draw, heat: float, n: int, *, name: str, seed: int, batch: int) -> Iterator[Tensor]:
    """Yield n samples at one temperature, (at most batch, 3, H, W) at a time; autograd is the caller's to switch off.

    See `draw_samples`.
    """
    for generators in batch_generators(seed, name, n, batch):
        yield draw(heat, generators)


def average(samples: Tensor) -> Tensor:
    """Mean of samples (n, 3, H, W), not clamped: (3, H, W), not finite where one of them is not."""
    # In double precision, finite samples have a finite mean.
    means = [samples[..., rows, :].mean(0, dtype=torch.float64).to(samples) for rows in memory.bands_of(samples)]
    return torch.cat(means, dim=-2)


def strip(model: Model, item: EvaluationItem, options: ValOptions) -> dict[str, Tensor]:
    """Input, one sample and ground truth side by side, (3, H, n·W), by the image's name; last of the temperatures."""
    drawn = draw_samples(
        model,
        item.condition.to(model.device),
        name=item.name,
        heats=options.heats[-1:],
        n=1,
        seed=options.seed,
        batch=1,
        tile=options.tile,
        overlap=options.tile_overlap,
    )
    samples = [sample[0].cpu() for _, sample in drawn]
    enlarged = item.lr.repeat_interleave(model.scale, 1).repeat_interleave(model.scale, 2)
    strip = [enlarged, *samples, *([] if item.gt is None else [item.gt])]
    return {item.name: torch.cat(strip, dim=2)}
