"""Options of sampling and of what is measured on samples."""

from typing import Literal

from pydantic import Field

from robustflow.options.values import NonNegative, Positive, Temperatures
from robustflow.registry import Options


class ValOptions(Options):
    """Sampling, in validation and in tests."""

    heats: Temperatures = Field((0.9,), description="Temperatures tau.")
    n_sample: Positive = Field(10, description="Samples per image and temperature.")
    sample_batch: Positive = Field(10, description="Samples computed at once (memory).")
    tile: Positive | None = Field(
        None,
        description="Side of the tiles that a large image is sampled in, LR pixels; less memory; null: the whole image "
        "at once. Bits per dimension of a ground truth are always computed at once.",
    )
    tile_overlap: NonNegative | None = Field(
        None,
        description="LR pixels around each tile; smaller is faster and leaves seams; null: the receptive field "
        "(hundreds in full-size networks), so that tiling changes nothing but the last digits.",
    )
    seed: NonNegative = Field(0, description="Seed of the latents, with image name and sample index.")
    protocol: str = Field(
        "robustness",
        description="What `quantize` and `lr_psnr_reference` are where they are null: round and ground_truth "
        "(robustness), round and input (ntire), floor and input (srflow). At scale 1 the model's own: no LR-PSNR; "
        "figures at the ground truth's brightness, too, and of the mean of the samples; one sample at temperature 0.",
    )
    quantize: Literal["round", "floor"] | None = Field(
        None, description="How samples become 8-bit images; floor is what the published code does; null: see protocol."
    )
    lr_psnr_reference: Literal["ground_truth", "input"] | None = Field(
        None,
        description="LR-PSNR against the downsampled ground truth (the input where that was altered) or always "
        "against the input; null: see protocol. Both are in metrics.csv.",
    )
    crop_border: NonNegative = Field(0, description="HR pixels left out along the border in PSNR and SSIM.")
    save_images: bool = Field(True, description="Write samples, inputs and ground truth as PNG.")

    @property
    def rounding(self) -> Literal["round", "floor"]:
        """``quantize``, or what the protocol says."""
        return self.quantize or ("floor" if self.protocol == "srflow" else "round")

    @property
    def lr_reference(self) -> Literal["ground_truth", "input"]:
        """``lr_psnr_reference``, or what the protocol says."""
        return self.lr_psnr_reference or ("ground_truth" if self.protocol == "robustness" else "input")
