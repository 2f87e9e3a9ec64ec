"""Models: one object each, an ``nn.Module`` that owns encoder and flow and knows images."""

from robustflow.models.architecture import Architecture, arguments_of
from robustflow.models.base import Draw, Likelihood, LossInputs, Model
from robustflow.models.bicubic import Bicubic
from robustflow.models.flow_model import FlowInputs, FlowModel, require_flow
from robustflow.models.low_light import LLFlow
from robustflow.models.rrdb import RRDB
from robustflow.models.super_resolution import FSNCSR, NCSR, SRFlow, SuperResolution
from robustflow.options.schema import RunOptions
from robustflow.registry import MODELS

__all__ = [
    "FSNCSR",
    "NCSR",
    "RRDB",
    "Architecture",
    "Bicubic",
    "Draw",
    "FlowInputs",
    "FlowModel",
    "LLFlow",
    "Likelihood",
    "LossInputs",
    "Model",
    "SRFlow",
    "SuperResolution",
    "build",
    "require_flow",
]


def build(options: RunOptions, checkpointing: str = "none") -> Model:
    """Build the untrained model that the options of a run describe, on the CPU.

    ``checkpointing``: what is recomputed in the backward pass, "none", "step" or "level".
    """
    model: Model = MODELS.build(
        options.model,
        scale=options.scale,
        precision=options.precision,
        checkpointing=checkpointing,
        cuda_graphs=options.cuda_graphs == "auto",
        **arguments_of(options.network_G),
    )
    return model
