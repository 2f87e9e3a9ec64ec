"""From options to a conditional flow: the only place of this package that sees options."""

import torch

from robustflow import encoders
from robustflow.bijections.actnorm import ActNorm
from robustflow.bijections.base import Elementwise
from robustflow.bijections.coupling import Coupling
from robustflow.bijections.injector import Injector
from robustflow.bijections.networks import ConvNetwork
from robustflow.bijections.permutation import FixedOrthogonal, InvertibleConv, Permutation
from robustflow.encoders.base import Encoder
from robustflow.flows.conditional_flow import ConditionalFlow
from robustflow.flows.level import FlowLevel
from robustflow.flows.prior import SplitPrior
from robustflow.flows.projection import FeatureProjection
from robustflow.flows.step import FlowStep, TransitionStep
from robustflow.nn.convolutions import COMPUTE_DTYPES
from robustflow.options.schema import FlowOptions, NetworkOptions
from robustflow.registry import ELEMENTWISE


def build(
    options: NetworkOptions,
    scale: int,
    image_channels: int = 3,
    *,
    precision: str = "fp32",
    checkpointing: str = "none",
) -> ConditionalFlow:
    """Build encoder and flow for super-resolution by ``scale`` (1: condition and data of one size).

    ``precision`` and ``checkpointing`` are the options of these names: how it is computed, not what.
    """
    flow = options.flow
    encoder = encoders.build(options, scale, flow.L, precision=precision, checkpointing=checkpointing)
    levels, channels = [], image_channels
    for number in range(flow.L):
        channels *= 4
        levels.append(_level(flow, encoder, number, channels))
        if number < flow.n_splits:
            channels -= channels // 2
    network = ConditionalFlow(encoder, levels, scale, image_channels, flow.projection_memory * 2**20)
    _set_up_computation(network, precision, checkpointing)
    # As convolutions want their kernels: they would be converted at each call otherwise.
    return network.to(memory_format=torch.channels_last)


def _set_up_computation(network: ConditionalFlow, precision: str, checkpointing: str) -> None:
    network.checkpoint_levels = checkpointing == "level"
    for level in network.levels:
        level.checkpoint_steps = checkpointing == "step"
        if checkpointing != "none":
            # A group's gradients exist at the same time in the backward pass.
            level.steps_at_once = 4
    for module in network.modules():
        if isinstance(module, ConvNetwork):
            module.compute_dtype = COMPUTE_DTYPES[precision]


def _permutation(flow: FlowOptions, channels: int) -> Permutation:
    return InvertibleConv(channels) if flow.permutation_train else FixedOrthogonal(channels)


def _level(flow: FlowOptions, encoder: Encoder, number: int, channels: int) -> FlowLevel:
    n_noisy = flow.S[number if len(flow.S) > 1 else 0]

    def projection() -> FeatureProjection:
        return FeatureProjection(flow.K, flow.hidden_channels, encoder.native_channels, encoder.tap_channels)

    transitions = [
        TransitionStep(ActNorm(channels), _permutation(flow, channels)) for _ in range(flow.additionalFlowNoAffine)
    ]
    return FlowLevel(
        transitions,
        [_step(flow, channels, noisy=index >= flow.K - n_noisy) for index in range(flow.K)],
        injector_projection=projection(),
        coupling_projection=projection(),
        split_prior=SplitPrior(channels, flow.split.max_log_scale, flow.split.soft) if number < flow.n_splits else None,
        noise_channels=flow.std_channels,
    )


def _step(flow: FlowOptions, channels: int, noisy: bool) -> FlowStep:
    kept = channels // 2

    def coupling() -> Coupling:
        elementwise: Elementwise = ELEMENTWISE.build(flow.coupling)
        n_parameters = elementwise.num_params * (channels - kept)
        return Coupling(elementwise, ConvNetwork(kept, flow.hidden_channels, n_parameters), kept)

    elementwise: Elementwise = ELEMENTWISE.build(flow.coupling)
    injector_network = ConvNetwork(0, flow.hidden_channels, elementwise.num_params * channels)
    return FlowStep(
        ActNorm(channels),
        _permutation(flow, channels),
        Injector(elementwise, injector_network),
        coupling(),
        coupling() if noisy else None,
    )
