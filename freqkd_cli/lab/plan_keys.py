"""The keys of a plan, typed and strict as those of a recipe, and their JSON schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from freqkd_cli.recipe.value_types import PATTERNS, Count, CountOrZero, Positive, Section

VERSION = 1
LENGTHS = ("train.epochs", "train.steps", "train.extend")
"""Keys of the length of a run, which the fairness rule decides."""

ROW_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.,=+-]*$"
PATTERNS[ROW_NAME] = "letters, digits and _ . , = + -, as it is the name of a folder"

ROW_NAME_LENGTH = 120
RowName = Annotated[str, Field(pattern=ROW_NAME, max_length=ROW_NAME_LENGTH)]
Changes = dict[str, Any]


class PlannedRecipe(Section):
    """A recipe of a plan: one row of the table, or one for each combination of the axes."""

    recipe: str = Field(description="name of a shipped recipe, or a file; relative to the plan")
    name: RowName | None = Field(None, description="name of the row; the default is the recipe's")
    set: Changes = Field({}, description="changes of this recipe alone, as --set")
    steps: Count | None = Field(None, description="steps by the fairness rule; written by sweep")
    step_ms: Positive | None = Field(
        None, description="measured milliseconds of a step, with fair: seconds; written by sweep"
    )

    @property
    def row_name(self) -> str:
        """Return ``name``, or the name of the recipe."""
        return self.name or Path(self.recipe).stem


class PlanKeys(Section):
    """The keys of a plan."""

    version: Literal[1] = Field(description="version of the format")
    recipes: Annotated[tuple[PlannedRecipe, ...], Field(min_length=1)] = Field(
        description="recipes to compare: names, files, or {recipe, name, set}"
    )
    seeds: Annotated[tuple[CountOrZero, ...], Field(min_length=1)] = Field(
        (0, 1, 2), description="train.seed of the runs of each row"
    )
    baseline: str | None = Field(
        None, description="row that differences are taken to; the default is the first"
    )
    set: Changes = Field({}, description="changes of every recipe, as --set")
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="key -> values: a row for each combination, where a recipe has the key"
    )
    fair: Literal["steps", "seconds", "none"] = Field(
        "steps",
        description="steps: each run has the steps of the baseline; seconds: the time of the "
        "baseline, as freqkd bench measures it here; none: each recipe's own length",
    )
    cache: Literal["taps", "targets", "live"] = Field(
        "taps",
        description="taps: rows with the same teacher and views share a cache; targets: a smaller "
        "one for each row; live: the teacher runs in every run",
    )
    freqkd: str | None = Field(None, description="version of the study; written by sweep")


def schema() -> dict[str, Any]:
    """Return the JSON schema of a plan, for editors."""
    out = PlanKeys.model_json_schema()
    rows = out["properties"]["recipes"]
    rows["items"] = {"anyOf": [{"type": "string"}, rows["items"]]}
    return out | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "freqkd plan",
    }
