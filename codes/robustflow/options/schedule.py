"""Options of the learning rate's course."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from robustflow.options.values import Finite, NonNegative, Positive, RelativeSteps
from robustflow.registry import Options

Rate = Annotated[Finite, Field(gt=0)]


class ScheduleOptions(Options):
    """Learning rate, as a function of the iteration."""

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

    @property
    def periods(self) -> tuple[int, ...]:
        """``T_period``, or what stands for it."""
        return (self.niter,) if self.T_period is None else self.T_period

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Cosine periods that do not fit the run, or have no effect."""
        if self.lr_scheme != "CosineAnnealingRestartLR":
            for key in ("T_period", "restart_weights", "eta_min"):
                if getattr(self, key) != ScheduleOptions.model_fields[key].default:
                    yield f"train.{key}", "expected lr_scheme: CosineAnnealingRestartLR beside it; else remove it"
            return
        if sum(self.periods) < self.niter:
            yield "train.T_period", f"expected periods of niter = {self.niter} in all, got {sum(self.periods)}"
        if self.restart_weights is not None and len(self.restart_weights) != len(self.periods):
            yield "train.restart_weights", f"expected one for each of {len(self.periods)} periods"
        if self.eta_min >= self.lr_G:
            yield "train.eta_min", f"expected less than lr_G = {self.lr_G:g}, got {self.eta_min:g}"
