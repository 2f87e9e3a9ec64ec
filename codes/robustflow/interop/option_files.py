"""Published option files (SRFlow and its RRDB, NCSR, FS-NCSR, LLFlow, robust flows): by their keys, translated to ours.

Each published key is moved to one of ours, or has no effect and is dropped; the notes say which and what happens
instead. A key that is in none of the tables stays and is then reported as unknown, as in any other file.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from robustflow.interop.option_keys import (
    COSINE,
    DROPPED,
    ENCODER_ALONE,
    FLOW,
    LOW_LIGHT_DROPPED,
    LOW_LIGHT_MOVED,
    LOW_LIGHT_ONLY,
    MOVED,
    OBEYED,
    ONLY,
    RRDB_DROPPED,
    TRAINING_ONLY,
)
from robustflow.options.yaml_tree import KeyPath, Mistake, Node, OptionsError, key_text, node_of, show

AFFINE, SPLINE = "CondAffineSeparatedAndCond", "CondRQsplineSeparatedAndCond"
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


class Note(NamedTuple):
    """What became of a published key."""

    key: str
    became: str


def is_published(tree: Node) -> bool:
    """Whether a tree of options was written for the published code."""
    network = _get(tree, ("network_G",))
    flow = _get(tree, FLOW)
    networks = network is not None and isinstance(network.value, dict) and "which_model_G" in network.value
    return networks or (flow is not None and isinstance(flow.value, dict) and bool({AFFINE, SPLINE} & set(flow.value)))


def translate(tree: Node) -> tuple[Node, list[Note]]:
    """The same options under our keys, each value with its source, and what became of the published keys."""
    tree = _copied(tree)
    notes = [*_model(tree), *_low_light(tree), *_encoder_alone(tree), *_coupling(tree), *_schedule(tree)]
    notes += [*_dropped(tree, DROPPED), *_moved(tree, MOVED), *_adapted(tree)]
    if _model_of(tree) != "RRDB":
        notes += [Note(key_text(path), text) for path, text in OBEYED.items() if _get(tree, path) is not None]
    test = _get(tree, ("test",))
    if test is not None and test.value == {}:
        _take(tree, ("test",))
    return tree, notes


def translate_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """``translate`` for options that were read elsewhere: plain values in, plain values out, lists as tuples."""
    values: dict[str, Any] = plain(translate(node_of(dict(options), "options"))[0])
    return values


def plain(node: Node) -> Any:
    """Value of a node without its sources."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return tuple(map(plain, node.value)) if isinstance(node.value, tuple) else node.value


def _copied(node: Node) -> Node:
    """A copy whose mappings can be changed."""
    if not isinstance(node.value, dict):
        return node
    return Node({key: _copied(child) for key, child in node.value.items()}, node.source)


def _get(tree: Node, path: KeyPath) -> Node | None:
    for key in path:
        if not isinstance(tree.value, dict) or key not in tree.value:
            return None
        tree = tree.value[key]
    return tree


def _take(tree: Node, path: KeyPath) -> Node | None:
    parent = _get(tree, path[:-1])
    if parent is None or not isinstance(parent.value, dict):
        return None
    taken: Node | None = parent.value.pop(path[-1], None)
    return taken


def _put(tree: Node, path: KeyPath, node: Node) -> None:
    for depth, key in enumerate(path[:-1], start=1):
        if not _children(tree.value.get(key), path[:depth]):
            tree.value[key] = Node({}, node.source)
        tree = tree.value[key]
    tree.value[path[-1]] = node


def _children(node: Node | None, path: KeyPath) -> dict[str, Node]:
    """Entries of a mapping; none where there is no node or no value. OptionsError for another value."""
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        mistake = Mistake(node.source, path, f"expected a mapping of keys to values, got {show(plain(node))}")
        raise OptionsError(node.source.rsplit(":", 1)[0], mistake)
    return node.value


def _model(tree: Node) -> Iterator[Note]:
    """``model`` and ``divide_freq`` together name the model."""
    model, divided = _take(tree, ("model",)), _take(tree, ("divide_freq",))
    if model is None:
        return
    name = "FS-NCSR" if model.value == "NCSR" and divided is not None and divided.value is True else model.value
    name = "RRDB" if name in ENCODER_ALONE else name
    _put(tree, ("model", "type"), Node(name, model.source))
    yield Note("model, divide_freq", f"model: {name}")


def _model_of(tree: Node) -> Any:
    model = _get(tree, ("model", "type"))
    return None if model is None else model.value


