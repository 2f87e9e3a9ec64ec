"""Every option: key name (that of the SRFlow and BasicSR families), type, unit, default and meaning."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from robustflow.options.train import TrainOptions as TrainOptions
from robustflow.options.values import (
    DatasetKey,
    Device,
    Finite,
    FolderName,
    NonNegative,
    PathText,
    PerLevel,
    Positive,
    RunName,
    Temperatures,
    Width,
)
from robustflow.registry import DATASETS, DEGRADATIONS, ELEMENTWISE, ENCODERS, MODELS, Options

CouplingChoice = Annotated[SerializeAsAny[Options], BeforeValidator(ELEMENTWISE.parse)]
EncoderChoice = Annotated[SerializeAsAny[Options], BeforeValidator(ENCODERS.parse)]
ModelChoice = Annotated[SerializeAsAny[Options], BeforeValidator(MODELS.parse)]


class DegradationOptions(Options):
    """What all degradations share; each ``type`` adds its own keys."""

    type: str
    on: Literal["LR", "HR"] = Field(
        "LR",
        description="LR: the LR image, or the crop of it, as the network would see it; HR: the whole HR image, as if "
        "its file were so, and the LR image made from it.",
    )


DegradationChoice = Annotated[SerializeAsAny[DegradationOptions], BeforeValidator(DEGRADATIONS.parse)]


class DatasetOptions(Options):
    """What all datasets share; each ``mode`` adds its own keys."""

    mode: str
    name: FolderName | None = Field(None, description="Name in tables and folders; default: the key under `datasets`.")
    GT_size: Positive | None = Field(None, description="Side of the square HR crops, pixels; null: whole images.")
    batch_size: Positive = Field(16, description="Crops per iteration, of all processes (training only).")
    n_workers: Annotated[NonNegative, Field(le=1024)] = Field(
        0, description="Loader processes of each process, 0: none (training only)."
    )
    use_flip: bool = Field(False, description="Random horizontal flips (training only).")
    use_rot: bool = Field(False, description="Random rotations by multiples of 90 degrees (training only).")
    hr_shift: NonNegative = Field(
        0,
        description="Random shift N of the HR crop against its LR crop, HR pixels, -N to N down and right, at most the "
        "scale; for content transfer (SRFlow), not for faithful samples (training only).",
    )
    n_crops: Annotated[Positive, Field(le=1_000_000)] | None = Field(
        None,
        description="Validation and test: number of fixed GT_size crops, spread over the images; null: their centres.",
    )
    seed: NonNegative = Field(0, description="Seed of fixed crops and their noise (validation and tests).")
    downsampling: Literal["bicubic", "bilinear", "area", "lanczos"] = Field(
        "bicubic",
        description="Kernel that LR images are made with from HR ones, antialiased, as MATLAB's imresize; LR-PSNR "
        "downsamples samples and ground truth with it.",
    )
    degrade: tuple[DegradationChoice, ...] = Field(
        (),
        description="What images suffer, in this order, HR images first; the next four keys are short forms.",
    )
    enhance: Literal["published", "unit"] | bool = Field(
        False,
        description="Filter the HR images first: published kernel (sum 2; `true` means this) or unit sum.",
    )
    lr_gain: Annotated[Finite, Field(gt=0)] = Field(1.0, description="Factor on the LR image; not clipped.")
    lr_invert: bool = Field(False, description="Replace the LR image y by 1 - y.")
    lr_noise: Annotated[Finite, Field(ge=0)] = Field(
        0.0,
        description="Std of Gaussian noise added to the LR image, clipped to [0, 1] after; images in [0, 1].",
    )

    @property
    def altering_hr(self) -> str | None:
        """Key of the option that alters the HR images, if one does."""
        if self.enhance is not False:
            return "enhance"
        return "degrade" if any(entry.on == "HR" for entry in self.degrade) else None

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for each of `faults`."""
        key = next((key for key, dataset in root.datasets.items() if dataset is self), "*")
        for name, message in self.faults(key):
            yield f"datasets.{key}.{name}", message

    def faults(self, key: str) -> Iterator[tuple[str, str]]:
        """Yield (option, message) for what cannot go together in the data set of this key; a mode may add its own."""
        yield from ()


# Side of HR images whose size the options do not tell, pixels.
USUAL_SIDE = 256
TRAINING_ONLY = ("batch_size", "n_workers", "use_flip", "use_rot", "hr_shift")
EVALUATION_ONLY = ("n_crops", "seed")
SHORT_FORMS = ("enhance", "lr_gain", "lr_invert", "lr_noise")

