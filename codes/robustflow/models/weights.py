"""Weights on disk: safetensors, with the options they were trained with."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robustflow.interop import published, state_dicts
from robustflow.models.base import Model
from robustflow.models.rrdb import RRDBOptions
from robustflow.options import load as options_load
from robustflow.options.schema import NetworkOptions, RunOptions
from robustflow.registry import MODELS
from robustflow.utils import checksums, packaged
from robustflow.utils.errors import UserError, reason_of, shorten
from robustflow.utils.files import write_atomically
from robustflow.utils.yaml_tree import Mistake, Reader, plain, show

log = logging.getLogger(__name__)

SUFFIX = "_G.safetensors"
_FORMAT = "robustflow"
# Here None is a value of its own.
_OF_PRIOR = ("network_G.flow.split.max_log_scale", "network_G.flow.split.soft")
_NOT_OF_THE_FUNCTION = {
    f"network_G.{key}" for key in ("train_RRDB", "train_RRDB_delay", "flow.projection_memory", "encoder.type")
}
_OTHER_IMAGES = (
    "%s: an RRDB in which the first convolution is added to the trunk's output, as in ESRGAN; here the last block's, "
    "as in published flows: a start for a training, not the same images (model: {type: RRDB, residual: first_conv} "
    "makes those)"
)
# Of the exponential moving average of the weights, where training keeps one: taken in their place.
EMA_SUFFIX = "_G_ema.safetensors"


class WeightsError(UserError):
    """Weights that are missing, damaged, or of another network; the message says which and what to do."""


def save(path: Path, model: Model, options: RunOptions, iteration: int, *, half: bool = False) -> None:
    """Write the model's weights atomically, with the resolved options and the iteration as metadata."""
    write_atomically(path, serialize(model, options, iteration, half=half))


def serialize(model: Model, options: RunOptions, iteration: int, *, half: bool = False) -> bytes:
    """Contents of a weights file: the network's tensors, with the resolved options and the iteration as metadata.

    ``half``: tensors rounded to float16, half the size; they are computed with as float32 all the same. WeightsError
    for values that are too large for it.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()}
    if half:
        tensors = {name: _round_to_half(name, one) for name, one in tensors.items()}
    metadata = {"format": _FORMAT, "options": options_load.dump(options), "iteration": str(iteration)}
    return safetensors.torch.save(tensors, metadata)


def _round_to_half(name: str, tensor: Tensor) -> Tensor:
    rounded = tensor.half() if tensor.is_floating_point() else tensor
    if not torch.equal(rounded.isfinite(), tensor.isfinite()):
        largest = tensor[tensor.isfinite()].abs().max()
        raise WeightsError(
            f"{name}: expected values of at most 65504 for half precision, got {largest:.3g}; keep float32"
        )
    return rounded


def newest(experiment: Path) -> Path | None:
    """Newest weights of an experiment folder, by iteration, their moving average where there is one; None without any.

    Files that their checksums say are damaged are passed over, with a warning: an average for the weights themselves.
    """
    files: dict[tuple[int, bool], Path] = {}
    for suffix in (SUFFIX, EMA_SUFFIX):
        for file in (experiment / "models").glob(f"*{suffix}"):
            number = file.name.removesuffix(suffix)
            # Iteration 0 is untrained: there to go back to, not to be used.
            if number.isdecimal() and int(number) > 0:
                files[int(number), suffix == EMA_SUFFIX] = file
    for _, file in sorted(files.items(), reverse=True):
        fault = checksums.fault(file)
        if fault is None:
            return file
        log.warning("%s; it is passed over", fault)
    return None


def locate(path: str) -> Path:
    """Weights file that a path names: the file itself, the newest of an experiment folder, or one that is shipped."""
    place = Path(path)
    file = newest(place) if place.is_dir() else place
    if file is None or not file.exists():
        file = packaged.find("pretrained_weights", place if place.suffix else Path(f"{place}.safetensors"))
    if file is None or not file.is_file():
        shipped = sorted(file.stem for file in packaged.folder("pretrained_weights").glob("box_*.safetensors"))
        names = ", ".join(name for name in shipped if "." not in name)
        raise WeightsError(
            f"{path}: expected a .safetensors or .pth file, an experiment folder with models/*{SUFFIX}, or a model of "
            f"the box ({names}); found none; train first, or correct path.pretrain_model_G, path.model_path or "
            "--weights"
        )
    fault = None if place.is_dir() else checksums.fault(file)
    if fault is not None:
        raise WeightsError(f"{fault}; use another checkpoint, or delete that checksum if the change was meant")
    return file


def locate_for_test(options: RunOptions) -> Path | None:
    """Weights that test.py takes: path.model_path, else the newest of the experiment, else path.pretrain_model_G.

    None for a model that has no weights.
    """
    if not MODELS.entry_of(options.model).has_weights:
        return None
    experiment, start = Path(options.path.experiments) / options.name, options.path.pretrain_model_G
    if options.path.model_path is not None:
        return locate(options.path.model_path)
    return locate(str(experiment)) if start is None else newest(experiment) or locate(start)


def read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a weights file, if asked for, and metadata. WeightsError if it is damaged or no safetensors file."""
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: expected a .safetensors or published .pth file, got '{path.suffix}'")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys() if tensors else ()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: damaged or no safetensors file ({error}); use another checkpoint") from error


