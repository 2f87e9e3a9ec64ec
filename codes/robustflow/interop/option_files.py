"""Published option files (SRFlow and its RRDB, NCSR, FS-NCSR, LLFlow, robust flows): by their keys, translated to ours.

Each published key is moved to one of ours, or has no effect and is dropped; the notes say which and what happens
instead. A key that is in none of the tables stays and is then reported as unknown, as in any other file.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeAlias, TypeVar

from robustflow.interop import option_keys
from robustflow.interop.option_keys import FLOW
from robustflow.utils.yaml_tree import KeyPath, Mistake, Node, OptionsError, key_text, plain, show

T = TypeVar("T")
Keys: TypeAlias = dict[KeyPath, Node]
Note: TypeAlias = tuple[str, str]  # a published key, and what became of it

_NOTHING = Node(None, "")
AFFINE, SPLINE = "CondAffineSeparatedAndCond", "CondRQsplineSeparatedAndCond"
COUPLINGS = {AFFINE: "affine", SPLINE: "rq_spline", "CondAffineReparamSeparatedAndCond": "inverse_affine"}
# The published code spells one bound "righ"; left and bottom, right and top are the same bounds of the box.
_BOUNDS = {"left": 0, "bottom": 0, "right": 1, "righ": 1, "top": 1}

# What `as_published: true` sets, each an option of its own.
AS_PUBLISHED: dict[str, Any] = {
    "train.beta1": 0.9,
    "train.beta2": 0.999,
    "network_G.train_RRDB": True,
    "network_G.train_RRDB_delay": 0.0,
    "val.quantize": "floor",
}


def is_published(tree: Node) -> bool:
    """Whether a tree of options was written for the published code."""
    marks = {("network_G", "which_model_G"), *((*FLOW, name) for name in COUPLINGS)}
    return any(path[: len(mark)] == mark for path, _ in _leaves(tree) for mark in marks)


def translate(tree: Node) -> tuple[Node, list[Note]]:
    """The same options under our keys, each value with its source, and what became of the published keys."""
    keys = dict(_leaves(tree))
    notes = [*_name_model(keys), *_adapt_low_light(keys), *_adapt_encoder(keys), *_adapt_coupling(keys)]
    notes += [
        *_adapt_schedule(keys),
        *_drop(keys, option_keys.DROPPED),
        *_move(keys, option_keys.MOVED),
        *_adapt_values(keys),
    ]
    if _model_of(keys) != "RRDB":
        notes += [(name, text) for name, text in option_keys.OBEYED.items() if _path(name) in keys]
    return _grow(keys, tree), notes


def _leaves(node: Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
    """Values by their whole keys: scalars, lists and empty mappings."""
    if not isinstance(node.value, dict) or not node.value:
        yield path, node
        return
    for key, child in node.value.items():
        yield from _leaves(child, (*path, key))


def _grow(keys: Keys, original: Node) -> Node:
    """The tree of values by their keys; mappings keep the places that they had. OptionsError for a value above them."""
    root = Node({}, original.source)
    # What is written above others comes before them.
    for path, leaf in sorted(keys.items(), key=lambda item: len(item[0])):
        node, place = root, original
        for depth, key in enumerate(path[:-1], start=1):
            place = place.value.get(key, leaf) if isinstance(place.value, dict) else leaf
            below = node.value.get(key)
            if below is None or below.value is None:
                below = node.value[key] = Node({}, place.source)
            if not isinstance(below.value, dict):
                _refuse(path[:depth], below, "expected a mapping of keys to values")
            node = below
        node.value[path[-1]] = leaf
    return root


def _refuse(path: KeyPath, node: Node, expected: str) -> NoReturn:
    mistake = Mistake(node.source, path, f"{expected}, got {show(plain(node))}")
    raise OptionsError(node.source.rsplit(":", 1)[0], mistake)


def _name_model(keys: Keys) -> Iterator[Note]:
    """``model`` and ``divide_freq`` together name the model."""
    model, divided = keys.pop(("model",), None), keys.pop(("divide_freq",), None)
    if model is None:
        return
    name = "FS-NCSR" if model.value == "NCSR" and divided is not None and divided.value is True else model.value
    name = "RRDB" if name in option_keys.ENCODER_ALONE else name
    keys["model", "type"] = Node(name, model.source)
    yield "model, divide_freq", f"model: {name}"


def _model_of(keys: Keys) -> Any:
    return keys.get(("model", "type"), _NOTHING).value


def _adapt_encoder(keys: Keys) -> Iterator[Note]:
    """What only option files of the encoder's pretraining have: its loss."""
    if _model_of(keys) != "RRDB":
        return
    weight = keys.get(("train", "pixel_weight"))
    if weight is not None and (not isinstance(weight.value, int | float) or weight.value <= 0):
        _refuse(("train", "pixel_weight"), weight, "expected a weight above 0 of the only loss")
    yield from _drop(keys, option_keys.RRDB_DROPPED)
    yield from _move(keys, {"train.pixel_criterion": "model.pixel_criterion"})