DatasetChoice = Annotated[SerializeAsAny[DatasetOptions], BeforeValidator(DATASETS.parse)]


class SplitOptions(Options):
    """Factoring out half of the channels after a level, with a learned Gaussian prior."""

    enable: bool = Field(True, description="Split at all.")
    correct_splits: bool = Field(False, description="false: after levels 1..L-2 (published default); true: 1..L-1.")
    max_log_scale: Annotated[Finite, Field(gt=0)] | None = Field(
        None,
        description="Upper bound m of the prior's log-std (above 0: m tanh(log-std / m)), so that sampling scales by "
        "less than exp(m) whatever the input (robust+: not in the paper); null: unbounded, as published.",
    )
    soft: Annotated[Finite, Field(ge=1e-6, le=1e6)] | None = Field(
        None,
        description="B of a soft affine map in place of the prior's scale: exp(log-std) near the mean, slope 1 far "
        "beyond B, so that sampling adds at most B to a latent (not in the paper); null: scaled, as published.",
    )


class TapOptions(Options):
    """Encoder blocks whose outputs are features of every level."""

    blocks: tuple[NonNegative, ...] | None = Field(
        None, description="0-based block indices; null: 1, 8, 15, 22 for nb = 23, otherwise spread evenly."
    )


class FlowOptions(Options):
    """The flow; symbols as in SRFlow (Lugmayr et al., ECCV 2020) and, S, NCSR (Kim & Son, CVPRW 2021)."""

    K: Annotated[Positive, Field(le=1000)] = Field(16, description="Full flow steps per level.")
    L: Annotated[Positive, Field(le=16)] = Field(3, description="Levels; level l works at 1/2^l of the HR resolution.")
    S: PerLevel = Field(
        (0,),
        description="Steps per level, the last S[l] of K, with a noise coupling (NCSR); one number: all levels.",
    )
    coupling: CouplingChoice = Field("affine", validate_default=True, description="Elementwise map of the couplings.")
    hidden_channels: Width = Field(64, description="Width of the parameter networks.")
    permutation_train: bool = Field(True, description="true: learned 1x1 convs; false: fixed random orthogonal ones.")
    additionalFlowNoAffine: NonNegative = Field(2, description="Transition steps (ActNorm, 1x1 conv) per level.")
    split: SplitOptions = SplitOptions()
    stackRRDB: TapOptions = TapOptions()
    std_channels: Positive = Field(3, description="Channels of the noise map that noise couplings see.")
    projection_memory: Positive = Field(
        1024,
        description="Budget for a level's projected features, MiB; above it they are made in groups of steps.",
    )

    @property
    def n_splits(self) -> int:
        """Levels that split, the first ones."""
        return max(0, self.L - (1 if self.split.correct_splits else 2)) if self.split.enable else 0