def load(path: Path, model: Model, options: RunOptions, *, encoder_suffices: bool) -> str:
    """Load weights into a model and say what was loaded: "network" or "encoder".

    Args:
        path: Weights file: ours, or a published one (``.pth`` and the like, or its tensors as safetensors).
        model: Receives them; unchanged if they do not fit.
        options: The model's options. Weights of the same shapes that were trained as another function (another ε or
            box of the couplings, another bound of the split priors, another model) are a misfit, too.
        encoder_suffices: A training starts: accept the weights of a pretrained encoder (``model: RRDB``) for a whole
            flow, and those of another function.
    """
    theirs, network = _read_published(path), model.network
    if theirs is not None:
        return _load_published(path, theirs, network, options, encoder_suffices)
    tensors, metadata = read(path)
    wanted: Mapping[str, Tensor] = network.state_dict()
    is_flow = any(name.startswith("levels.") for name in tensors)
    if not _misfits(tensors, wanted):
        # The encoder alone is one function whatever the options of the flow.
        differing = _other_function if is_flow else _other_residual
        others = [] if encoder_suffices else differing(path, metadata, options)
        if others:
            raise WeightsError("\n".join([f"{path}: weights of another function; correct the options", *others]))
        network.load_state_dict(tensors)
        return "network"
    in_file, in_network = ({k: v for k, v in s.items() if k.startswith("encoder.")} for s in (tensors, wanted))
    if encoder_suffices and in_file and not is_flow and not _misfits(in_file, in_network):
        network.load_state_dict(in_file, strict=False)
        if _residual(_parse_options(path, metadata).get("model")) == "first_conv":
            log.warning(_OTHER_IMAGES, path)
        return "encoder"
    raise WeightsError(_explain(path, tensors, wanted, metadata, options))


def fit_options(options: RunOptions, path: Path) -> RunOptions:
    """The options with sizes that were not given (``gc``, say), and RRDB's residual, taken from the weights."""
    theirs = _read_published(path)
    if theirs is not None:
        network = published.complete(options.network_G, theirs[0])
        return _set_residual(options.model_copy(update={"network_G": network}), "first_conv" if theirs[1] else None)
    trained = _parse_options(path, read(path, tensors=False)[1])
    options, saved = _set_residual(options, _residual(trained.get("model"))), trained.get("network_G")
    encoder = _sizes(saved, published.ENCODER_SIZES)
    flow = _sizes(saved.get("flow") if isinstance(saved, dict) else None, published.FLOW_SIZES)
    try:
        NetworkOptions.model_validate({**encoder, "flow": flow})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{path}: its metadata are damaged: network_G.{key}: {reason_of(first)}") from error
    return options.model_copy(update={"network_G": published.set_missing(options.network_G, encoder, flow)})


def _residual(model: Any) -> Any:
    """``model.residual`` among the options of weights."""
    return model.get("residual") if isinstance(model, dict) else None


def _set_residual(options: RunOptions, residual: Any) -> RunOptions:
    if not isinstance(options.model, RRDBOptions) or options.model.residual is not None or residual is None:
        return options
    return options.model_copy(update={"model": options.model.model_copy(update={"residual": residual})})


def read_options(path: Path) -> RunOptions:
    """Options of the run that weights are of, as far as they describe the model.

    WeightsError for weights that do not say, or that need a plugin whose module was not imported: files of weights
    never have code run.
    """
    if _read_published(path) is not None:
        raise WeightsError(f"{path}: published weights do not say what they are of; give their option file before them")
    saved = _parse_options(path, read(path, tensors=False)[1])
    if "model" not in saved:
        raise WeightsError(f"{path}: its metadata have no options; give an option file before it")
    described = {key: saved[key] for key in ("name", "model", "scale", "network_G", "plugins", "val") if key in saved}
    try:
        return RunOptions.model_validate(described)
    except ValidationError as error:
        first, plugins = error.errors()[0], ", ".join(saved.get("plugins", ()))
        hint = f"; import its plugins first: {plugins}" if plugins else ""
        key = ".".join(map(str, first["loc"]))
        raise WeightsError(f"{path}: options of its model cannot be used: {key}: {reason_of(first)}{hint}") from error


def read_options_text(path: Path) -> str:
    """YAML of the options that weights were trained with; "{}" if they do not say. WeightsError as `read`."""
    return read(path, tensors=False)[1].get("options", "{}")


def list_changes(before: str, options: RunOptions) -> list[str]:
    """Options that differ from those of a YAML text, a line each; names and places do not count."""
    texts = {"options so far": before, "options": options_load.dump(options)}
    theirs, ours = (_parse_options(Path(name), {"options": text}) for name, text in texts.items())
    if not theirs:
        return []
    chosen = options.model_dump(exclude_defaults=True)
    return [
        f"{key}: {show(their)} before, now {show(our)}"
        for key, their, our in ((key[1:], *values) for key, *values in _differences("", theirs, ours))
        # A key that was not known then counts if it is set; one that is not known any more does not.
        if re.match(r"name$|path\.|datasets\.test", key) is None
        and ((_has(theirs, key) and (_has(ours, key) or key.startswith("datasets."))) or _has(chosen, key))
    ]


