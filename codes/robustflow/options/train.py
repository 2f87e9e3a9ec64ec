"""Options of training: the learning rate's course, Adam, failures, memory."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from robustflow.options.values import Finite, NonNegative, Positive, RelativeSteps
from robustflow.registry import Options

Rate = Annotated[Finite, Field(gt=0)]


class TrainOptions(Options):
    """Optimisation."""

    lr_G: Rate = Field(2e-4, description="Adam's learning rate.")
    lr_scheme: Literal["MultiStepLR", "CosineAnnealingRestartLR"] = Field(
        "MultiStepLR",
        description="MultiStepLR: lr_steps_rel and lr_gamma count; CosineAnnealingRestartLR (BasicSR): T_period, "
        "restart_weights and eta_min: half a cosine down in each period.",
    )
    lr_steps_rel: RelativeSteps = Field(
        (0.5, 0.75, 0.9, 0.95),
        description="Fractions of niter at which the learning rate is multiplied by lr_gamma.",
    )
    lr_gamma: Annotated[Finite, Field(gt=0, le=1)] = Field(0.5, description="Factor at each of lr_steps_rel.")
    T_period: Annotated[tuple[Positive, ...], Field(min_length=1)] | None = Field(
        None, description="Iterations of each cosine period, together at least niter; null: one of niter."
    )
    restart_weights: tuple[Rate, ...] | None = Field(
        None, description="Factor on the learning rate in each of T_period; null: 1 in all."
    )
    eta_min: Annotated[Finite, Field(ge=0)] = Field(0.0, description="Learning rate at the end of a cosine period.")
    warmup_iter: NonNegative = Field(0, description="Iterations of linear warm-up of the learning rate.")
    niter: Positive = Field(180_000, description="Iterations; one optimizer update each.")
    beta1: Annotated[Finite, Field(ge=0, lt=1)] = Field(0.9, description="Adam's first-moment decay.")
    beta2: Annotated[Finite, Field(ge=0, lt=1)] = Field(0.999, description="Adam's second-moment decay.")
    val_freq: Positive = Field(5_000, description="Iterations between validations.")
    manual_seed: NonNegative = Field(0, description="Seed of initialisation, data order, crops and training noise.")
    max_grad_norm: Annotated[Finite, Field(gt=0)] | None = Field(None, description="Clip the gradient's L2 norm.")
    non_finite: Literal["raise", "skip", "rollback"] = Field(
        "raise",
        description="When loss, gradients or most samples of a validation are not finite: end the run; leave the "
        "update out and go on; or go back to the weights of the newest checkpoint and on with the next data.",
    )
    non_finite_budget: Positive = Field(
        10, description="Such events that a run may have, resumed parts included, before it ends (skip, rollback)."
    )
    ema: Annotated[Finite, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Decay of an exponential moving average of the weights, which validation and tests then use; null: "
        "none.",
    )
    ood_patches: NonNegative = Field(
        1000,
        description="Training patches that the out-of-distribution score is fitted on when training ends; 0: none.",
    )
    ood_covariance: Literal["shrunk", "empirical"] = Field(
        "shrunk",
        description="Covariance of that fit: shrunk as Ledoit and Wolf (2004) say, or empirical, which takes more "
        "patches than 10/9 of the encoder's features.",
    )
    micro_batch: Positive | None = Field(
        None,
        description="Crops computed at once; the gradients of a batch are accumulated over its pieces (memory, not "
        "results, but for ActNorm, which the first piece alone initialises); null: the whole batch.",
    )
    checkpointing: Literal["none", "step", "level"] = Field(
        "none",
        description="Recompute activations in the backward pass instead of keeping them: of each flow step and encoder "
        "block, or of each level (least memory).",
    )

    @property
    def periods(self) -> tuple[int, ...]:
        """``T_period``, or what stands for it."""
        return (self.niter,) if self.T_period is None else self.T_period

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for values that have no effect, or cannot go together."""
        if (
            self.non_finite == "raise"
            and self.non_finite_budget != TrainOptions.model_fields["non_finite_budget"].default
        ):
            message = "expected train.non_finite: skip or rollback beside it; it has no effect with raise, remove it"
            yield "train.non_finite_budget", message
        if 0 < self.ood_patches < 10:
            yield "train.ood_patches", f"expected 0 or at least 10, got {self.ood_patches}"
        yield from self._schedule_contradictions()

    def _schedule_contradictions(self) -> Iterator[tuple[str, str]]:
        if self.lr_scheme != "CosineAnnealingRestartLR":
            for key in ("T_period", "restart_weights", "eta_min"):
                if getattr(self, key) != TrainOptions.model_fields[key].default:
                    yield f"train.{key}", "expected lr_scheme: CosineAnnealingRestartLR beside it; else remove it"
            return
        if sum(self.periods) < self.niter:
            yield "train.T_period", f"expected periods of niter = {self.niter} in all, got {sum(self.periods)}"
        if self.restart_weights is not None and len(self.restart_weights) != len(self.periods):
            yield "train.restart_weights", f"expected one for each of {len(self.periods)} periods"
        if self.eta_min >= self.lr_G:
            yield "train.eta_min", f"expected less than lr_G = {self.lr_G:g}, got {self.eta_min:g}"
