"""Where each tensor of a published checkpoint lives in our networks: one description, for loading and writing back.

A published tensor may be split here (first convolutions into the part that reads the flow's variables and the part
that reads the features), and heads are interleaved there (parameter index fastest) and grouped here (slowest). A
``Piece`` names two views of equal shape, one into our tensor and one into theirs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from robustflow.bijections.networks import ConvNetwork, ZeroConv
from robustflow.bijections.permutation import FixedOrthogonal
from robustflow.encoders.low_light import LowLightEncoder
from robustflow.encoders.rrdb import RRDBEncoder, RRDBNet
from robustflow.flows.conditional_flow import ConditionalFlow
from robustflow.flows.level import FlowLevel

View = Callable[[Tensor], Tensor]
Entries = Iterator[tuple[str, "Published"]]

UNUSED = "flowUpsamplerNet.f.0"


def _whole(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Piece:
    """A part of a published tensor and its place in ours: ``inside(ours)`` and ``outside(theirs)`` are the same."""

    name: str
    inside: View = _whole
    outside: View = _whole


@dataclass(frozen=True)
class Published:
    """A tensor of a published checkpoint.

    Attributes:
        shape: Its shape there.
        pieces: Where its values are here; none for tensors that the published network never uses.
        axes: For an axis whose length is an option by itself, that option's key.
    """

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...] = ()
    axes: tuple[tuple[int, str], ...] = ()


NF, GC, HIDDEN = "network_G.nf", "network_G.gc", "network_G.flow.CondAffineSeparatedAndCond.hidden_channels"


# Names that differ between the published couplings: the branch of a step, and what follows ``f`` in it.
Family = tuple[str, str]
AFFINE, SPLINE, INVERSE_AFFINE = ("affine", "Affine"), ("rqspline", "RQspline"), ("affinereparam", "Affine")


def of_flow(flow: ConditionalFlow, family: Family) -> dict[str, Published]:
    """Layout of a published flow with the sizes of ``flow``."""
    layout = {f"RRDB.{name}": entry for name, entry in of_encoder(flow).items()}
    layout |= dict(_unused_features(flow))
    noise = [level.noise_projection for level in flow.levels if level.noise_projection is not None]
    noise_channels, (branch, suffix) = noise[0].shape[1] if noise else 0, family
    number = 0  # of the published layer; squeezes count and own nothing
    for index, level in enumerate(flow.levels):
        ours, number = f"levels.{index}.", number + 1
        for k, transition in enumerate(level.transitions):
            layout |= dict(_mixing(transition, f"{ours}transitions.{k}.", _layer(number)))
            number += 1
        for k, step in enumerate(level.steps):
            theirs = _layer(number)
            layout |= dict(_mixing(step, f"{ours}steps.{k}.", theirs))
            layout |= dict(_couplings(level, k, ours, f"{theirs}{branch}.", suffix, noise_channels))
            number += 1
        if level.split_prior is not None:
            layout |= dict(_head(level.split_prior.network, f"{ours}split_prior.network.", f"{_layer(number)}conv.", 2))
            number += 1
    return layout


def of_encoder(flow: ConditionalFlow) -> dict[str, Published]:
    """Layout of a published encoder's checkpoint, its image head left out, read into the encoder of a flow."""
    encoder = flow.encoder
    if isinstance(encoder, RRDBEncoder):
        return dict(_encoder(encoder)) | dict(_unused_head(encoder, flow.scale))
    if isinstance(encoder, LowLightEncoder):
        return dict(_low_light(encoder))
    raise ValueError(f"expected a flow with the encoder RRDB or low_light, got {type(encoder).__name__}")


def _unused_features(flow: ConditionalFlow) -> Entries:
    """A feature convolution that flows carry and never run: 96 channels with RRDB."""
    encoder = flow.encoder
    out, features = 96, encoder.native_channels + encoder.tap_channels
    if isinstance(encoder, LowLightEncoder):
        # The same for every width nf.
        out, features = 384, 64 * (1 + len(encoder.taps))
    yield from _unused(UNUSED, (out, features, 3, 3))


def of_rrdb(network: RRDBNet) -> dict[str, Published]:
    """Layout of a published RRDB checkpoint, image head included."""
    layout = dict(_encoder(network.encoder))
    n_own = len(network.encoder.up_convs)
    heads = {f"upconv{n_own + k + 1}": f"up_convs.{k}." for k in range(len(network.up_convs))}
    heads |= {"HRconv": "conv_hr.", "conv_last": "conv_last."}
    for theirs, ours in heads.items():
        layout |= dict(_conv(network.get_submodule(ours.rstrip(".")), ours, theirs, (NF, NF)))
    return layout


