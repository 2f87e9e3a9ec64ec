"""Every option of the 2-D toy experiment, ``model: toy2d``."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from robustflow.options.schema import CouplingChoice
from robustflow.options.values import Finite, NonNegative, PathText, Positive, RunName
from robustflow.registry import Options

Sigma = Annotated[Finite, Field(gt=0)]


def _distinct(value: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(value)) < len(value):
        raise ValueError("expected values that differ")
    return value


class ToyDataOptions(Options):
    """Points and what is seen of them."""

    n_points: Positive = Field(100_000, description="Training points, uniform on the parallelogram.")
    condition: Literal["noisy", "constant", "independent"] = Field(
        "noisy",
        description="y = (x1 + sigma n, sigma), n ~ N(0, 1); independent: without x1; constant: (0, 0) in training, "
        "otherwise as independent.",
    )
    sigma_max: Sigma = Field(0.5, description="sigma ~ U(0, sigma_max) in training.")

    @property
    def sees_x(self) -> bool:
        """Whether inputs hold x₁."""
        return self.condition == "noisy"

    @property
    def sigma_of_training(self) -> float:
        """Largest noise level in training."""
        return 0.0 if self.condition == "constant" else self.sigma_max


class ToyNetworkOptions(Options):
    """The flow."""

    K: Positive = Field(4, description="Flow steps: ActNorm, 1x1, coupling.")
    hidden_layers: Positive = Field(4, description="Hidden layers of the parameter networks.")
    hidden_channels: Positive = Field(64, description="Width of the parameter networks.")


class ToyTrainOptions(Options):
    """Optimisation."""

    lr_G: Annotated[Finite, Field(gt=0)] = Field(5e-4, description="Adam's learning rate.")
    beta1: Annotated[Finite, Field(ge=0, lt=1)] = Field(0.9, description="Adam's first-moment decay.")
    beta2: Annotated[Finite, Field(ge=0, lt=1)] = Field(0.999, description="Adam's second-moment decay.")
    niter: Positive = Field(8_000, description="Iterations.")
    batch_size: Positive = Field(1_000, description="Points per iteration.")
    seeds: Annotated[tuple[NonNegative, ...], Field(min_length=1), AfterValidator(_distinct)] = Field(
        (0, 1, 2, 3, 4), description="One run each: seed of initialisation, points, their order and their noise."
    )


class ToyValOptions(Options):
    """Sampling and measuring; the same held-out points and inputs for all runs."""

    sigma_ood: Annotated[tuple[Sigma, ...], Field(min_length=1), AfterValidator(_distinct)] = Field(
        (1.0, 2.0, 3.0, 5.0, 10.0), description="Noise levels out of distribution."
    )
    sigma_figure: Sigma = Field(5.0, description="The one of sigma_ood that layers.png shows.")
    n_held_out: Positive = Field(10_000, description="Held-out points.")
    n_conditions: Positive = Field(64, description="Inputs y, of the first held-out points.")
    n_sample: Annotated[Positive, Field(ge=2)] = Field(200, description="Samples for each input.")
    seed: NonNegative = Field(0, description="Seed of held-out points, their noise, and the latents.")


class ToyPathOptions(Options):
    """Folders, relative to the working directory."""

    results: PathText = Field("results", description="Folder of results, one sub-folder per name.")


class ToyOptions(Options):
    """All options of the toy experiment."""

    name: RunName = Field(description="Names the folder in results/.")
    model: Literal["toy2d"] = Field(description="toy2d.")
    plugins: tuple[str, ...] = Field((), description="Modules to import first; they register entries of their own.")
    couplings: dict[str, CouplingChoice] = Field(description="Elementwise maps to compare, by their names in tables.")
    data: ToyDataOptions = ToyDataOptions()
    network_G: ToyNetworkOptions = ToyNetworkOptions()
    train: ToyTrainOptions = ToyTrainOptions()
    val: ToyValOptions = ToyValOptions()
    path: ToyPathOptions = ToyPathOptions()
    n_workers: NonNegative | None = Field(
        None, description="Runs at the same time, one thread each; 0: all in this process; null: one per core."
    )

    def contradictions(self, root: Any) -> Iterator[tuple[str, str]]:
        """Yield (key path, message) for values that are each well-typed but cannot go together."""
        if not self.couplings:
            yield "couplings", "expected at least one, such as 'affine: affine'"
        if self.train.batch_size > self.data.n_points:
            yield "train.batch_size", f"expected at most data.n_points = {self.data.n_points}"
        if self.val.n_conditions > self.val.n_held_out:
            yield "val.n_conditions", f"expected at most val.n_held_out = {self.val.n_held_out}"
        if self.val.sigma_figure not in self.val.sigma_ood:
            known = ", ".join(f"{sigma:g}" for sigma in self.val.sigma_ood)
            yield "val.sigma_figure", f"expected one of val.sigma_ood ({known}), got {self.val.sigma_figure:g}"
