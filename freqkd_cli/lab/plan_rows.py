"""The rows of a plan: every recipe with the values of the axes, read and checked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from freqkd_cli import __version__
from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble, single_values
from freqkd_cli.errors import FreqKDError, RecipeError, UsageError
from freqkd_cli.lab import recipe_keys
from freqkd_cli.lab.plan import StudyPlan, sets_of
from freqkd_cli.lab.plan_keys import LENGTHS, ROW_NAME_LENGTH, PlannedRecipe
from freqkd_cli.recipe.overrides import short
from freqkd_cli.recipe.problems import Problem
from freqkd_cli.recipe.resolved import flow
from freqkd_cli.registry import did_you_mean
from freqkd_cli.teacher.teacher_classes import check_recorded_classes

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

SEED = "train.seed"

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclass
class _Refusals:
    """Problems of a plan and of its recipes, each once, with the recipes that have it."""

    plan: StudyPlan
    rows: dict[str, list[str]] = field(default_factory=dict)
    kinds: list[type[FreqKDError]] = field(default_factory=list)
    starts: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, text: str) -> None:
        """Add a problem at a key of the plan."""
        self._add(str(Problem(self.plan.place(key), key, text)), "", RecipeError)

    def add_error(self, error: FreqKDError, row: PlannedRecipe, key: str) -> None:
        """Add the problems of a row; ``key`` is the place of its recipe in the plan."""
        problems = error.problems if isinstance(error, RecipeError) else []
        for line in problems:
            self._add(self._placed(line, row, key), row.row_name, type(error))
        if not problems:
            start = self.starts.setdefault(error.line, f"{self.plan.place(key)} {key}")
            self._add(f"{start}: {error.line}", row.row_name, type(error))

    def _placed(self, line: str, row: PlannedRecipe, key: str) -> str:
        """Return a line about a ``--set`` with the place in the plan that it comes from."""
        texts = sets_of(self.plan, row)
        for text, place in zip(texts, _set_places(self.plan, row, key), strict=True):
            start = f"--set {short(text)}"
            if line.startswith((f"{start}: ", f"{start} ")):
                return f"{self.plan.place(place)} {place}{line[len(start) :]}"
        return line

    def _add(self, line: str, row: str, kind: type[FreqKDError]) -> None:
        self.rows.setdefault(line, []).append(row)
        self.kinds.append(kind)

    def raise_any(self) -> None:
        """Raise one error with all problems, if there are any."""
        if not self.rows:
            return
        lines = []
        for line, rows in self.rows.items():
            names = [name for name in dict.fromkeys(rows) if name]
            clear = not names or names == [self._row_at(line)] or self._everywhere(names)
            lines.append(line if clear else f"{line} (in {', '.join(names)})")
        usage = any(issubclass(kind, UsageError) for kind in self.kinds)
        kind = RecipeError if usage else self.kinds[0]
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        text = "\n".join([f"{count} in {self.plan.source}", *(f"  {line}" for line in lines)])
        raise kind(text)

    def _row_at(self, line: str) -> str:
        """Return the row that a line names by its place in the plan; else the empty string."""
        number = re.search(r" recipes\.(\d+)\b", line)
        return self.plan.recipes[int(number[1])].row_name if number else ""

    def _everywhere(self, names: list[str]) -> bool:
        return len(names) >= len(self.plan.recipes) > 1


def _set_places(plan: StudyPlan, row: PlannedRecipe, key: str) -> list[str]:
    """Return the key of the plan that each change of :func:`sets_of` comes from."""
    places = []
    for text in sets_of(plan, row):
        name = text.partition("=")[0]
        candidates = (f"{key}.set.{name}", f"axes.{name}")
        places.append(next((place for place in candidates if place in plan.places), f"set.{name}"))
    return places


@dataclass(frozen=True)
class CheckedRow:
    """A row, the key of its recipe in the plan, and that recipe (of the first seed), checked."""

    planned: PlannedRecipe
    key: str
    checked: assemble.CheckedRecipe

    @property
    def recipe(self) -> Recipe:
        return self.checked.recipe


def load_row(plan: StudyPlan, row: PlannedRecipe, seed: int) -> Recipe:
    """Return the recipe of a run."""
    return recipes.load(row.recipe, sets_of(plan, row), {SEED: seed})


def expand(plan: StudyPlan) -> tuple[StudyPlan, tuple[CheckedRow, ...]]:
    """Return the plan with one entry for each row and without axes, and its checked rows.

    Raises:
        RecipeError, FreqKDError: one error with every problem of the plan and of its recipes.
    """
    refusals = _Refusals(plan)
    rows = _rows(plan, refusals)
    refusals.raise_any()
    baseline = _baseline(plan, [row for row, _ in rows], refusals)
    _check_decided(plan, refusals)
    refusals.raise_any()
    checked = []
    for row, key in rows:
        try:
            recipe = load_row(plan, row, plan.keys.seeds[0])
            whole = assemble.check(recipe, fetch=True)
            check_recorded_classes(whole)
            single_values.check_unbuilt(whole)
            checked.append(CheckedRow(row, key, whole))
        except FreqKDError as error:
            refusals.add_error(error, row, key)
    refusals.raise_any()
    changes = {"axes": {}, "baseline": baseline, "freqkd": __version__}
    changes["recipes"] = tuple(row for row, _ in rows)
    return replace(plan, keys=plan.keys.model_copy(update=changes)), tuple(checked)


def _rows(plan: StudyPlan, refusals: _Refusals) -> list[tuple[PlannedRecipe, str]]:
    """Return every row, with the key of its recipe in the plan."""
    loaded: list[tuple[PlannedRecipe, str, Recipe]] = []
    for number, row in enumerate(plan.recipes):
        key = f"recipes.{number}"
        try:
            loaded.append((row, key, load_row(plan, row, plan.keys.seeds[0])))
        except FreqKDError as error:
            refusals.add_error(error, row, key)
    if not refusals.rows:
        known = list(
            dict.fromkeys(key for _, _, recipe in loaded for key in recipe_keys.keys(recipe))
        )
        for key in plan.keys.axes:
            if not any(recipe_keys.has_key(recipe, key) for _, _, recipe in loaded):
                near = did_you_mean(key, known)
                refusals.add(f"axes.{key}", f"no recipe of the plan has this key{near}")
    rows = []
    for row, key, recipe in loaded:
        axes = {
            axis: values
            for axis, values in plan.keys.axes.items()
            if recipe_keys.has_key(recipe, axis) and axis not in row.set
        }
        made = list(_combinations(row, axes, plan.keys.axes))
        longest = max((one.row_name for one in made), key=len)
        if len(longest) > ROW_NAME_LENGTH:
            text = f"the row {longest} has a name of {len(longest)} characters"
            tip = "list these recipes one by one, each with a name"
            refusals.add(key, f"{text}, need at most {ROW_NAME_LENGTH}; {tip}")
        rows += [(one, key) for one in made]
    names = [row.row_name for row, _ in rows]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        refusals.add("axes", f"two rows are called {name!r}; need values with different texts")
    return rows


def _combinations(
    row: PlannedRecipe, axes: Mapping[str, list[Any]], all_axes: Mapping[str, Any]
) -> Iterator[PlannedRecipe]:
    """Yield a row for each combination of the values of its axes."""
    for values in itertools.product(*axes.values()):
        changes = dict(zip(axes, values, strict=True))
        parts = [f"{_last_words(key, all_axes)}={_text(value)}" for key, value in changes.items()]
        name = ",".join([row.row_name, *parts])
        yield row.model_copy(update={"name": name, "set": {**row.set, **changes}})


def _last_words(key: str, keys: Mapping[str, Any]) -> str:
    """Return the last words of a key, as many as no other axis ends with."""
    words = key.split(".")
    for number in range(1, len(words)):
        end = ".".join(words[-number:])
        if sum(other == end or other.endswith(f".{end}") for other in keys) == 1:
            return end
    return key


def _text(value: Any) -> str:
    """Return a value as a part of a row's name; characters outside ASCII are their numbers."""
    ascii_only = "".join(c if c.isascii() else f"\\U{ord(c):08x}" for c in flow(value))
    return _NOT_IN_NAMES.sub("_", ascii_only).strip("_") or "_"