def _adapt_schedule(keys: Keys) -> Iterator[Note]:
    """The course of the learning rate: steps, or periods of half a cosine."""
    scheme = keys.get(("train", "lr_scheme"), _NOTHING)
    if scheme.value not in option_keys.COSINE:
        yield from _adapt_steps(keys)
        return
    keys["train", "lr_scheme"] = Node(option_keys.COSINE[-1], scheme.source)
    yield "train.lr_scheme", f"lr_scheme: {option_keys.COSINE[-1]}"
    for key in ("lr_steps", "lr_steps_rel", "lr_gamma"):
        if keys.pop(("train", key), None) is not None:
            yield f"train.{key}", "no effect in this scheme"
    yield from _adapt_restarts(keys)


def _adapt_restarts(keys: Keys) -> Iterator[Note]:
    """``restarts`` repeats where periods end; the first period has no weight there."""
    periods, restarts, weights = (keys.get(("train", key)) for key in ("T_period", "restarts", "restart_weights"))
    lengths = () if periods is None else plain(periods)
    if restarts is None or not isinstance(lengths, tuple) or not all(isinstance(n, int | float) for n in lengths):
        return
    ends = tuple(itertools.accumulate(lengths))[:-1]
    if (plain(restarts) or ()) != ends:
        _refuse(("train", "restarts"), restarts, f"expected the ends of the periods in T_period, {show(ends)}")
    del keys["train", "restarts"]
    yield "train.restarts", "T_period says it"
    if weights is not None and isinstance(weights.value, tuple) and len(weights.value) == len(ends):
        first = Node(1.0, weights.source)
        keys["train", "restart_weights"] = Node((first, *weights.value), weights.source)
        yield "train.restart_weights", "one for each period, the first one included"


def _adapt_steps(keys: Keys) -> Iterator[Note]:
    """Steps, which ours counts in fractions of all iterations."""
    if str(keys.get(("train", "lr_scheme"), _NOTHING).value).startswith("MultiStepLR"):
        del keys["train", "lr_scheme"]
        yield "train.lr_scheme", "steps at lr_steps_rel"
    steps, niter = keys.get(("train", "lr_steps")), keys.get(("train", "niter"))
    if steps is None or niter is None or ("train", "lr_steps_rel") in keys:
        return
    numbers = plain(steps)
    if isinstance(numbers, tuple) and all(isinstance(n, int | float) for n in (*numbers, niter.value)):
        del keys["train", "lr_steps"]
        fractions = tuple(Node(step / niter.value, steps.source) for step in numbers if 0 < step < niter.value)
        keys["train", "lr_steps_rel"] = Node(fractions, steps.source)
        yield "train.lr_steps", "lr_steps_rel, as fractions of niter"


def _adapt_low_light(keys: Keys) -> Iterator[Note]:
    """What only option files of LLFlow have: its encoder, its data sets, and switches of variants."""
    if _model_of(keys) != "LLFlow":
        return
    source = keys["model", "type"].source
    keys["network_G", "encoder"] = Node("low_light", source)
    keys.setdefault(("val", "protocol"), Node("llflow", source))
    data = keys.pop(("dataset",), None)
    if data is not None:
        for path in _match(keys, "datasets.*.mode"):
            if path not in keys:
                split = Node("train" if path[1] == "train" else "test", data.source)
                keys |= {path: data, (*path[:-1], "split"): split}
        yield "dataset", f"datasets.*.mode: {data.value}, and split"
    for name, (supported, meaning) in _each(option_keys.LOW_LIGHT_ONLY):
        given = {path: keys.pop(path) for path in _match(keys, name) if path in keys}
        for path, node in given.items():
            if node.value != supported or isinstance(node.value, bool) != isinstance(supported, bool):
                _refuse(path, node, f"expected {show(supported)}, the only value supported")
        if given:
            yield f"{name}: {show(supported)}", meaning
    yield from _drop(keys, option_keys.LOW_LIGHT_DROPPED)
    yield from _move(keys, option_keys.LOW_LIGHT_MOVED)


