"""State dicts of published networks in the forms in which they are found, brought to their published names.

Trainers put them into dictionaries of their own, beside counters and optimizers, and before each name what holds the
network. An RRDB has three sets of names: the published ones, those of the first ESRGAN, and those of BasicSR.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# What holds a network among other things: the first one that is there counts, so an average before what it is of.
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "netG", "net_g", "generator", "network")
_GENERATORS = ("netG", "net_g", "generator")  # beside a discriminator of the same file
_PARTS = frozenset({"flowUpsamplerNet", "RRDB_trunk", "body"})  # of networks: no prefixes
_DEEPEST = 5
_BASICSR = (
    (r"body\.(\d+)\.rdb(\d)\.", r"RRDB_trunk.\1.RDB\2."),
    (r"conv_body\.", "trunk_conv."),
    (r"conv_up(\d)\.", r"upconv\1."),
    (r"conv_hr\.", "HRconv."),
)
_ESRGAN = (
    (r"1\.sub\.(\d+)\.(RDB\d\.conv\d)\.0\.", r"RRDB_trunk.\1.\2."),
    (r"1\.sub\.\d+\.(?=weight|bias)", "trunk_conv."),
)


def find_tensors(content: Any) -> tuple[dict[str, Tensor], bool]:
    """Tensors of a state dict, found where they are held, by published names, and whether they had other names.

    ValueError if there are none.
    """
    tensors = _strip_prefixes(_unwrap(content))
    renamed = _rename_esrgan(tensors) if "1.sub.0.RDB1.conv1.0.weight" in tensors else _rename(tensors, _BASICSR)
    return renamed, renamed.keys() != tensors.keys()


def are_published(tensors: Mapping[str, Tensor]) -> bool:
    """Whether names are those of a published flow or encoder."""
    return any(re.match(r"(RRDB\.)?(conv_first\.|RRDB_trunk\.)|flowUpsamplerNet\.", name) for name in tensors)


def scale_of(tensors: Mapping[str, Tensor]) -> int | None:
    """Factor that the image head of an RRDB upsamples by, alone or in a flow; None without that head."""
    names = {name.removeprefix("RRDB."): tensor for name, tensor in tensors.items()}
    n_up = sum(re.fullmatch(r"upconv\d+\.weight", name) is not None for name in names)
    if "conv_last.weight" not in names or "downconv1.weight" in names:
        return None
    first = names.get("conv_first.weight")
    # BasicSR's of scales 2 and 1 read the image's pixels in blocks of 2x2 or 4x4 as channels.
    blocks = {12: 2, 48: 4}.get(first.shape[1], 1) if first is not None and first.dim() > 1 else 1
    return int(2**n_up // blocks)


def _unwrap(content: Any) -> dict[str, Tensor]:
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        holders = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        # Counters among them are no weights.
        tensors = {str(name): part for name, part in content.items() if isinstance(part, Tensor) and part.dim() > 0}
        if not holders and tensors:
            return tensors
        content = next(iter(holders or (part for part in content.values() if isinstance(part, Mapping))), None)
    found = "nothing of the kind" if content is None else type(content).__name__
    raise ValueError(f"expected a state dict, tensors by name, got {found}")


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names from where they begin to differ, if that is not inside the network; a generator's alone if there is one."""
    for prefix in _GENERATORS:
        of_generator = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
        tensors = of_generator or tensors
    while True:
        heads = {name.split(".", 1)[0] for name in tensors}
        if len(heads) > 1 or heads & _PARTS or any(name.count(".") < 2 for name in tensors):
            return tensors
        tensors = {name.split(".", 1)[1]: tensor for name, tensor in tensors.items()}


def _rename(tensors: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        for old, new in rules:
            name = re.sub(rf"^{old}", new, name)
        found[name] = tensor
    return found


def _rename_esrgan(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of the first ESRGAN: numbers in a sequence whose other members, upsampling and LeakyReLU, own nothing."""
    numbers = sorted({int(name.split(".")[0]) for name in tensors if re.fullmatch(r"\d{1,3}\.(weight|bias)", name)})
    names = ["conv_first", *(f"upconv{k}" for k in range(1, len(numbers) - 2)), "HRconv", "conv_last"]
    layers = dict(zip(numbers, names, strict=False)) if len(numbers) >= 3 else {}
    return _rename(tensors, (*_ESRGAN, *((rf"{number}\.", f"{name}.") for number, name in layers.items())))
