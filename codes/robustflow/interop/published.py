"""Published checkpoints of SRFlow, NCSR, FS-NCSR, LLFlow and robust flows: read safely and filled into our network."""

import logging
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.elementwise import Affine, InverseAffine, RationalQuadratic
from robustflow.encoders.rrdb import RRDBEncoder, RRDBNet
from robustflow.flows import ConditionalFlow
from robustflow.interop import layout as layouts
from robustflow.interop import state_dicts
from robustflow.interop.layout import Published
from robustflow.options.schema import NetworkOptions
from robustflow.utils.errors import UserError, shorten

log = logging.getLogger(__name__)

# Of files that torch.save writes.
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
# Options that ``complete`` can read off a checkpoint.
ENCODER_SIZES, FLOW_SIZES = ("nf", "nb", "gc"), ("hidden_channels", "permutation_train")


# Names that the couplings have there.
_FAMILIES = {Affine: layouts.AFFINE, RationalQuadratic: layouts.SPLINE, InverseAffine: layouts.INVERSE_AFFINE}

# What torch.load and zipfile raise for damaged or forged files, besides UnpicklingError.
_DAMAGED = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    zipfile.BadZipFile,
)


class PublishedError(UserError):
    """A published checkpoint that cannot be used; the message names tensors, shapes and options."""