def _adapt_coupling(keys: Keys) -> Iterator[Note]:
    """The coupling's name and its own mapping become ``coupling: {type: ...}`` and ``hidden_channels``."""
    settings = {name: _take_below(keys, (*FLOW, name)) for name in COUPLINGS}
    named = keys.get((*FLOW, "coupling"), _NOTHING)
    if not isinstance(named.value, str) or named.value not in settings:
        return
    own = settings[named.value]
    # The other published couplings take the width of their networks from the affine coupling's mapping.
    width = settings[AFFINE].get("hidden_channels", own.get("hidden_channels"))
    own.pop("hidden_channels", None)
    if width is not None:
        keys |= {(*FLOW, "hidden_channels"): width}
    kind = COUPLINGS[named.value]
    box = {key: own.pop(key) for key in _BOUNDS if key in own}
    if named.value == SPLINE and box:
        ends = tuple(_end_of(box, side, Node(default, named.source)) for side, default in enumerate((-0.5, 0.5)))
        own["bounds"] = Node(ends, named.source)
    keys |= {(*FLOW, "coupling"): Node({"type": Node(kind, named.source), **own}, named.source)}
    yield f"network_G.flow.coupling, {named.value}", f"coupling: {{type: {kind}, ...}}, hidden_channels"


def _take_below(keys: Keys, above: KeyPath) -> dict[Any, Node]:
    """Take the entries of a mapping. OptionsError if something else is there."""
    node = keys.pop(above, _NOTHING)
    if node.value:
        _refuse(above, node, "expected a mapping of keys to values")
    return {path[-1]: keys.pop(path) for path in list(keys) if path[:-1] == above}


def _end_of(box: dict[str, Node], side: int, default: Node) -> Node:
    """One end of the box, which the published code can set apart for input and output."""
    given = {key: node for key, node in box.items() if _BOUNDS[key] == side}
    first = next(iter(given.values()), default)
    for node in given.values():
        if node.value != first.value:
            message = (
                f"expected {' and '.join(given)} to be equal, got {first.value} and {node.value}: else no bijection"
            )
            raise OptionsError(node.source.rsplit(":", 1)[0], Mistake(node.source, (*FLOW, SPLINE), message))
    return first


def _each(table: Mapping[str, T]) -> Iterator[tuple[str, T]]:
    """The entries of a table, each of the keys that share one by itself."""
    return ((name, value) for names, value in table.items() for name in names.split())


def _path(name: str) -> KeyPath:
    return tuple(name.split("."))


def _match(keys: Keys, name: str) -> list[KeyPath]:
    """The paths that a key stands for, one for each data set where it has a "*"."""
    data_sets = dict.fromkeys(path[1] for path in keys if path[0] == "datasets" and len(path) > 1)
    parts = _path(name)
    return [tuple(key if part == "*" else part for part in parts) for key in data_sets] if "*" in parts else [parts]


def _drop(keys: Keys, table: Mapping[str, str]) -> Iterator[Note]:
    for name, text in _each(table):
        # Where nothing says the same, lr_steps stays and is reported as unknown.
        if name == "train.lr_steps" and ("train", "lr_steps_rel") not in keys:
            continue
        if [keys.pop(path) for path in _match(keys, name) if path in keys]:
            yield name, text


def _move(keys: Keys, table: Mapping[str, str]) -> Iterator[Note]:
    for old, new in _each(table):
        node = keys.pop(_path(old), None)
        if node is None:
            continue
        if new == "val.heats" and not isinstance(node.value, tuple):
            node = Node((node,), node.source)
        if new == "model.noise_max" and _model_of(keys) == "SRFlow":
            yield old, "no effect with SRFlow"
            continue
        if new.startswith("datasets.test."):
            keys["datasets", "test", "mode"] = Node("folder", node.source)
        keys[_path(new)] = node
        yield old, new


def _adapt_values(keys: Keys) -> Iterator[Note]:
    """Values that mean the same in another form."""
    warmup = keys.get(("train", "warmup_iter"), _NOTHING)
    if warmup.value == -1:
        keys["train", "warmup_iter"] = Node(0, warmup.source)
        yield "train.warmup_iter: -1", "0: no warm-up"
    for name, (supported, meaning) in option_keys.ONLY.items():
        node = keys.pop(_path(name), _NOTHING)
        if node.value is None:
            continue
        if isinstance(node.value, bool) or node.value not in supported:
            _refuse(_path(name), node, f"expected {' or '.join(map(show, supported))}: {meaning}")
        yield f"{name}: {show(node.value)}", meaning
    for path in (path for name in option_keys.TRAINING_ONLY for path in _match(keys, f"datasets.*.{name}")):
        if path[1] != "train" and keys.pop(path, None) is not None:
            yield key_text(path), "has a meaning in training only"
    for path in _match(keys, "datasets.*.n_max"):
        node = keys.pop(path, _NOTHING)
        if node is _NOTHING:
            continue
        cropped = (*path[:-1], "GT_size") in keys
        if cropped and keys.get((*path[:-1], "mode"), _NOTHING).value != "LRHR_IMG_nocrop":
            keys |= {(*path[:-1], "n_crops"): node}
            yield key_text(path), "n_crops: fixed, not random, crops"
        else:
            yield key_text(path), "all images count"