def _encoder_alone(tree: Node) -> Iterator[Note]:
    """What only option files of the encoder's pretraining have: its loss."""
    if _model_of(tree) != "RRDB":
        return
    weight = _get(tree, ("train", "pixel_weight"))
    if weight is not None and (not isinstance(weight.value, int | float) or weight.value <= 0):
        _refuse(("train", "pixel_weight"), weight, "expected a weight above 0 of the only loss")
    yield from _dropped(tree, RRDB_DROPPED)
    yield from _moved(tree, {("train", "pixel_criterion"): ("model", "pixel_criterion")})


def _schedule(tree: Node) -> Iterator[Note]:
    """The course of the learning rate: steps, or periods of half a cosine."""
    scheme = _get(tree, ("train", "lr_scheme"))
    if scheme is None or scheme.value not in COSINE:
        yield from _steps(tree)
        return
    _put(tree, ("train", "lr_scheme"), Node(COSINE[-1], scheme.source))
    yield Note("train.lr_scheme", f"lr_scheme: {COSINE[-1]}")
    for key in ("lr_steps", "lr_steps_rel", "lr_gamma"):
        if _take(tree, ("train", key)) is not None:
            yield Note(f"train.{key}", "no effect in this scheme")
    yield from _restarts(tree)


def _restarts(tree: Node) -> Iterator[Note]:
    """``restarts`` repeats where periods end; the first period has no weight there."""
    periods, restarts, weights = (_get(tree, ("train", key)) for key in ("T_period", "restarts", "restart_weights"))
    lengths = () if periods is None else plain(periods)
    if restarts is None or not isinstance(lengths, tuple) or not all(isinstance(n, int | float) for n in lengths):
        return
    ends = tuple(itertools.accumulate(lengths))[:-1]
    if (plain(restarts) or ()) != ends:
        _refuse(("train", "restarts"), restarts, f"expected the ends of the periods in T_period, {show(ends)}")
    _take(tree, ("train", "restarts"))
    yield Note("train.restarts", "T_period says it")
    if weights is not None and isinstance(weights.value, tuple) and len(weights.value) == len(ends):
        first = Node(1.0, weights.source)
        _put(tree, ("train", "restart_weights"), Node((first, *weights.value), weights.source))
        yield Note("train.restart_weights", "one for each period, the first one included")


def _steps(tree: Node) -> Iterator[Note]:
    """Steps, which ours counts in fractions of all iterations."""
    scheme = _get(tree, ("train", "lr_scheme"))
    if scheme is not None and str(scheme.value).startswith("MultiStepLR"):
        _take(tree, ("train", "lr_scheme"))
        yield Note("train.lr_scheme", "steps at lr_steps_rel")
    steps, niter = _get(tree, ("train", "lr_steps")), _get(tree, ("train", "niter"))
    if steps is None or niter is None or _get(tree, ("train", "lr_steps_rel")) is not None:
        return
    numbers = plain(steps)
    if isinstance(numbers, tuple) and all(isinstance(n, int | float) for n in (*numbers, niter.value)):
        _take(tree, ("train", "lr_steps"))
        fractions = tuple(Node(step / niter.value, steps.source) for step in numbers if 0 < step < niter.value)
        _put(tree, ("train", "lr_steps_rel"), Node(fractions, steps.source))
        yield Note("train.lr_steps", "lr_steps_rel, as fractions of niter")


def _low_light(tree: Node) -> Iterator[Note]:
    """What only option files of LLFlow have: its encoder, its data sets, and switches of variants."""
    model = _get(tree, ("model", "type"))
    if model is None or model.value != "LLFlow":
        return
    _put(tree, ("network_G", "encoder"), Node("low_light", model.source))
    if _get(tree, ("val", "protocol")) is None:
        _put(tree, ("val", "protocol"), Node("llflow", model.source))
    data = _take(tree, ("dataset",))
    for path in _paths(tree, ("datasets", "*", "mode")):
        if data is not None and _get(tree, path) is None:
            _put(tree, path, data)
            _put(tree, (*path[:-1], "split"), Node("train" if path[1] == "train" else "test", data.source))
    if data is not None:
        yield Note("dataset", f"datasets.*.mode: {data.value}, and split")
    for pattern, (supported, meaning) in LOW_LIGHT_ONLY.items():
        given = {path: node for path in _paths(tree, pattern) if (node := _take(tree, path)) is not None}
        for path, node in given.items():
            _require(path, node, supported)
        if given:
            yield Note(f"{key_text(pattern)}: {show(supported)}", meaning)
    yield from _dropped(tree, LOW_LIGHT_DROPPED)
    yield from _moved(tree, LOW_LIGHT_MOVED)


def _require(path: KeyPath, node: Node, supported: Any) -> None:
    """Raise OptionsError for another value than the one that is supported."""
    if node.value != supported or isinstance(node.value, bool) != isinstance(supported, bool):
        _refuse(path, node, f"expected {show(supported)}, the only value supported")