def read(path: str | Path) -> tuple[dict[str, Tensor], bool]:
    """Tensors of a file that torch.save wrote, as `name_tensors` returns them, read without running any code in it.

    PublishedError if that is not possible.
    """
    try:
        _require_uncompressed(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PublishedError(
            f"{path}: refused, nothing in it was run: expected a state dict of tensors as torch.save writes it, got a "
            "file that is none or that wants to run code"
        ) from error
    except PublishedError:
        raise
    except _DAMAGED as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise PublishedError(f"{path}: missing, damaged or no .pth file ({reason})") from error
    tensors, of_esrgan = name_tensors(content, path)
    for name, tensor in tensors.items():
        _require_plain(path, name, tensor)
    return tensors, of_esrgan


def name_tensors(content: Any, where: str | Path) -> tuple[dict[str, Tensor], bool]:
    """As `state_dicts.find_tensors`; PublishedError that names ``where`` if there are no tensors."""
    try:
        return state_dicts.find_tensors(content)
    except ValueError as error:
        raise PublishedError(f"{where}: {error}") from error


def _require_uncompressed(path: str | Path) -> None:
    """Refuse an archive that holds more than its bytes: torch.save compresses nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > Path(path).stat().st_size:
            raise PublishedError(f"{path}: refused: expected an archive as torch.save writes it, got a compressed one")


def _require_plain(path: str | Path, name: str, tensor: Tensor) -> None:
    """Refuse tensors whose values are not all in the file, or not one by one."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise PublishedError(f"{path}: expected plain tensors, got '{name[:100]}', whose values are not in the file")


def complete(options: NetworkOptions, tensors: Mapping[str, Tensor]) -> NetworkOptions:
    """The options with every size that was not given taken from the tensors of a published checkpoint.

    Of tensors that should agree the majority counts, so that a single wrong one is found, not followed.
    """
    encoder: dict[str, int | bool] = {}
    numbers = [name.split("RRDB_trunk.")[1].split(".")[0] for name in tensors if "RRDB_trunk." in name]
    blocks = [int(number) for number in numbers if re.fullmatch(r"[0-9]{1,9}", number)]
    if blocks:
        # A forged number must not have more blocks built than there are tensors.
        encoder = {"nb": min(1 + max(blocks), len(tensors))}
        encoder |= _majority("nf", _lengths(tensors, "conv5.bias"))
        encoder |= _majority("gc", _lengths(tensors, "RDB1.conv1.bias"))
    hidden = _lengths(tensors, ".fFeatures.2.weight")
    mixing = [t.dim() == 2 for n, t in tensors.items() if n.endswith(".invconv.weight")]
    flow = _majority("hidden_channels", hidden) | _majority("permutation_train", mixing)
    return set_missing(options, encoder, flow)


def _lengths(tensors: Mapping[str, Tensor], ending: str) -> list[int]:
    return [t.shape[0] for n, t in tensors.items() if n.endswith(ending) and t.dim() > 0 and t.shape[0] > 0]


def _majority(key: str, values: Sequence[int | bool]) -> dict[str, int | bool]:
    return {key: Counter(values).most_common(1)[0][0]} if values else {}


def set_missing(
    options: NetworkOptions, encoder: Mapping[str, int | bool], flow: Mapping[str, int | bool]
) -> NetworkOptions:
    """The options with values of ``network_G`` and ``network_G.flow`` that were not given."""
    outer = {key: value for key, value in encoder.items() if key not in options.model_fields_set}
    inner = {key: value for key, value in flow.items() if key not in options.flow.model_fields_set}
    return options.model_copy(update={**outer, "flow": options.flow.model_copy(update=inner)})


def fill(network: nn.Module, tensors: Mapping[str, Tensor], *, encoder_suffices: bool = False) -> str:
    """Copy a published checkpoint into a flow or an RRDBNet and say what was filled: "network" or "encoder".

    With ``encoder_suffices`` an RRDB checkpoint does for a flow's encoder. PublishedError naming each tensor that is
    missing, extra or of another shape; the network is unchanged then.
    """
    _require_scale(network, tensors)
    whole = isinstance(network, RRDBNet) or any(name.startswith("flowUpsamplerNet.") for name in tensors)
    if not whole and not encoder_suffices:
        raise PublishedError("expected the checkpoint of a flow (flowUpsamplerNet.*), got that of an encoder alone")
    layout = layout_of(network) if whole else layouts.of_encoder(_flow(network))
    _require_fit(layout, tensors)
    own = network.state_dict()
    for name, entry in layout.items():
        for piece in entry.pieces:
            piece.inside(own[piece.name]).copy_(piece.outside(tensors[name]))
    network.train(network.training)  # nothing made of the weights before is kept
    for module in network.modules():
        if whole and isinstance(module, ActNorm):
            module.mark_initialized()
    dead = [name for name in tensors if name in layout and not layout[name].pieces]
    if dead:
        log.info("left out %d tensors that the published network never uses: %s", len(dead), ", ".join(dead))
    return "network" if whole else "encoder"


def layout_of(network: nn.Module) -> dict[str, Published]:
    """Layout of the published checkpoint of the same network."""
    if isinstance(network, RRDBNet):
        return layouts.of_rrdb(network)
    flow = _flow(network)
    elementwise = flow.levels[0].steps[0].coupling.elementwise
    for kind, family in _FAMILIES.items():
        if isinstance(elementwise, kind):
            return layouts.of_flow(flow, family)
    name = type(elementwise).__name__
    raise PublishedError(f"published checkpoints know affine, inverse_affine and rq_spline couplings, not {name}")


def write_back(network: nn.Module) -> dict[str, Tensor]:
    """State dict under published names and in the published layout; tensors that are never used are zero."""
    own, like, result = network.state_dict(), next(network.parameters()), {}
    for name, entry in layout_of(network).items():
        result[name] = like.detach().new_zeros(entry.shape)
        for piece in entry.pieces:
            piece.outside(result[name]).copy_(piece.inside(own[piece.name]))
    return result


def _flow(network: nn.Module) -> ConditionalFlow:
    if not isinstance(network, ConditionalFlow):
        raise PublishedError(f"published checkpoints hold flows or RRDB encoders, not a {type(network).__name__}")
    return network


def _require_scale(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an RRDB of another scale: a smaller one has all that a flow reads, and other features."""
    theirs = state_dicts.scale_of(tensors)
    if isinstance(network, RRDBNet):
        ours = 2 ** (len(network.encoder.up_convs) + len(network.up_convs))
    elif isinstance(network, ConditionalFlow) and isinstance(network.encoder, RRDBEncoder):
        ours = network.scale
    else:
        return
    if theirs is not None and theirs != ours:
        raise PublishedError(
            f"of another network: an RRDB of scale {theirs}, the options say scale {ours}; use weights of that scale, "
            "or correct scale"
        )


def _require_fit(layout: Mapping[str, Published], tensors: Mapping[str, Tensor]) -> None:
    live = {name: entry for name, entry in layout.items() if entry.pieces}
    problems = [f"missing: {name}, shape {entry.shape}" for name, entry in live.items() if name not in tensors]
    problems += [
        f"not in this network: {name}, shape {tuple(t.shape)}" for name, t in tensors.items() if name not in layout
    ]
    problems += [
        f"{name}: expected shape {entry.shape}, got {tuple(tensors[name].shape)}{_remedy(entry, tensors[name])}"
        for name, entry in layout.items()
        if name in tensors and tuple(tensors[name].shape) != entry.shape and not name.startswith(f"{layouts.UNUSED}.")
    ]
    if problems:
        lines = ["the checkpoint is of another network than the options describe", *shorten(problems, 10)]
        raise PublishedError("\n  ".join([*lines, *_counts(live, tensors)]))


def _remedy(entry: Published, tensor: Tensor) -> str:
    """The option that would fit, if one sets an axis that differs."""
    fits = {
        key: tensor.shape[axis]
        for axis, key in entry.axes
        if axis < tensor.dim() and tensor.shape[axis] != entry.shape[axis]
    }
    if fits:
        return "; " + ", ".join(f"{key}: {value} would fit" for key, value in fits.items())
    return "; no single option sets this size: it follows from the coupling, flow.L, flow.split and stackRRDB.blocks"


def _counts(live: Mapping[str, Published], tensors: Mapping[str, Tensor]) -> list[str]:
    """Options that count repeated parts, where the checkpoint has another number of them."""
    parts = {
        "network_G.nb (encoder blocks)": "RDB1.conv1.weight",
        "network_G.flow.K times L (full steps)": "fFeatures.0.weight",
        "network_G.flow.split (split priors)": ".conv.logs",
        "network_G.flow.permutation_train: false (fixed 1x1 convolutions)": ".invconv.weight_transpose",
    }
    lines = []
    for option, ending in parts.items():
        ours, theirs = (sum(name.endswith(ending) for name in names) for names in (live, tensors))
        if ours != theirs:
            lines.append(f"{option}: the options make {ours}, the checkpoint has {theirs}")
    return lines
