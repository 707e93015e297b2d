"""The recipes of trials: what ``freqkd tune`` changes in a recipe, checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble
from freqkd_cli.build.schedules import run_length
from freqkd_cli.build.training_images import training_images
from freqkd_cli.build.training_parts import TrainingParts, training_parts
from freqkd_cli.errors import CacheMismatch, RecipeError, UsageError
from freqkd_cli.lab.search_space import Search
from freqkd_cli.recipe.resolved import as_yaml
from freqkd_cli.teacher.absent_weights import teacher_of_cache
from freqkd_cli.teacher.opening import open_source
from freqkd_cli.train.recipe_identity import kept_values

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

SHARE = 0.2
"""Share of the training images that are held out, where neither recipe nor command has one."""

EVALUATIONS = 8
"""Evaluations of a trial, about, where the recipe has only the last one."""

_OF_TUNE = ("data.hold_out", "train.eval_every", "train.eval_limit")
"""Keys that decide how trials are scored."""

_SEEDS = ("train.seed", "data.view_seed")
"""Keys whose best value is an accident."""

Values = Iterable[tuple[Search, Any]]


@dataclasses.dataclass(frozen=True)
class TrialRecipes:
    """The recipe of a tune, and the recipes of its trials.

    Attributes:
        recipe: as the user gave it.
        text: the recipe of a trial before any value is set, as YAML.
        parts: its training images.
        steps: its optimizer steps.
    """

    recipe: Recipe
    text: str
    parts: TrainingParts
    steps: int

    def of(self, values: Values, number: int = 0) -> Recipe:
        """Return the recipe of a trial. The teacher is scored before the first trial alone."""
        sets = [search.setting(value) for search, value in values]
        unscored = number > 0 and self.recipe.teacher is not None
        free = ["teacher.min_iou=0"] * unscored
        loaded = recipes.loads(self.text, f"{self.recipe.source} (resolved)", [*free, *sets])
        return dataclasses.replace(
            loaded,
            source=self.recipe.source,
            sets=(*self.recipe.sets, *sets),
            options=self.recipe.options,
        )

    def best(self, values: Values) -> Recipe:
        """Return the user's recipe with the values of a trial, to train on every image."""
        data = self.recipe.data.model_copy(update={"hold_out": None})
        text = as_yaml(kept_values(dataclasses.replace(self.recipe, data=data)))
        return recipes.loads(text, sets=[search.setting(value) for search, value in values])


def trial_recipes(
    recipe: Recipe, hold_out: float | None, cache: Path | None = None
) -> TrialRecipes:
    """Return the recipes of the trials of a tune.

    Args:
        hold_out: share of the training images that is scored; None = as in the recipe, else 0.2.
        cache: describes the teacher where its weights are not on this machine.

    Raises:
        RecipeError, DataMissing: the recipe cannot be trained, or no image can be held out.
    """
    share = hold_out or recipe.data.hold_out or SHARE
    data = recipe.data.model_copy(update={"hold_out": share})
    base = dataclasses.replace(recipe, data=data)
    plan = assemble.check(base, fetch=True, stored=teacher_of_cache(base, cache))
    parts = training_parts(base)
    pool = parts.pool_share(base, training_images(plan, parts.whole))
    length = run_length(len(parts.trained), base.train, pool.share if pool else 0.0)
    if not base.train.eval_every:
        every = max(1, length.epochs_after(length.steps) // EVALUATIONS)
        train = base.train.model_copy(update={"eval_every": every})
        base = dataclasses.replace(base, train=train)
    text = as_yaml(kept_values(base))
    return TrialRecipes(recipe, text, parts, length.steps)


def check_searches(
    trials: TrialRecipes, searches: Sequence[Search], cache: Path | None, device: str
) -> None:
    """Check the ends of every range and every choice as recipes, and against a cache.

    Raises:
        RecipeError: a key is unknown, or a value does not fit; all searches are reported at once.
        UsageError: a key is a seed, decides how trials are scored, or changes what the cache
            stores.
    """
    for search in searches:
        if search.key in _SEEDS:
            raise UsageError(
                f"--search {search.text} searches for a lucky seed",
                need="a key whose effect is the same with another seed",
                tip="--seed N for one seed, or seeds: [0, 1, 2] in a plan of freqkd sweep",
            )
        if search.key in _OF_TUNE:
            raise UsageError(
                f"--search {search.text} changes how trials are scored",
                need="a key that only changes the training",
                tip="--hold-out or --set for a fixed value" if "hold" in search.key else None,
            )
    problems = [line for search in searches for line in _problems(trials, search, cache)]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RecipeError(f"{count} in --search", problems=problems)
    if cache is not None:
        _check_source(trials.of([]), trials.parts, cache, device)
    for search in searches:
        if search.key.startswith("train."):  # neither the images nor what the teacher computes
            continue
        for value in search.probes:
            _check_probe(trials, search, value, cache, device)


def _problems(trials: TrialRecipes, search: Search, cache: Path | None) -> list[str]:
    """Return what is wrong with the first value of a search that cannot be used."""
    for value in search.probes:
        try:
            recipe = trials.of([(search, value)])
            assemble.check(recipe, stored=teacher_of_cache(recipe, cache))
        except RecipeError as error:
            place, lines = f"--set {search.setting(value)}", error.problems or [error.line]
            lines = [line.replace(place, f"--search {search.text}") for line in lines]
            whole = not search.integer and not search.choices and "whole number" in " ".join(lines)
            return [f"{line}; add :int behind the range" if whole else line for line in lines]
    return []


def _check_probe(
    trials: TrialRecipes, search: Search, value: Any, cache: Path | None, device: str
) -> None:
    """Check that a value leaves the scored images, and what the cache stores, as they are."""
    recipe, parts = trials.of([(search, value)]), trials.parts
    if search.key.startswith("data."):
        parts = training_parts(recipe)
        assert parts.held_out is not None and trials.parts.held_out is not None
        if parts.held_out.manifest() != trials.parts.held_out.manifest():
            raise UsageError(
                f"--search {search.text} changes the images that are scored",
                need="the same held-out images in every trial",
                tip="compare data sets with runs of their own",
            )
    if cache is None:
        return
    try:
        _check_source(recipe, parts, cache, device)
    except CacheMismatch as error:
        field = error.what.splitlines()[-1].strip()
        raise CacheMismatch(
            f"--search {search.text} changes what the cache {cache} stores",
            got=field,
            need="keys that leave the teacher's outputs as they are",
            tip="leave --cache out, or use a cache of taps: freqkd teacher-dump --content taps",
        ) from error


def _check_source(recipe: Recipe, parts: TrainingParts, cache: Path, device: str) -> None:
    plan = assemble.check(recipe, stored=teacher_of_cache(recipe, cache))
    lines = assemble.build_lines(plan)
    open_source(plan, lines, cache, training_images(plan, parts.whole), device)
