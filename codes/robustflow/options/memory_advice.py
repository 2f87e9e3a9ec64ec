"""What lowers the memory that a run takes, of what its options leave to be set: said when memory did not suffice."""

from collections.abc import Sequence

from robustflow.options.schema import RunOptions

# An option, its value, and the least that makes sense.
Lowerable = tuple[str, int | None, int]
_CHECKPOINTING = {"none": ["train.checkpointing: step or level"], "step": ["train.checkpointing: level"], "level": []}


def of_training(options: RunOptions) -> str:
    """For a training run and its validations."""
    o, data = options.train, options.datasets.get("train")
    crops = 1 if data is None else data.batch_size
    unset = [f"train.micro_batch (below {crops})"] if o.micro_batch is None and crops > 1 else []
    lower: list[Lowerable] = [
        ("train.micro_batch", o.micro_batch, 1),
        ("datasets.train.batch_size", crops if o.micro_batch is None else None, 1),
        ("datasets.train.GT_size", None if data is None else data.GT_size, 2**options.network_G.flow.L),
        ("datasets.train.n_workers", None if data is None else data.n_workers, 0),
        _projections(options),
    ]
    said = _sentence([*unset, *_CHECKPOINTING[o.checkpointing]], lower, "or use a smaller network")
    if "val" not in options.datasets:
        return said
    return f"{said} In validation (the iteration is saved): {of_sampling(options)}"


def of_sampling(options: RunOptions, n_sample: int | None = None) -> str:
    """For whatever draws samples of images; ``n_sample``: another number than val.n_sample."""
    val = options.val
    together = min(val.sample_batch, n_sample or val.n_sample)
    unset = ["val.tile and val.tile_overlap"] if val.tile is None else []
    if val.tile is not None and val.tile_overlap is None:
        unset = ["val.tile_overlap (without it tiles read the whole receptive field)"]
    lower: list[Lowerable] = [
        ("val.sample_batch", together, 1),
        ("val.tile", val.tile, 1),
        ("val.tile_overlap", val.tile_overlap, 0),
        _projections(options),
    ]
    return _sentence(unset, lower, "or use smaller images")


def of_images(options: RunOptions) -> str:
    """For what is computed for an image at once."""
    return _sentence([], [_projections(options)], "or use smaller images")


def _projections(options: RunOptions) -> Lowerable:
    return "network_G.flow.projection_memory", options.network_G.flow.projection_memory, 1


def _sentence(unset: Sequence[str], lower: Sequence[Lowerable], rest: str) -> str:
    values = [f"{key} (now {value})" for key, value, least in lower if value is not None and value > least]
    parts = [f"set {', '.join(unset)}"] if unset else []
    parts += [f"lower {', '.join(values)}"] if values else []
    text = "; ".join([*parts, rest if parts else rest.removeprefix("or ")])
    return f"{text[0].upper()}{text[1:]}."
