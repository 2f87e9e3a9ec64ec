"""Recipes: what a table or figure of a paper takes, from training to the numbers beside the published ones."""

from typing import Annotated

from pydantic import Field

from robustflow.options.values import Finite, NonNegative, RunName
from robustflow.registry import Options

Words = Annotated[str, Field(min_length=1)]


class RunOfRecipe(Options):
    """One model: an options file, and how it differs."""

    options: Words = Field(description="Options file, relative to the recipe's folder.")
    label: str | None = Field(None, description="What the table calls it; null: the run's name.")
    name: RunName | None = Field(None, description="The run's name, in place of that of its options.")
    override: str = Field("", description="As --override of train.py and test.py.")
    each: tuple[Words, ...] | None = Field(None, description="Commands after its test; null: those of the recipe.")
    published: dict[str, dict[str, Finite]] = Field(
        {}, description="Published figures by data set and metric, in the metric's unit."
    )


class RecipeOptions(Options):
    """A recipe; in its commands {run} stands for a run's -opt and --override, {name} for its name, {results} for all
    results folders, and {output} for the recipe's own folder."""

    title: Words = Field(description="Heading of the table.")
    source: Words = Field(description="Where the published figures are from.")
    notes: str = Field("", description="What a reader of the table should know.")
    encoders: tuple[RunOfRecipe, ...] = Field((), description="Trained first; others start from them.")
    runs: Annotated[tuple[RunOfRecipe, ...], Field(min_length=1)] = Field(description="Trained and tested, in order.")
    seeds: tuple[NonNegative, ...] | None = Field(
        None, description="Training seeds: each run once with each, named <run>/<seed>; null: as the options say."
    )
    columns: Annotated[tuple[Words, ...], Field(min_length=1)] = Field(description="Metrics of the table, by key.")
    first: tuple[Words, ...] = Field((), description="Commands of robustflow before all others.")
    each: tuple[Words, ...] = Field((), description="Further commands of robustflow for each run, after its test.")
    then: tuple[Words, ...] = Field((), description="Commands of robustflow at the end.")
    small: dict[Words, str] = Field(
        {},
        description="With --small: flags that a command, by its first words, gets, in place of its own of those names.",
    )
