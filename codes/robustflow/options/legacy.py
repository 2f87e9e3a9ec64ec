"""Published option files (SRFlow, NCSR, FS-NCSR, LLFlow, robust flows): recognised by their keys, translated to ours.

Each published key is moved to one of ours, or has no effect and is dropped; the notes say which and what happens
instead. A key that is in none of the tables stays and is then reported as unknown, as in any other file.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from robustflow.options.yaml_tree import KeyPath, Mistake, Node, OptionsError, key_text, node_of, show

AFFINE, SPLINE = "CondAffineSeparatedAndCond", "CondRQsplineSeparatedAndCond"
_FLOW = ("network_G", "flow")
# The published code spells one bound "righ"; left and bottom, right and top are the same bounds of the box.
_BOUNDS = {"left": 0, "bottom": 0, "right": 1, "righ": 1, "top": 1}

# Keys that keep their meaning under another name.
_MOVED: dict[KeyPath, KeyPath] = {
    ("model_path",): ("path", "model_path"),
    ("std",): ("model", "noise_max"),
    ("heat",): ("val", "heats"),
    ("dataroot_GT",): ("datasets", "test", "dataroot_GT"),
    ("dataroot_LR",): ("datasets", "test", "dataroot_LQ"),
    ("dataroot_LQ",): ("datasets", "test", "dataroot_LQ"),
}
# Keys without effect, "*" for any data set, and what is done instead.
_DROPPED: dict[KeyPath, str] = {
    ("use_tb_logger",): "TensorBoard is always written",
    ("distortion",): "model and scale say it",
    ("gpu_ids",): "device chooses: auto, cpu, cuda:N",
    ("lr",): "no effect in the published code either; train.lr_G counts",
    ("prob",): "no effect in the published code either",
    ("mode",): "NCSR and FS-NCSR are noise-conditional by themselves",
    ("LRnoise",): "NCSR and FS-NCSR put the noise on the LR image, too",
    ("is_train",): "train.py and test.py say it",
    ("datasets", "*", "quant"): "no effect in the published code, in training; images keep their 256 levels",
    ("datasets", "*", "use_shuffle"): "training data are always shuffled",
    ("datasets", "*", "color"): "images are RGB",
    ("datasets", "*", "phase"): "the data set's key says it",
    ("datasets", "*", "scale"): "the top-level scale counts",
    ("datasets", "*", "data_type"): "mode says it",
    ("network_G", "which_model_G"): "model says it",
    ("network_G", "in_nc"): "images are RGB",
    ("network_G", "out_nc"): "images are RGB",
    ("network_G", "upscale"): "no effect in the published code either; the top-level scale counts",
    ("network_G", "scale"): "the top-level scale counts",
    ("network_G", "train_RRDB"): "no effect in the published code; train_RRDB_delay is obeyed",
    (*_FLOW, "noInitialInj"): "no effect in the published code either",
    (*_FLOW, "conditionInFeaDim"): "derived",
    (*_FLOW, "fea_up0"): "derived",
    (*_FLOW, "fea_up-1"): "derived",
    (*_FLOW, "stackRRDB", "concat"): "taps are always concatenated",
    ("path", "strict_load"): "weights are always checked",
    ("path", "root"): "folders are relative to the working directory",
    ("path", "experiments_root"): "path.experiments and name say it",
    ("path", "models"): "path.experiments and name say it",
    ("path", "training_state"): "path.experiments and name say it",
    ("path", "log"): "path.experiments and name say it",
    ("path", "val_images"): "samples go to TensorBoard and results/",
    ("path", "results_root"): "path.results and name say it",
    ("train", "lr_scheme"): "steps at lr_steps_rel",
    ("train", "lr_steps"): "lr_steps_rel counts",
}
# The same for LLFlow.
_LOW_LIGHT_MOVED: dict[KeyPath, KeyPath] = {("train_gt_ratio",): ("model", "train_gt_ratio")}
_LOW_LIGHT_DROPPED: dict[KeyPath, str] = {
    ("align_weight",): "no effect without align_condition_feature",
    ("align_maxpool",): "no effect without align_condition_feature",
    ("dataroot_unpaired",): "test.py --input FOLDER takes images without ground truth",
    ("datasets", "*", "use_crop"): "GT_size says it",
    ("datasets", "*", "noise_level"): "no effect without noise_prob",
    ("network_G", "train_RRDB"): "no pretrained encoder exists: it learns from the start",
    ("network_G", "train_RRDB_delay"): "no pretrained encoder exists: it learns from the start",
    ("test", "heats"): "heat counts, or val.heats",
}
# Switches of variants that are not built: the value that is supported, and what it means.
_LOW_LIGHT_ONLY: dict[KeyPath, tuple[Any, str]] = {
    ("optimize_all_z",): (False, "off"),
    ("cond_encoder",): ("ConEncoder1", "network_G.encoder: low_light"),
    ("avg_color_map",): (False, "off"),
    ("concat_histeq",): (True, "the network always reads the equalised image beside the logarithm"),
    ("histeq_as_input",): (False, "off"),
    ("concat_color_map",): (False, "off"),
    ("gray_map",): (False, "off"),
    ("align_condition_feature",): (False, "off"),
    ("to_yuv",): (False, "off"),
    ("encode_color_map",): (False, "off"),
    ("le_curve",): (False, "off"),
    ("datasets", "*", "log_low"): (True, "the network always reads the logarithm"),
    ("datasets", "*", "gamma_aug"): (False, "off"),
    ("datasets", "*", "noise_prob"): (0, "off"),
    ("train", "weight_fl"): (1, "the likelihood is the loss"),
}
# Keys of validation and test sets that only training uses.
_TRAINING_ONLY = ("batch_size", "n_workers", "use_flip", "use_rot")
# The published code ignores these values; ours obeys them unless `as_published: true` says otherwise.
_OBEYED: dict[KeyPath, str] = {
    ("train", "beta1"): "no effect in the published code; obeyed here, as_published: true takes 0.9",
    ("train", "beta2"): "no effect in the published code; obeyed here, as_published: true takes 0.999",
    ("network_G", "train_RRDB_delay"): "no effect in the published code; obeyed here, as_published: true takes 0",
}
# Values that are the only ones supported; another one is an error.
_ONLY_ZERO: tuple[KeyPath, ...] = (("train", "weight_l1"), ("train", "weight_fl"), ("train", "weight_decay_G"))

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
    flow = _get(tree, _FLOW)
    networks = network is not None and isinstance(network.value, dict) and "which_model_G" in network.value
    return networks or (flow is not None and isinstance(flow.value, dict) and bool({AFFINE, SPLINE} & set(flow.value)))


def translate(tree: Node) -> tuple[Node, list[Note]]:
    """The same options under our keys, each value with its source, and what became of the published keys."""
    tree = _copied(tree)
    notes = [*_model(tree), *_low_light(tree), *_coupling(tree), *_dropped(tree, _DROPPED), *_moved(tree, _MOVED)]
    notes += _adapted(tree)
    notes += [Note(key_text(path), text) for path, text in _OBEYED.items() if _get(tree, path) is not None]
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
    _put(tree, ("model", "type"), Node(name, model.source))
    yield Note("model, divide_freq", f"model: {name}")


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
    for pattern, (supported, meaning) in _LOW_LIGHT_ONLY.items():
        given = {path: node for path in _paths(tree, pattern) if (node := _take(tree, path)) is not None}
        for path, node in given.items():
            _require(path, node, supported)
        if given:
            yield Note(f"{key_text(pattern)}: {show(supported)}", meaning)
    yield from _dropped(tree, _LOW_LIGHT_DROPPED)
    yield from _moved(tree, _LOW_LIGHT_MOVED)
    test = _get(tree, ("test",))
    if test is not None and test.value == {}:
        _take(tree, ("test",))


def _require(path: KeyPath, node: Node, supported: Any) -> None:
    """Raise OptionsError for another value than the one that is supported."""
    if node.value != supported or isinstance(node.value, bool) != isinstance(supported, bool):
        message = f"expected {show(supported)}, the only value supported, got {show(plain(node))}"
        raise OptionsError(node.source.rsplit(":", 1)[0], Mistake(node.source, path, message))


def _coupling(tree: Node) -> Iterator[Note]:
    """The coupling's name and its own mapping become ``coupling: {type: ...}`` and ``hidden_channels``."""
    given = {name: _take(tree, (*_FLOW, name)) for name in (AFFINE, SPLINE)}
    settings = {name: dict(_children(node, (*_FLOW, name))) for name, node in given.items()}
    named = _get(tree, (*_FLOW, "coupling"))
    if named is None or not isinstance(named.value, str) or named.value not in settings:
        return
    own = settings[named.value]
    # The published spline takes the width of its networks from the affine coupling's mapping.
    width = settings[AFFINE].get("hidden_channels", own.get("hidden_channels"))
    own.pop("hidden_channels", None)
    if width is not None:
        _put(tree, (*_FLOW, "hidden_channels"), width)
    coupling = {"type": Node("affine" if named.value == AFFINE else "rq_spline", named.source)}
    box = {key: own.pop(key) for key in _BOUNDS if key in own}
    if named.value == SPLINE and box:
        ends = tuple(_end(box, side, Node(default, named.source)) for side, default in enumerate((-0.5, 0.5)))
        coupling["bounds"] = Node(ends, named.source)
    _put(tree, (*_FLOW, "coupling"), Node({**coupling, **own}, named.source))
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
            raise OptionsError(node.source.rsplit(":", 1)[0], Mistake(node.source, (*_FLOW, SPLINE), message))
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
    for unsupported in _ONLY_ZERO:
        node = _get(tree, unsupported)
        if node is not None and node.value == 0:
            _take(tree, unsupported)
            yield Note(f"{key_text(unsupported)}: 0", "not supported, and off")
    for path in (p for name in _TRAINING_ONLY for p in _paths(tree, ("datasets", "*", name))):
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
