"""Decoding latents given an image: tile by tile if need be, captured as CUDA graphs where images of a size repeat."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from robustflow.flows import Condition, ConditionalFlow
from robustflow.flows.step import Mixing
from robustflow.models import tiling
from robustflow.nn.graphs import Graphed

# From the latents of an image, finest level first, to x, which is first of what is returned.
Decode = Callable[[list[Tensor]], tuple[Tensor, ...]]

_Decoded = tuple[Tensor, tuple[list[list[Mixing]], Tensor]]

# Sizes of images, and of batches of samples, that are kept captured.
_CAPTURES = 4


def prepare_decoding(
    flow: ConditionalFlow, y: Tensor, tile: int | None, overlap: int | None, multiple: int, cuda_graphs: bool
) -> Decode:
    """Return a function from the latents of whole images to x.

    Args:
        flow: In eval mode.
        y: Their conditions, (b, c, h, w).
        tile: Side of tiles that are decoded one after the other, pixels of y; None: the whole at once.
        overlap: Pixels around each tile; None: so many that tiling changes nothing but the last digits.
        multiple: Sides of tiles are multiples of it.
        cuda_graphs: Capture what repeats.
    """
    size = (y.shape[-2], y.shape[-1])
    tiles = [tiling.whole(size)]
    if tile is not None:
        tiles = tiling.tiles(size, tile, flow.receptive_field if overlap is None else overlap, multiple)
    decoder = flow.keep("decoder", partial(Decoder, flow, cuda_graphs))
    if len(tiles) == 1:
        return decoder.prepare(y)

    def decode_part(part: tiling.Tile, latents: list[Tensor]) -> Tensor:
        decode = decoder.prepare(tiling.crop(y, part.outer, size))
        return decode([tiling.crop(z, part.outer, size) for z in latents])[0]

    return lambda latents: (tiling.stitch(partial(decode_part, latents=latents), tiles, size, flow.scale),)


class Decoder:
    """Decodes with a flow; on a GPU what it does for a second image of one size is captured, and replayed from then on.

    Features, projections and all that depends on the image alone is one graph, shared by all samples and temperatures;
    decoding a batch of samples is another. Weights are those of the time it is made: see `ConditionalFlow.keep`.
    """

    def __init__(self, flow: ConditionalFlow, cuda_graphs: bool) -> None:
        self._flow = flow
        active = cuda_graphs and not torch.is_grad_enabled()
        self._conditions = Graphed(partial(_project, flow), active, _CAPTURES, uncaptured_calls=1)
        self._decoders: dict[torch.Size, tuple[Condition, Graphed[_Decoded]]] = {}
        self._latest: Tensor | None = None

    def prepare(self, y: Tensor) -> Decode:
        """Do what depends on y (b, c, h, w) alone; return what decodes latents (n·b, c, h, w), sample-major."""
        condition = self._condition_of(y)
        if not self._conditions.owns(condition):
            return partial(self._flow.decode, condition=condition)
        return partial(self._replay, y, condition)

    def _condition_of(self, y: Tensor) -> Condition:
        condition = self._conditions(y, key=torch.backends.cudnn.allow_tf32)
        if self._conditions.owns(condition):
            self._latest = y
        return condition

    def _replay(self, y: Tensor, condition: Condition, latents: list[Tensor]) -> tuple[Tensor, ...]:
        if self._latest is not y:
            # Another image of this size lies now where the condition did.
            condition = self._condition_of(y)
        if not self._conditions.owns(condition):
            return self._flow.decode(latents, condition)
        if y.shape not in self._decoders or self._decoders[y.shape][0] is not condition:
            while len(self._decoders) >= _CAPTURES:
                self._decoders.pop(next(iter(self._decoders)))
            self._decoders[y.shape] = condition, Graphed(partial(_decode, self._flow, condition), True, _CAPTURES)
        decode = self._decoders[y.shape][1]
        # The next call writes to the same place.
        x = decode(*latents)[0].clone()
        # A capture that failed is neither tried nor logged for each size anew.
        self._conditions.active = decode.active
        return (x,)


# Functions, not methods of the decoder: in a cycle with it, graphs and their memory would outlive it.
def _project(flow: ConditionalFlow, y: Tensor) -> Condition:
    # Made before a capture, in which they cannot be: matrices are inverted.
    flow.fold_unmixings()
    flow.mixing_log_det()
    condition = flow.condition(y)
    for level in condition.levels:
        level.project_all()
    return condition


def _decode(flow: ConditionalFlow, condition: Condition, *latents: Tensor) -> _Decoded:
    # With what a graph reads besides the condition, to be there for as long as the graph: the flow may forget it.
    return flow.decode(list(latents), condition)[0], (flow.fold_unmixings(), flow.mixing_log_det())