def _baseline(plan: StudyPlan, rows: list[PlannedRecipe], refusals: _Refusals) -> str:
    """Return the name of the baseline's row."""
    names = [row.row_name for row in rows]
    wanted = plan.keys.baseline
    if wanted is None or wanted in names:
        return wanted or names[0]
    split = [name for name in names if name.startswith(f"{wanted},")]
    near = did_you_mean(wanted, names)
    need = ", ".join(split or names)
    refusals.add("baseline", f"no row is called {wanted!r}{near}, need one of {need}")
    return wanted


def _check_decided(plan: StudyPlan, refusals: _Refusals) -> None:
    """Refuse keys whose values the plan decides: the seed, and the length by a fairness rule."""
    decided = {SEED: "seeds decides the seed of every run; leave this out, and list it in seeds"}
    if plan.keys.fair != "none":
        text = f"fair: {plan.keys.fair} decides the steps of every row; leave this out"
        decided |= dict.fromkeys(LENGTHS, f"{text}, or give fair: none")
    places = {f"set.{SEED}": SEED} if SEED in plan.keys.set else {}
    places |= {f"axes.{key}": key for key in plan.keys.axes}
    for number, row in enumerate(plan.recipes):
        places |= {f"recipes.{number}.set.{key}": key for key in row.set}
    for place, key in places.items():
        if key in decided:
            refusals.add(place, decided[key])