def _layer(number: int) -> str:
    return f"flowUpsamplerNet.layers.{number}."


def _conv(module: nn.Module, ours: str, theirs: str, options: tuple[str, str]) -> Entries:
    """A convolution with bias; ``options``: keys that set its output and input channels, "" where none does alone."""
    axes = tuple((axis, key) for axis, key in enumerate(options) if key)
    weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
    yield f"{theirs}.weight", Published(tuple(weight.shape), (Piece(f"{ours}weight"),), axes)
    yield f"{theirs}.bias", Published(tuple(bias.shape), (Piece(f"{ours}bias"),), axes[:1] if options[0] else ())


def _encoder(encoder: RRDBEncoder) -> Entries:
    yield from _trunk(encoder)
    for k, conv in enumerate(encoder.up_convs):
        yield from _conv(conv, f"encoder.up_convs.{k}.", f"upconv{k + 1}", (NF, NF))


def _low_light(encoder: LowLightEncoder) -> Entries:
    yield from _trunk(encoder)
    yield from _conv(encoder.conv_second, "encoder.conv_second.", "conv_second", (NF, NF))
    for k, conv in enumerate(encoder.down_convs):
        yield from _conv(conv, f"encoder.down_convs.{k}.", f"downconv{k + 1}", (NF, NF))
    yield from _conv(encoder.color_head, "encoder.color_head.", "fine_tune_color_map.0", ("", NF))
    # Layers that the published encoder carries and never runs.
    nf = encoder.native_channels
    missing = range(len(encoder.down_convs) + 1, 4)
    kernels = {**{f"downconv{k}": (nf, nf, 3, 3) for k in missing}, "HRconv": (nf, nf, 3, 3)}
    for name, shape in {**kernels, "conv_last": (3, nf, 3, 3), "awb_para": (3, nf)}.items():
        yield from _unused(name, shape)


def _trunk(encoder: RRDBEncoder | LowLightEncoder) -> Entries:
    yield from _conv(encoder.conv_first, "encoder.conv_first.", "conv_first", (NF, ""))
    for b, block in enumerate(encoder.blocks):
        for d, dense in enumerate(block.children()):
            for c, conv in enumerate(dense.get_submodule("convs").children()):
                theirs = f"RRDB_trunk.{b}.RDB{d + 1}.conv{c + 1}"
                options = (NF if c == 4 else GC, NF if c == 0 else "")
                yield from _conv(conv, f"encoder.blocks.{b}.{d}.convs.{c}.", theirs, options)
    yield from _conv(encoder.trunk_conv, "encoder.trunk_conv.", "trunk_conv", (NF, NF))


def _unused_head(encoder: RRDBEncoder, scale: int) -> Entries:
    """The image head of the encoder, which flows carry and never run."""
    nf = encoder.native_channels
    missing = range(len(encoder.up_convs) + 1, scale.bit_length())
    for name, out in {**{f"upconv{k}": nf for k in missing}, "HRconv": nf, "conv_last": 3}.items():
        yield from _unused(name, (out, nf, 3, 3))


def _unused(name: str, shape: tuple[int, ...]) -> Entries:
    """A layer that is there and does nothing."""
    yield f"{name}.weight", Published(shape)
    yield f"{name}.bias", Published(shape[:1])


def _actnorm(channels: int, ours: str, theirs: str, axes: tuple[tuple[int, str], ...] = ()) -> Entries:
    for name in ("bias", "logs"):
        yield f"{theirs}{name}", Published((1, channels, 1, 1), (Piece(f"{ours}{name}", outside=Tensor.flatten),), axes)


def _mixing(step: nn.Module, ours: str, theirs: str) -> Entries:
    """ActNorm and 1×1 convolution of a step."""
    permutation = step.get_submodule("permutation")
    name, channels = f"{ours}permutation.weight", step.get_parameter("actnorm.bias").shape[0]
    yield from _actnorm(channels, f"{ours}actnorm.", f"{theirs}actnorm.")
    if not isinstance(permutation, FixedOrthogonal):
        yield f"{theirs}invconv.weight", Published((channels, channels), (Piece(name),))
        return
    shape = (channels, channels, 1, 1)
    yield f"{theirs}invconv.weight", Published(shape, (Piece(name, outside=lambda t: t[:, :, 0, 0]),))
    transposed = Piece(name, outside=lambda t: t[:, :, 0, 0].T)
    yield f"{theirs}invconv.weight_transpose", Published(shape, (transposed,))