def _has(values: Any, key: str) -> bool:
    name, _, rest = key.partition(".")
    return isinstance(values, Mapping) and name in values and (rest == "" or _has(values[name], rest))


def _sizes(saved: Any, keys: Sequence[str]) -> dict[str, Any]:
    return {key: saved[key] for key in keys if key in saved} if isinstance(saved, dict) else {}


def _parse_options(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The options that weights were trained with, as they were written; none where there are none."""
    mistakes: list[Mistake] = []
    values = plain(Reader(str(path), mistakes).read(metadata.get("options", "{}")))
    if mistakes or not isinstance(values, dict):
        raise WeightsError(f"{path}: its metadata are damaged: expected options as YAML; use another checkpoint")
    return values


def _read_published(path: Path) -> tuple[dict[str, Tensor], bool] | None:
    """Tensors of a file in one of the published layouts, see `published.read`; None for a file of ours."""
    if path.suffix in published.SUFFIXES:
        found = published.read(path)
        if any(name.startswith(("network.", "levels.", "encoder.")) for name in found[0]):
            raise WeightsError(
                f"{path}: expected published weights, got the state dict of a model of this package; give it to the "
                "model's load_state_dict, and write with its save what can be loaded from a file alone"
            )
        return found
    if read(path, tensors=False)[1].get("format") == _FORMAT:
        return None
    tensors, of_esrgan = published.name_tensors(read(path)[0], path)
    return (tensors, of_esrgan) if state_dicts.are_published(tensors) else None


def _load_published(
    path: Path, theirs: tuple[dict[str, Tensor], bool], network: nn.Module, options: RunOptions, encoder_suffices: bool
) -> str:
    tensors, of_esrgan = theirs
    try:
        loaded = published.fill(network, tensors, encoder_suffices=encoder_suffices)
    except published.PublishedError as error:
        raise WeightsError(f"{path}: {error}") from error
    if of_esrgan and not (isinstance(options.model, RRDBOptions) and options.model.residual == "first_conv"):
        log.warning(_OTHER_IMAGES, path)
    return loaded


def _misfits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    missing = [f"missing: {name}" for name in wanted if name not in tensors]
    extra = [f"not in this network: {name}" for name in tensors if name not in wanted]
    shapes = [
        f"{name}: expected shape {tuple(wanted[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in wanted and wanted[name].shape != tensor.shape
    ]
    return missing + extra + shapes


def _explain(
    path: Path,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    options: RunOptions,
) -> str:
    lines = [f"{path}: weights of another network"]
    if "options" in metadata:
        theirs, ours = _parse_options(path, metadata), _parse_options(path, {"options": options_load.dump(options)})
        lines += [
            f"  {key}: the weights were trained with {their}, the options say {our}"
            for key in ("model", "scale", "network_G")
            for key, their, our in _differences(key, theirs.get(key), ours.get(key))
        ]
    return "\n".join([*lines, *(f"  {misfit}" for misfit in shorten(_misfits(tensors, wanted)))])


def _other_function(path: Path, metadata: Mapping[str, str], options: RunOptions) -> list[str]:
    """Options in which the weights' own and these differ though all shapes fit, one line each."""
    theirs, ours = _parse_options(path, metadata), _parse_options(path, {"options": options_load.dump(options)})
    if not isinstance(theirs.get("network_G"), dict):
        return []
    model = [("model.type", _type(theirs.get("model")), _type(ours["model"]))]
    model.append(("scale", theirs.get("scale"), ours["scale"]))
    network = _differences("network_G", theirs["network_G"], ours["network_G"])
    return [
        f"  {key}: the weights were trained with {their}, the options say {our}"
        for key, their, our in [*model, *network]
        # None: left to a default here, or not known when the weights were written. One number stands for all levels.
        if (None not in (their, our) and _all_levels(their) != _all_levels(our) and key not in _NOT_OF_THE_FUNCTION)
        or (key in _OF_PRIOR and their != our)
    ]


def _other_residual(path: Path, metadata: Mapping[str, str], options: RunOptions) -> list[str]:
    """The same of an RRDB."""
    written = (metadata, {"options": options_load.dump(options)})
    theirs, ours = (_residual(_parse_options(path, one).get("model")) or "last_block" for one in written)
    line = f"  model.residual: the weights were trained with {theirs}, the options say {ours}"
    return [] if theirs == ours else [line]


def _all_levels(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) > 0 and len(set(map(str, value))) == 1 else value


def _type(model: Any) -> Any:
    return model.get("type") if isinstance(model, dict) else model


def _differences(key: str, theirs: Any, ours: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = dict.fromkeys([*theirs, *ours])
        return [row for k in keys for row in _differences(f"{key}.{k}", theirs.get(k), ours.get(k))]
    return [] if theirs == ours else [(key, theirs, ours)]
