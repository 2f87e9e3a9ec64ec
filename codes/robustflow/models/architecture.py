"""Sizes of a network, by the names that constructors and option files share."""

import difflib
import functools
from typing import Any, TypedDict

from pydantic import ValidationError
from torch import nn

from robustflow.options.schema import NetworkOptions, RunOptions
from robustflow.registry import MODELS, Options
from robustflow.utils.errors import reasons_of

# Where each argument stands in the options.
_PLACES: dict[str, tuple[str, ...]] = {
    **{key: (key,) for key in ("encoder", "nf", "nb", "gc")},
    **{key: ("flow", key) for key in ("K", "L", "S", "coupling", "hidden_channels", "permutation_train")},
    **{key: ("flow", key) for key in ("additionalFlowNoAffine", "std_channels", "projection_memory")},
    "taps": ("flow", "stackRRDB", "blocks"),
    "split": ("flow", "split", "enable"),
    "correct_splits": ("flow", "split", "correct_splits"),
    "max_log_scale": ("flow", "split", "max_log_scale"),
    "soft_split": ("flow", "split", "soft"),
}

_ARGUMENTS = {".".join(place): key for key, place in _PLACES.items()}


class Architecture(TypedDict, total=False):
    """Arguments of all models; each is the option of that name of ``network_G``, with its default.

    Attributes:
        encoder: "RRDB", "low_light", or another registered one.
        nf: Encoder channels, 64.
        nb: Encoder blocks, 23.
        gc: Growth channels inside a dense block, 32.
        taps: Indices of the encoder blocks that every level reads; None: 1, 8, 15, 22 of 23, else spread evenly.
        K: Full flow steps per level, 16.
        L: Levels, 3; level l works at 1/2^l of the HR resolution.
        S: Noise couplings per level, the last S[l] of K steps, or one number for all.
        hidden_channels: Width of the parameter networks, 64.
        permutation_train: Learned 1×1 convolutions; False: fixed orthogonal ones.
        additionalFlowNoAffine: Transition steps per level, 2.
        split: Factor out half of the channels after a level, with a learned prior; ``correct_splits``: after all but
            the last level (False: all but the last two, as published).
        max_log_scale: Bound of that prior's log-std; None: unbounded, as published.
        soft_split: B of a soft affine map in place of that prior's scale; None: scaled, as published.
        std_channels: Channels of the noise map, 3.
        projection_memory: Budget for a level's projected features, MiB, 1024.
    """

    encoder: Any
    nf: int
    nb: int
    gc: int
    taps: tuple[int, ...] | None
    K: int
    L: int
    S: int | tuple[int, ...]
    hidden_channels: int
    permutation_train: bool
    additionalFlowNoAffine: int
    split: bool
    correct_splits: bool
    max_log_scale: float | None
    soft_split: float | None
    std_channels: int
    projection_memory: int


def network_options(model: type, scale: Any, /, **architecture: Any) -> NetworkOptions:
    """Options of a network from arguments of `Architecture`, and its coupling.

    ValueError, naming all, for what cannot be, or not together in a model of this class.
    """
    if isinstance(architecture.get("encoder"), nn.Module):
        raise ValueError("encoder: expected its name or options, got an instance: load its weights into model.encoder")
    nested: dict[str, Any] = {}
    for key, value in architecture.items():
        if key not in _PLACES:
            near = difflib.get_close_matches(key, _PLACES, n=1)
            raise TypeError(f"unknown argument '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        *parents, last = _PLACES[key]
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = tuple(value) if isinstance(value, list) else value
    try:
        options = NetworkOptions.model_validate(nested)
    except ValidationError as error:
        raise ValueError(reasons_of(error.errors(), _ARGUMENTS)) from error
    _require_consistent(model, scale, options)
    return options


def arguments_of(options: NetworkOptions) -> dict[str, Any]:
    """Arguments that make these options."""
    return {key: functools.reduce(getattr, place, options) for key, place in _PLACES.items()}


def _require_consistent(model: type, scale: Any, options: NetworkOptions) -> None:
    root = RunOptions.model_construct(name="", model=Options(), scale=scale, network_G=options)
    found = [*options.contradictions(root), *options.encoder.contradictions(root)]
    chosen = MODELS.options_class_of(model)
    if chosen is not None:
        found += chosen.model_construct().contradictions(root)
    if found:
        keys = ((key.removeprefix("network_G."), message) for key, message in found)
        raise ValueError("; ".join(f"{_ARGUMENTS.get(key, key)}: {message}" for key, message in keys))
