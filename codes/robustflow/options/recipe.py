"""Recipes: what a table or figure of a paper takes, from training to the numbers beside the published ones."""

from collections.abc import Hashable
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, model_validator

from robustflow.options.values import Finite, NonNegative, RunName
from robustflow.registry import Options

T = TypeVar("T", bound=Hashable)


def _once(values: tuple[T, ...]) -> tuple[T, ...]:
    if len({*values}) < len(values):
        raise ValueError("expected each once")
    return values


Words = Annotated[str, Field(min_length=1)]
Keys = Annotated[tuple[Words, ...], Field(min_length=1), AfterValidator(_once)]
Seeds = Annotated[tuple[NonNegative, ...], Field(min_length=1), AfterValidator(_once)]


class RunOfRecipe(Options):
    """One model: an options file, and how it differs."""

    options: Words = Field(description="Options file, relative to the recipe's folder.")
    label: str | None = Field(None, description="What the table calls it, and it alone; null: the run's name.")
    name: RunName | None = Field(None, description="The run's name, in place of that of its options.")
    override: str = Field("", description="As --override of train.py and test.py.")
    each: tuple[Words, ...] | None = Field(None, description="Commands after its test; null: those of the recipe.")
    published: dict[str, dict[str, Finite]] = Field(
        {}, description="Published figures by data set and metric, in the metric's unit."
    )


class Claim(Options):
    """What a table is to show; tried with each training seed, in all of the data sets, and said whether it does."""

    says: Words = Field(description="The claim in words.")
    metric: Words = Field(description="Key of the metric.")
    model: Words = Field(description="Label of the model that it is about.")
    sets: tuple[Words, ...] | None = Field(None, description="Names of data sets; null: all.")
    below: Words | None = Field(None, description="Label of a model whose figure is larger.")
    not_above: Words | None = Field(None, description="Label of a model whose figure is larger or equal.")
    at_most: Finite | None = Field(None, description="What the figure does not exceed.")
    beside: Words | None = Field(
        None, description="Label of a model: not the figures but their distances to its figure are compared."
    )

    @property
    def labels(self) -> list[str]:
        """Of the models whose figures it takes."""
        return [label for label in (self.model, self.below, self.not_above, self.beside) if label is not None]

    @model_validator(mode="after")
    def _compares_with_one(self) -> "Claim":
        if sum(value is not None for value in (self.below, self.not_above, self.at_most)) != 1:
            raise ValueError("expected one of below, not_above and at_most")
        return self


class RecipeOptions(Options):
    """A recipe; in its commands {run} stands for a run's -opt and --override, {name} for its name, {results} for all
    results folders, {first} for those of the first seed, and {output} for the recipe's own folder."""

    title: Words = Field(description="Heading of the table.")
    source: Words = Field(description="Where the published figures are from.")
    notes: str = Field("", description="What a reader of the table should know.")
    encoders: tuple[RunOfRecipe, ...] = Field((), description="Trained first; others start from them.")
    runs: Annotated[tuple[RunOfRecipe, ...], Field(min_length=1)] = Field(description="Trained and tested, in order.")
    seeds: Seeds | None = Field(
        None, description="Training seeds: each run once with each, named <run>/<seed>; null: as the options say."
    )
    columns: Keys = Field(description="Metrics of the table, by key.")
    temperature: Finite | None = Field(None, description="The only one in table.md; null: all.")
    reference: Words | None = Field(
        None, description="Label of the model that others are compared with, input by input; null: not at all."
    )
    claims: tuple[Claim, ...] = Field((), description="What the table is to show.")
    first: tuple[Words, ...] = Field((), description="Commands of robustflow before all others.")
    each: tuple[Words, ...] = Field((), description="Further commands of robustflow for each run, after its test.")
    then: tuple[Words, ...] = Field((), description="Commands of robustflow at the end.")
    small: dict[Words, str] = Field(
        {},
        description="With --small: flags that a command, by its first words, gets, in place of its own of those names.",
    )