class NetworkOptions(Options):
    """Encoder and flow."""

    encoder: EncoderChoice = Field("RRDB", validate_default=True, description="Feature extractor of the condition.")
    nf: Width = Field(64, description="Encoder channels.")
    nb: Annotated[Positive, Field(le=1000)] = Field(23, description="Encoder blocks.")
    gc: Width = Field(32, description="Growth channels inside a dense block.")
    train_RRDB: bool = Field(True, description="false: the encoder stays frozen.")
    train_RRDB_delay: Annotated[Finite, Field(ge=0, le=1)] = Field(
        0.0, description="Fraction of niter for which the encoder stays frozen."
    )
    flow: FlowOptions = Field(default_factory=FlowOptions)

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for sizes that cannot go together."""
        flow = self.flow
        if len(flow.S) not in (1, flow.L):
            yield "network_G.flow.S", f"expected one number or L = {flow.L} of them, got {len(flow.S)}"
        if max(flow.S) > flow.K:
            yield "network_G.flow.S", f"expected at most K = {flow.K} noise couplings per level, got {max(flow.S)}"
        taps = flow.stackRRDB.blocks
        if taps is not None and (not taps or max(taps) >= self.nb or len(set(taps)) != len(taps)):
            yield "network_G.flow.stackRRDB.blocks", f"expected distinct block indices below nb = {self.nb}"
        for key in ("max_log_scale", "soft"):
            if getattr(flow.split, key) is not None and not flow.n_splits:
                yield (
                    f"network_G.flow.split.{key}",
                    "expected a level that splits: there is none, so that it has no effect; remove it or see "
                    "split.enable, split.correct_splits and L",
                )


class PathOptions(Options):
    """Files and folders, relative to the working directory."""

    pretrain_model_G: PathText | None = Field(
        None, description="Training starts from these weights, of the whole model or the encoder: file or experiment."
    )
    model_path: PathText | None = Field(
        None, description="Weights to test, file or experiment; null: the newest of this name, else pretrain_model_G."
    )
    resume_state: PathText | None = Field(
        None, description="'auto' (newest checkpoint of this name), a .state file, or a folder with checkpoints."
    )
    experiments: PathText = Field("experiments", description="Folder of checkpoints and logs, one sub-folder per name.")
    results: PathText = Field("results", description="Folder of test results, one sub-folder per name.")


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
        "(robustness, ntire), floor and input (srflow). ntire also cuts samples and ground truth to multiples of 8 "
        "pixels before they are measured, and marks LR-PSNR below 45 dB. At scale 1 the model's own: no LR-PSNR; "
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
    crop_border: NonNegative = Field(
        0, description="HR pixels left out along the border in PSNR, SSIM and spectral distance."
    )
    save_images: bool = Field(True, description="Write samples, inputs and ground truth as PNG.")

    @property
    def rounding(self) -> Literal["round", "floor"]:
        """``quantize``, or what the protocol says."""
        return self.quantize or ("floor" if self.protocol == "srflow" else "round")

    @property
    def lr_reference(self) -> Literal["ground_truth", "input"]:
        """``lr_psnr_reference``, or what the protocol says."""
        return self.lr_psnr_reference or ("ground_truth" if self.protocol in ("robustness", "ntire") else "input")

    @property
    def cut_to(self) -> int:
        """Samples and ground truth are cut to multiples of this, HR pixels, before they are measured."""
        return 8 if self.protocol == "ntire" else 1

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for values that have no effect, or leave nothing to measure."""
        if self.tile is None and self.tile_overlap is not None:
            yield "val.tile_overlap", "expected val.tile beside it: without tiles it has no effect, remove it"
        sizes = {key: dataset.GT_size for key, dataset in root.datasets.items() if key != "train"}
        for key, size in sizes.items():
            if size is not None and size <= 2 * self.crop_border:
                message = f"expected less than half of datasets.{key}.GT_size = {size}, got {self.crop_border}"
                yield "val.crop_border", message