def _refuse(path: KeyPath, node: Node, expected: str) -> NoReturn:
    mistake = Mistake(node.source, path, f"{expected}, got {show(plain(node))}")
    raise OptionsError(node.source.rsplit(":", 1)[0], mistake)


def _coupling(tree: Node) -> Iterator[Note]:
    """The coupling's name and its own mapping become ``coupling: {type: ...}`` and ``hidden_channels``."""
    given = {name: _take(tree, (*FLOW, name)) for name in (AFFINE, SPLINE)}
    settings = {name: dict(_children(node, (*FLOW, name))) for name, node in given.items()}
    named = _get(tree, (*FLOW, "coupling"))
    if named is None or not isinstance(named.value, str) or named.value not in settings:
        return
    own = settings[named.value]
    # The published spline takes the width of its networks from the affine coupling's mapping.
    width = settings[AFFINE].get("hidden_channels", own.get("hidden_channels"))
    own.pop("hidden_channels", None)
    if width is not None:
        _put(tree, (*FLOW, "hidden_channels"), width)
    coupling = {"type": Node("affine" if named.value == AFFINE else "rq_spline", named.source)}
    box = {key: own.pop(key) for key in _BOUNDS if key in own}
    if named.value == SPLINE and box:
        ends = tuple(_end(box, side, Node(default, named.source)) for side, default in enumerate((-0.5, 0.5)))
        coupling["bounds"] = Node(ends, named.source)
    _put(tree, (*FLOW, "coupling"), Node({**coupling, **own}, named.source))
    kind = coupling["type"].value
    yield Note(f"network_G.flow.coupling, {named.value}", f"coupling: {{type: {kind}, ...}}, hidden_channels")


def _end(box: dict[str, Node], side: int, default: Node) -> Node:
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


def _paths(tree: Node, pattern: KeyPath) -> Iterator[KeyPath]:
    """The pattern with "*" replaced by each data set's key."""
    if "*" not in pattern:
        yield pattern
        return
    datasets = _get(tree, ("datasets",))
    for name in list(datasets.value) if datasets is not None and isinstance(datasets.value, dict) else []:
        yield tuple(name if key == "*" else key for key in pattern)


def _dropped(tree: Node, table: Mapping[KeyPath, str]) -> Iterator[Note]:
    # Where nothing says the same, lr_steps stays and is reported as unknown.
    kept = {("train", "lr_steps")} if _get(tree, ("train", "lr_steps_rel")) is None else set()
    for pattern, text in table.items():
        if pattern in kept:
            continue
        if [True for path in _paths(tree, pattern) if _take(tree, path) is not None]:
            yield Note(key_text(pattern), text)


def _moved(tree: Node, table: Mapping[KeyPath, KeyPath]) -> Iterator[Note]:
    for old, new in table.items():
        node = _take(tree, old)
        if node is None:
            continue
        if new == ("val", "heats") and not isinstance(node.value, tuple):
            node = Node((node,), node.source)
        if new == ("model", "noise_max") and plain(_get(tree, ("model", "type")) or Node(None, "")) == "SRFlow":
            yield Note(key_text(old), "no effect with SRFlow")
            continue
        if new[:2] == ("datasets", "test"):
            _put(tree, ("datasets", "test", "mode"), Node("folder", node.source))
        _put(tree, new, node)
        yield Note(key_text(old), key_text(new))


def _adapted(tree: Node) -> Iterator[Note]:
    """Values that mean the same in another form."""
    warmup = _get(tree, ("train", "warmup_iter"))
    if warmup is not None and warmup.value == -1:
        _put(tree, ("train", "warmup_iter"), Node(0, warmup.source))
        yield Note("train.warmup_iter: -1", "0: no warm-up")
    for key, (supported, meaning) in ONLY.items():
        node = _take(tree, key)
        if node is None or node.value is None:
            continue
        if isinstance(node.value, bool) or node.value not in supported:
            _refuse(key, node, f"expected {' or '.join(map(show, supported))}: {meaning}")
        yield Note(f"{key_text(key)}: {show(node.value)}", meaning)
    for path in (p for name in TRAINING_ONLY for p in _paths(tree, ("datasets", "*", name))):
        if path[1] != "train" and _take(tree, path) is not None:
            yield Note(key_text(path), "has a meaning in training only")
    for path in _paths(tree, ("datasets", "*", "n_max")):
        node, cropped = _take(tree, path), _get(tree, (*path[:-1], "GT_size"))
        mode = _get(tree, (*path[:-1], "mode"))
        whole = mode is not None and mode.value == "LRHR_IMG_nocrop"
        if node is not None and cropped is not None and not whole:
            _put(tree, (*path[:-1], "n_crops"), node)
        if node is not None:
            yield Note(
                key_text(path), "all images count" if cropped is None or whole else "n_crops: fixed, not random, crops"
            )
