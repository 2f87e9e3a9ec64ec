"""Networks to measure: the 4x networks of confs/ at full size, or tiny, all ways of one coupling with equal weights."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks import plain_maps
from benchmarks.plain import PlainFlow
from benchmarks.setting import Setting
from robustflow import models
from robustflow.bijections.base import Elementwise
from robustflow.bijections.elementwise import Affine, ExpAffine, InverseAffine, RationalQuadratic, SoftAffine
from robustflow.data.bicubic import downsample
from robustflow.data.sources.bundled import BundledSource
from robustflow.encoders.blocks import BlockEncoder
from robustflow.flows import ConditionalFlow
from robustflow.interop import published
from robustflow.models import FlowModel
from robustflow.options.load import load
from robustflow.options.schema import RunOptions
from robustflow.utils import precision

ROOT = Path(__file__).resolve().parents[1]
CONFS = {"affine": "fsncsr_4x_affine", "bounded": "fsncsr_4x_bounded", "rq": "fsncsr_4x_rq"}
COUPLINGS = ("affine", "rq")
# Measured as elementwise maps alone: those of networks, and others by their names in the registry.
MAPS = (*COUPLINGS, "soft_affine")
SCALE = 4
FULL = ("path.pretrain_model_G=null", "network_G.train_RRDB_delay=0")
TINY = (
    *("network_G.nb=2", "network_G.nf=16", "network_G.gc=8", "network_G.flow.stackRRDB.blocks=[0, 1]"),
    *("network_G.flow.K=2", "network_G.flow.S=[0, 2, 1]", "network_G.flow.hidden_channels=16"),
)
HEAD_STD = 0.01


@dataclass(frozen=True)
class Way:
    """One way of computing a network.

    Attributes:
        plain: The published way, not ours.
        keywords: Of how it is computed: "precision" and "checkpointing".
        tile: Side of tiles and overlap, LR pixels, in sampling; none by default.
        captured: As a CUDA graph.
    """

    plain: bool = False
    keywords: Mapping[str, str] = field(default_factory=dict)
    tile: tuple[int | None, int | None] = (None, None)
    captured: bool = False

    @property
    def precision(self) -> str:
        """As the option."""
        return self.keywords.get("precision", "fp32")


# The plain way rounds as torch does by default.
WAYS = {
    "plain": Way(plain=True, keywords={"precision": "tf32"}),
    "ours fp32": Way(),
    "ours bf16": Way(keywords={"precision": "bf16"}),
    "ours, checkpointing step": Way(keywords={"checkpointing": "step"}),
    "ours, checkpointing level": Way(keywords={"checkpointing": "level"}),
}
TRAINING_WAYS = tuple(WAYS)
WAYS["ours, tiles of 128, overlap 32"] = Way(tile=(128, 32))
WAYS["ours tf32"] = Way(keywords={"precision": "tf32"})
CAPTURED_WAYS = {
    f"ours {name} captured": Way(keywords={"precision": name}, captured=True) for name in ("tf32", "bf16", "fp32")
}
WAYS |= CAPTURED_WAYS
GPU_WAYS = ("plain", "ours fp32", "ours tf32", "ours bf16", *CAPTURED_WAYS)


@dataclass(frozen=True)
class Network:
    """A model, the opponent with its flow's weights if the way is the plain one, tiles and precision."""

    model: FlowModel
    plain: PlainFlow | None
    tile: tuple[int | None, int | None]
    precision: str

    @property
    def flow(self) -> ConditionalFlow:
        """The model's."""
        return self.model.flow


def options_of(coupling: str, tiny: bool) -> RunOptions:
    """Resolved options of a network; of couplings that have no file here, that of the affine one with the coupling."""
    other = () if coupling in CONFS else (f"network_G.flow.coupling={coupling}",)
    conf = CONFS.get(coupling, CONFS["affine"])
    return load(ROOT / "confs" / f"{conf}.yml", "|".join((*FULL, *other, *(TINY if tiny else ()))))


def untrained(coupling: str, way: str, tiny: bool) -> FlowModel:
    """The model with torch's global generator's weights."""
    options, keywords = options_of(coupling, tiny), WAYS[way].keywords
    options = options.model_copy(update={"precision": keywords.get("precision", "fp32")})
    model = cast(FlowModel, models.build(options, keywords.get("checkpointing", "none")))
    model.cuda_graphs = False  # captured ways are measured apart, see ``captured``
    return model


