"""How a model is evaluated: which metrics, how far samples may go, what reports say of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

# What a reader of bits per dimension may not expect.
DENSITY = "of a density on [0, 1], so below 0 is usual; + 8 for 8-bit values"
NO_LIKELIHOOD = "not computed: the model has no likelihood"
_BITS = f"""\
- bits/dim: {{likelihood}}; −log₂ p/(3HW), images in [0, 1]:
  {DENSITY}."""


_RATES = """\
- %Inf: inputs with a pixel that is not finite in any sample, as published; %∞, %NaN: with an infinite one, with NaN.
- %PixelErr: inputs (image) or pixels (pixel) outside [-0.5, 1.5].
"""
_ALL = """\
- Samples that are not finite count: clamped to [0, 1], Inf to 1, -Inf and NaN to 0. finite: of finite samples alone.
"""


@dataclass(frozen=True)
class Protocol:
    """A model's evaluation, besides the options that ``val`` has for all models.

    Attributes:
        presets: What ``val.protocol`` may be.
        extent: Figure that says how far a sample goes, "max_residual" from its input or "max_abs" at all.
        adds: Names of metrics that are measured for models that ask for them alone.
        omits: Names of metrics that have no meaning here.
        averages: Measure the mean of the samples of a temperature, too, as an image of its own (scheme 2); the sample
            at temperature 0 is scheme 1.
        deterministic: One image per input, whatever temperature and seed: it is measured once, at temperature 0.
        input: What the input is called.
        texts: How figures are measured, by the name of the figure, where it differs from the metric's own text.
        notes: What a comparison says of its table; ``{lr_psnr}`` is filled in.
    """

    presets: tuple[str, ...] = ("robustness",)
    extent: str = "max_residual"
    adds: tuple[str, ...] = ()
    omits: tuple[str, ...] = ()
    averages: bool = False
    deterministic: bool = False
    input: str = "low-resolution input"
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""

    def n_samples(self, heat: float, n: int) -> int:
        """Samples per image at a temperature of which n are wanted: where means are measured, one at 0."""
        return 1 if self.deterministic or (self.averages and heat == 0) else n

    def temperatures(self, heats: Sequence[float]) -> Sequence[float]:
        """Temperatures that are measured of those that are wanted."""
        return (0.0,) if self.deterministic else heats

    def describe(self) -> dict[str, Any]:
        """What reports need of it, plain values."""
        return {key: value for key, value in asdict(self).items() if key not in ("adds", "omits", "texts")}

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for each value of ``root``, all options, that cannot go with this protocol."""
        val = root.val
        if val.protocol not in self.presets:
            yield "val.protocol", f"expected {' or '.join(self.presets)} with this model, got {val.protocol}"
        elif "lr_psnr" in self.omits and val.lr_psnr_reference is not None:
            yield (
                "val.lr_psnr_reference",
                f"expected none with protocol {val.protocol}: there is no LR-PSNR, remove it",
            )


SUPER_RESOLUTION = Protocol(
    presets=("robustness", "ntire", "srflow"),
    notes="""\
- Bold: best of its data set and temperature. τ –: one image per input, compared at all temperatures.
"""
    + _RATES
    + """\
- max residual: largest |sample − bicubic upsampling of the input|; images are in [0, 1].
- LR-PSNR, dB: mean over inputs of minimum, standard deviation and mean over the samples; {lr_psnr}.
"""
    + _ALL
    + _BITS.format(likelihood="of the unaltered ground truth given the input, altered or not"),
)
DETERMINISTIC = replace(
    SUPER_RESOLUTION,
    deterministic=True,
    texts={"bits_per_dim": NO_LIKELIHOOD, "nll_published": NO_LIKELIHOOD, "latents": "none"},
)
ENHANCEMENT = Protocol(
    presets=("llflow",),
    extent="max_abs",
    adds=("psnr_gtmean", "ssim_gtmean", "ssim_grey", "ssim_grey_gtmean", "lpips_gtmean"),
    omits=("lr_psnr", "psnr_y", "ssim_y"),
    averages=True,
    input="input",
    texts={
        "max_residual": "largest |sample - input|: large wherever light is added, of use to find explosions alone",
        "psnr": "RGB, uint8 (quantize); psnr_gtmean: at the ground truth's brightness",
        "ssim": "RGB mean, uint8 (quantize), Gaussian window 11, sigma 1.5, as scikit-image's",
        "schemes": "1: the sample at temperature 0; 2: the mean of the samples at a temperature, not finite if one is "
        "not",
        "bits_per_dim": "-log2 p(ground truth | input) / (3HW), ground truth in [0, 1], largest crop the flow takes",
        "latents": "of the ground truth; standard normal under the model",
    },
    notes="""\
- Bold: best of its data set and temperature. τ = 0: scheme 1; mean of n: scheme 2, the mean of n samples as one image.
"""
    + _RATES
    + """\
- Likewise of the mean. max |value|: of all samples; images are in [0, 1].
- PSNR in dB, SSIM: means over the samples, of RGB; grey: of 0.299 R + 0.587 G + 0.114 B. GT-mean: of the output
  times the mean grey of the ground truth over its own.
"""
    + _ALL
    + _BITS.format(likelihood="of the ground truth given the input, altered or not"),
)


def read(metrics: Mapping[str, Any]) -> Protocol:
    """The protocol of a metrics.json; that of older ones, which do not describe it, by the name of its preset."""
    described = metrics.get("evaluation")
    if isinstance(described, Mapping):
        known = {one.name for one in fields(Protocol)}
        values = {key: value for key, value in described.items() if key in known}
        return Protocol(**{**values, "presets": tuple(values.get("presets", ()))})
    preset = metrics["protocol"].get("protocol")
    return ENHANCEMENT if preset in ENHANCEMENT.presets else SUPER_RESOLUTION