def _couplings(level: FlowLevel, k: int, ours: str, theirs: str, suffix: str, noise_channels: int) -> Entries:
    """The parameter networks of step k: injector, noise coupling (in NCSR files even where unused), self coupling.

    ``ours`` and ``theirs``: names up to the step's number and to the network's own; noise_channels: of the flow, or 0.
    """
    step = level.steps[k]
    num_params = step.coupling.elementwise.num_params
    own = f"{theirs}f{suffix}"

    def network(layer: nn.Module, name: str, theirs: str, rest: list[Piece], n_rest: int) -> Entries:
        inside, own_network = f"{ours}steps.{k}.{name}.network.", layer.get_submodule("network")
        assert isinstance(own_network, ConvNetwork), "as flows are built"
        return _parameter_network(own_network, inside, theirs, rest, n_rest, num_params)

    n_features = level.injector_projection.native.shape[1] + level.injector_projection.taps.shape[1]
    injector = _feature_pieces(level, f"{ours}injector_projection.", 0, k)
    yield from network(step.injector, "injector", f"{theirs}fFeatures.", injector, n_features)
    kept = step.coupling.kept_channels
    coupling = _feature_pieces(level, f"{ours}coupling_projection.", kept, k)
    yield from network(step.coupling, "coupling", f"{own}.", coupling, n_features)
    if step.noise_coupling is not None:
        rows = _rows(level, k - level.first_noisy)
        noise = [Piece(f"{ours}noise_projection", rows, lambda t: t[:, kept:])]
        yield from network(step.noise_coupling, "noise_coupling", f"{own}_std.", noise, noise_channels)
    elif noise_channels > 0:
        for name, entry in network(step.coupling, "", f"{own}_std.", [], noise_channels):
            yield name, Published(entry.shape)


def _rows(level: FlowLevel, k: int) -> View:
    hidden = level.injector_projection.hidden_channels
    return lambda tensor: tensor[k * hidden : (k + 1) * hidden]


def _feature_pieces(level: FlowLevel, ours: str, first: int, k: int) -> list[Piece]:
    """Parts of a first convolution that read the features, from input channel ``first`` on: native ones, then taps."""
    middle = first + level.injector_projection.native.shape[1]
    return [
        Piece(f"{ours}native", _rows(level, k), lambda t: t[:, first:middle]),
        Piece(f"{ours}taps", _rows(level, k), lambda t: t[:, middle:]),
    ]


def _parameter_network(
    network: ConvNetwork, ours: str, theirs: str, rest: list[Piece], n_rest: int, num_params: int
) -> Entries:
    """A parameter network whose first convolution reads n_rest channels after x_a; ``rest`` says where that part is."""
    hidden = network.conv_mid.shape[0]
    n_own = 0 if network.conv_in is None else network.conv_in.shape[1]
    own = [] if network.conv_in is None else [Piece(f"{ours}conv_in", outside=lambda t: t[:, :n_own])]
    wide = ((0, HIDDEN),)
    yield f"{theirs}0.weight", Published((hidden, n_own + n_rest, 3, 3), (*own, *rest), wide)
    yield from _actnorm(hidden, f"{ours}norm_in.", f"{theirs}0.actnorm.", ((1, HIDDEN),))
    yield f"{theirs}2.weight", Published((hidden, hidden, 1, 1), (Piece(f"{ours}conv_mid"),), (*wide, (1, HIDDEN)))
    yield from _actnorm(hidden, f"{ours}norm_mid.", f"{theirs}2.actnorm.", ((1, HIDDEN),))
    yield from _head(network.head, f"{ours}head.", f"{theirs}4.", num_params, ((1, HIDDEN),))


def _head(conv: ZeroConv, ours: str, theirs: str, num_params: int, axes: tuple[tuple[int, str], ...] = ()) -> Entries:
    """A zero-initialised convolution with interleaved output: channel num_params·c + j is parameter j of channel c."""

    def group(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (num_params, -1))

    def interleave(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (-1, num_params)).transpose(0, 1)

    out = conv.weight.shape[0]
    yield f"{theirs}weight", Published(tuple(conv.weight.shape), (Piece(f"{ours}weight", group, interleave),), axes)
    yield f"{theirs}bias", Published((out,), (Piece(f"{ours}bias", group, interleave),))
    logs = Piece(f"{ours}logs", group, lambda t: interleave(t[:, 0, 0]))
    yield f"{theirs}logs", Published((out, 1, 1), (logs,))
