"""Encoders: feature extractors of the condition."""

from robustflow.encoders.base import Encoder, FeaturePyramid
from robustflow.encoders.low_light import LowLightEncoder
from robustflow.encoders.rrdb import RRDBEncoder, RRDBNet
from robustflow.nn.convolutions import COMPUTE_DTYPES
from robustflow.options.schema import NetworkOptions
from robustflow.registry import ENCODERS

__all__ = ["Encoder", "FeaturePyramid", "LowLightEncoder", "RRDBEncoder", "RRDBNet", "build"]


def build(
    options: NetworkOptions, scale: int, n_levels: int, *, precision: str = "fp32", checkpointing: str = "none"
) -> Encoder:
    """Build the encoder that the options describe, for a flow of ``n_levels`` levels.

    ValueError for a precision or checkpointing that there is not.
    """
    for name, value, known in (
        ("precision", precision, COMPUTE_DTYPES),
        ("checkpointing", checkpointing, ("none", "step", "level")),
    ):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    encoder: Encoder = ENCODERS.build(
        options.encoder,
        scale=scale,
        n_levels=n_levels,
        channels=options.nf,
        n_blocks=options.nb,
        growth=options.gc,
        taps=options.flow.stackRRDB.blocks,
    )
    encoder.compute_dtype = COMPUTE_DTYPES[precision]
    encoder.checkpointing = checkpointing != "none"
    return encoder