class LoggerOptions(Options):
    """Progress on screen, in the log file and in TensorBoard."""

    print_freq: Positive = Field(100, description="Iterations between log lines.")
    save_checkpoint_freq: Positive = Field(5_000, description="Iterations between checkpoints.")
    keep_last: Positive | None = Field(
        None,
        description="Newest checkpoints to keep, besides the best by validation bits per dimension; null: all.",
    )
    keep_every: Positive | None = Field(
        None, description="Checkpoints of multiples of this iteration stay, too; null: none for that."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for values that cannot go together."""
        every, save = self.keep_every, self.save_checkpoint_freq
        if every is not None and self.keep_last is None:
            yield "logger.keep_every", "expected logger.keep_last beside it: without it all are kept, remove it"
        elif every is not None and every % save != 0:
            yield "logger.keep_every", f"expected a multiple of logger.save_checkpoint_freq = {save}, got {every}"


class RunOptions(Options):
    """All options of one run."""

    name: RunName = Field(description="Names the folders in experiments/ and results/.")
    model: ModelChoice = Field(description="Problem and model; RRDB pretrains the encoder alone.")
    scale: Literal[1, 2, 4, 8, 16] = Field(
        4, description="Super-resolution factor; 1: input and output are of one size."
    )
    device: Device = Field(
        "auto",
        description="auto (CUDA if there is one), cpu, cuda or cuda:N; of several processes each takes its own GPU.",
    )
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        "auto",
        description="Arithmetic of encoder and parameter networks; the flow's variables and log-determinants stay "
        "float32. tf32: convolutions on CUDA round to ten bits of mantissa (on CPUs: fp32). auto: tf32 in training, "
        "fp32 in evaluation, since TF32 changes latents and samples by 1e-3 (fp32: 2e-6) and round trips by 7e-5, "
        "which the noise of training hides and a measurement should not contain.",
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        "auto",
        description="On a GPU, auto: capture training steps, and sampling where images of one size repeat, once as "
        "CUDA graphs and replay them, training with the convolution kernels that were fastest when tried, which may "
        "not be the same in the next run; off: launch each kernel anew, slower and repeatable. No effect on CPUs.",
    )
    plugins: tuple[str, ...] = Field((), description="Modules to import first; they register entries of their own.")
    datasets: dict[DatasetKey, DatasetChoice] = Field(
        {}, description="train, val, and any number whose name begins with test."
    )
    network_G: NetworkOptions = Field(default_factory=NetworkOptions)
    path: PathOptions = PathOptions()
    train: TrainOptions = TrainOptions()
    val: ValOptions = ValOptions()
    logger: LoggerOptions = LoggerOptions()

    @property
    def training_pixels(self) -> int:
        """HR pixels of all iterations of a training."""
        training = self.datasets["train"]
        return self.train.niter * training.batch_size * (training.GT_size or USUAL_SIDE) ** 2

    @property
    def kernel(self) -> Literal["bicubic", "bilinear", "area", "lanczos"]:
        """What the model's LR images are made with: `downsampling` of training, or of the first data set there is."""
        chosen = self.datasets.get("train", next(iter(self.datasets.values()), None))
        return "bicubic" if chosen is None else chosen.downsampling

    def layer_elements(self, *, testing: bool) -> int:
        """Elements of a hidden layer's activations in the finest level, of all images that are computed at once."""
        training, val = self.datasets.get("train"), self.val
        if testing or training is None:
            sides = [dataset.GT_size or USUAL_SIDE for key, dataset in self.datasets.items() if key.startswith("test")]
            images, side = min(val.n_sample, val.sample_batch), max(sides, default=USUAL_SIDE)
        else:
            images, side = self.train.micro_batch or training.batch_size, training.GT_size or USUAL_SIDE
        return images * (side // 2) ** 2 * self.network_G.flow.hidden_channels

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for values that are each well-typed but cannot go together."""
        multiple = max(2**self.network_G.flow.L, self.scale)
        yield from self.network_G.contradictions(self)
        for key, dataset in self.datasets.items():
            yield from _dataset_contradictions(key, dataset, self.scale, multiple)
            yield from dataset.contradictions(self)
        training, pieces = self.datasets.get("train"), self.train.micro_batch
        if training is not None and pieces is not None and pieces > training.batch_size:
            message = f"expected at most datasets.train.batch_size = {training.batch_size}, got {pieces}"
            yield "train.micro_batch", message
        for part in (self.train, self.val, self.logger, self.network_G.encoder, self.model):
            yield from part.contradictions(self)
        yield from MODELS.entries()[getattr(self.model, MODELS.key)].protocol.contradictions(self)


def _dataset_contradictions(key: str, dataset: DatasetOptions, scale: int, multiple: int) -> Iterator[tuple[str, str]]:
    size, path = dataset.GT_size, f"datasets.{key}"
    if size is not None and size % multiple != 0:
        yield f"{path}.GT_size", f"expected a multiple of {multiple} (2^L and scale), got {size}"
    if key == "train" and size is None:
        yield f"{path}.GT_size", f"expected a crop size for training, a multiple of {multiple}"
    if dataset.hr_shift > scale:
        yield f"{path}.hr_shift", f"expected at most the scale {scale} (one LR pixel), got {dataset.hr_shift}"
    if dataset.n_crops is not None and size is None:
        yield f"{path}.n_crops", "expected GT_size beside it: the side of the crops"
    for name in EVALUATION_ONLY if key == "train" else TRAINING_ONLY:
        if getattr(dataset, name) != DatasetOptions.model_fields[name].default:
            use = "validation and tests" if key == "train" else "training"
            yield f"{path}.{name}", f"expected in {use} only; it has no effect here, remove it"
    yield from _degradation_contradictions(path, dataset)


def _degradation_contradictions(path: str, dataset: DatasetOptions) -> Iterator[tuple[str, str]]:
    usual = DatasetOptions.model_fields
    short = [name for name in SHORT_FORMS if getattr(dataset, name) != usual[name].default]
    if dataset.degrade and short:
        yield (
            f"{path}.degrade",
            f"expected none beside {', '.join(short)}, short forms of it, in what order? Put all into the list, or set "
            f"{short[0]}: null",
        )
    if dataset.downsampling != "bicubic" and getattr(dataset, "dataroot_LQ", None) is not None:
        yield f"{path}.downsampling", "expected none beside dataroot_LQ: LR images are read, not made; remove one"