def images(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Photograph crops gt (batch, 3, 4·height, 4·width) and lr (batch, 3, height, width), in [0, 1]."""
    photograph, _ = BundledSource("test", SCALE).pair(0)
    crops = []
    for number in range(batch):
        tiled = photograph.roll((-97 * number, -61 * number), (1, 2))
        tiled = tiled.repeat(
            1, *(-(-SCALE * side // n) for side, n in zip((height, width), tiled.shape[1:], strict=True))
        )
        crops.append(tiled[:, : SCALE * height, : SCALE * width] / 255)
    gt = torch.stack(crops)
    return gt, downsample(gt, SCALE)


@functools.cache
def seeded_weights(coupling: str, tiny: bool, device: str = "cpu") -> Mapping[str, Tensor]:
    """Weights, float32, that make no layer trivial and no sample infinite; on the device that computes them.

    ActNorms are initialised by a photograph; then the zero-initialised convolutions get weights from
    N(0, HEAD_STD²), so that maps differ from the identity and elements lie inside and outside the spline's box.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = untrained(coupling, "ours fp32", tiny)
    model = model.to(device).train()
    gt, lr = (image.to(device) for image in images(1, 40, 40))
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad(), precision.using("fp32", training=True):
        model.loss(gt, lr, generator)
        for name, module in model.flow.named_modules():
            if name.endswith((".head", "split_prior.network")):
                for parameter in module.parameters():
                    parameter.normal_(0, HEAD_STD, generator=generator)
    return model.flow.state_dict()


def network(coupling: str, way: str, setting: Setting, stored: Path | None = None) -> Network:
    """Build a network on the device with the coupling's seeded weights, or those in the file ``stored``."""
    model = untrained(coupling, way, setting.tiny)
    if stored is None:
        model.flow.load_state_dict(seeded_weights(coupling, setting.tiny, setting.device))
    else:
        fill(model.flow, stored)
    return _in(way, model.to(setting.device))


def _in(way: str, model: FlowModel) -> Network:
    described = WAYS[way]
    return Network(model, plain_of(model.flow) if described.plain else None, described.tile, described.precision)


_PLAIN_MAPS: dict[type[Elementwise], Callable[[Any], plain_maps.PlainMap]] = {
    Affine: lambda of: plain_maps.Affine(of.eps),
    RationalQuadratic: lambda of: plain_maps.Spline(of.bounds, of.eps),
    ExpAffine: lambda of: plain_maps.ExpAffine(),
    InverseAffine: lambda of: plain_maps.InverseAffine(of.eps),
    SoftAffine: lambda of: plain_maps.SoftAffine(of.B, of.eps),
}


def plain_map(elementwise: Elementwise) -> plain_maps.PlainMap:
    """The same map in the published style."""
    if type(elementwise) not in _PLAIN_MAPS:
        expected = ", ".join(kind.__name__ for kind in _PLAIN_MAPS)
        raise TypeError(f"expected one of {expected}, got {type(elementwise).__name__}")
    return _PLAIN_MAPS[type(elementwise)](elementwise)


def plain_of(flow: ConditionalFlow) -> PlainFlow:
    """The opponent with copies of a flow's weights, leaves of autograd of the same type and on the same device."""
    levels = flow.levels
    split = levels[0].split_prior
    if split is not None and split.soft is not None:
        raise TypeError("expected split priors that scale, got soft ones, which the opponent does not know")
    return PlainFlow(
        {name: tensor.requires_grad_() for name, tensor in published.write_back(flow).items()},
        plain_map(levels[0].steps[0].coupling.elementwise),
        flow.scale,
        cast(BlockEncoder, flow.encoder).taps,
        [sum(step.noise_coupling is not None for step in level.steps) for level in levels],
        None if split is None else split.max_log_scale,
    )


def ways(coupling: str, names: Sequence[str], setting: Setting) -> dict[str, Network]:
    """Networks of several ways; those that are built alike share their weights, so that a GPU holds them once."""
    built: dict[object, Network] = {}
    found = {}
    for name in names:
        way = WAYS[name]
        alike = (way.precision == "bf16", way.keywords.get("checkpointing"))
        if alike not in built:
            built[alike] = network(coupling, name, setting)
        found[name] = _in(name, built[alike].model)
    return found


def store(coupling: str, tiny: bool, path: Path) -> None:
    """Write the seeded weights, one array after another."""
    with path.open("wb") as file:
        for tensor in seeded_weights(coupling, tiny).values():
            np.save(file, tensor.numpy())


def fill(flow: ConditionalFlow, path: Path) -> None:
    """Read what ``store`` wrote. One tensor at a time: a second copy of all weights would raise the peak of memory."""
    with path.open("rb") as file, torch.no_grad():
        for tensor in flow.state_dict().values():
            tensor.copy_(torch.from_numpy(np.load(file)))
