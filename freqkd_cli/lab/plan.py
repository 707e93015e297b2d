"""A plan of a study, as YAML: recipes, seeds, changes, baseline and fairness. No torch here."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from freqkd_cli.errors import RecipeError
from freqkd_cli.lab.plan_keys import LENGTHS, ROW_NAME, VERSION, PlanKeys, PlannedRecipe
from freqkd_cli.recipe import shipped
from freqkd_cli.recipe.load import places
from freqkd_cli.recipe.nodes import MAX_CHARACTERS, Node, parse
from freqkd_cli.recipe.problems import Place, Problem, as_error
from freqkd_cli.recipe.resolved import flow
from freqkd_cli.recipe.value_problems import joined, shown, value_problems
from freqkd_cli.recipe.value_types import PATTERNS


@dataclass(frozen=True)
class StudyPlan:
    """A plan, checked. Its recipes are not read yet.

    Attributes:
        keys: the values.
        source: the file as the user named it.
        note: the comments at the top of the file; the first line is the question.
        places: key path -> place.
    """

    keys: PlanKeys
    source: str = "plan"
    note: str = ""
    places: Mapping[str, Place] = field(default_factory=dict, repr=False)

    @property
    def recipes(self) -> tuple[PlannedRecipe, ...]:
        return self.keys.recipes

    def error(self, problems: Iterable[tuple[str, str]]) -> RecipeError:
        """Return one error for problems, given as (key path, what is wrong)."""
        return as_error([Problem(self.place(k), k, text) for k, text in problems], self.source)

    def place(self, key: str) -> Place:
        """Return the place of a key path, or of the nearest section around it."""
        while key and key not in self.places:
            key = key.rpartition(".")[0]
        return self.places.get(key, Place(0, 0, 0, self.source))


def load(source: str | Path, sets: Sequence[str] = ()) -> StudyPlan:
    """Read and check a plan: a file, ``-``, or the name of a shipped plan.

    Args:
        sets: ``key.path=value`` each, added to the plan's ``set``.

    Raises:
        RecipeError: every problem as ``file:line:column key: what``, in file order.
    """
    if str(source) == "-":
        return loads(sys.stdin.read(MAX_CHARACTERS + 1), "<stdin>", sets)
    path = shipped.resolve_plan(source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise RecipeError(f"the plan {path} cannot be read", got=reason) from error
    return loads(text, str(path), sets, folder=path.parent)


def loads(
    text: str, source: str = "plan", sets: Sequence[str] = (), folder: Path = Path()
) -> StudyPlan:
    """:func:`load` for a text; recipe files are relative to ``folder``."""
    root, problems = parse(text, lambda line, column: Place(0, line + 1, column + 1, source))
    if root is None or root.value is None:
        start = Place(0, 1, 1, source)
        raise as_error(problems or [Problem(start, "", "the plan is empty")], source)
    if not isinstance(root.value, dict):
        need = f"need the keys {', '.join(PlanKeys.model_fields)}"
        raise as_error([Problem(root.at, "", f"got {shown(root.plain())}, {need}")], source)
    if "losses" in root.value and "recipes" not in root.value:
        tip = f"list it under recipes of a plan, or freqkd distill {shlex.quote(source)} --out DIR"
        raise RecipeError(f"{source} is a recipe, not a plan", tip=tip)
    problems += _add_sets(root, sets)
    keys, of_values = _validated(root)
    if keys is not None:
        keys = keys.model_copy(update={"recipes": _entries(keys, folder)})
        of_values += _of_names(keys, root) + _of_sets(keys, root)
    if problems or of_values or keys is None:
        raise as_error([*problems, *of_values], source)
    return StudyPlan(keys, source, _note(text), places(root))


def _add_sets(root: Node, sets: Sequence[str]) -> list[Problem]:
    """Add ``--set`` options to the section ``set`` of a plan."""
    problems = []
    for number, text in enumerate(sets, start=1):
        key, equals, value = (part.strip() for part in text.partition("="))
        place = Place(number, 0, 0, f"--set {text}", key)
        node, syntax = parse(value, lambda line, column, place=place: place)
        if not equals or not key or node is None or syntax:
            problems.append(Problem(place, "", "need key.path=value, for example train.lr=1e-3"))
            continue
        section = root.value.get("set")
        if section is None or section.value is None:
            section = root.value["set"] = Node({}, place, key_at=place)
        if isinstance(section.value, dict):
            node.key_at = place
            section.value[key] = node
    return problems


def _validated(root: Node) -> tuple[PlanKeys | None, list[Problem]]:
    version = root.value.get("version")
    if version is not None and version.value != VERSION:
        text = f"got {shown(version.plain())}, this freqkd reads version {VERSION}"
        return None, [Problem(version.at, "version", text)]
    rows = root.value.get("recipes")
    if rows is not None and isinstance(rows.value, list):  # a name alone is short for {recipe: ...}
        rows.value = [
            row if isinstance(row.value, dict) else Node({"recipe": row}, row.at)
            for row in rows.value
        ]
    try:
        return PlanKeys.model_validate_json(json.dumps(root.plain()), strict=True), []
    except ValidationError as error:
        found = value_problems(error, root.value, "", root, PlanKeys)
        return None, [
            Problem(place, key.lstrip("."), joined(texts)) for (key, place), texts in found.items()
        ]


def _entries(keys: PlanKeys, folder: Path) -> tuple[PlannedRecipe, ...]:
    """Return the recipes of a plan; files, beside the plan or in the working folder, absolute."""

    def located(row: PlannedRecipe) -> PlannedRecipe:
        name = Path(row.recipe).expanduser()
        file = next((path for path in (folder / name, name) if path.is_file()), None)
        return row.model_copy(update={"recipe": str(file.absolute())}) if file else row

    return tuple(map(located, keys.recipes))


def _of_names(keys: PlanKeys, root: Node) -> list[Problem]:
    """Return problems of names that occur twice, and of keys that are both set and an axis."""
    problems = []
    first: dict[str, int] = {}
    for number, row in enumerate(keys.recipes):
        node = root.value["recipes"].value[number]
        if not re.fullmatch(ROW_NAME, row.row_name):
            text = f"got {row.row_name!r}, need {PATTERNS[ROW_NAME]}"
            tip = "give a name: {recipe: ..., name: ...}"
            problems.append(Problem(node.at, f"recipes.{number}", f"{text}; {tip}"))
        if row.row_name in first:
            tip = f"give this one another name: {{recipe: {row.recipe}, name: {row.row_name}_2}}"
            text = f"recipes.{first[row.row_name]} is called {row.row_name!r} too, {tip}"
            problems.append(Problem(node.at, f"recipes.{number}", text))
        first.setdefault(row.row_name, number)
    for seed, count in Counter(keys.seeds).items():
        if count > 1:
            problems.append(Problem(root.value["seeds"].place, "seeds", f"{seed} is there twice"))
    for key in keys.axes:
        if key in keys.set:
            at = root.value["axes"].value[key]
            problems.append(Problem(at.place, f"axes.{key}", "it is also in set; need one of them"))
    return problems


def _of_sets(keys: PlanKeys, root: Node) -> list[Problem]:
    """Return problems of keys that ``--set`` and a recipe's own ``set`` give different values."""
    given = {
        key: node.plain()
        for key, node in (root.value["set"].children() if keys.set else ())
        if node.at.order > 0
    }
    problems = []
    for number, row in enumerate(keys.recipes):
        for key in row.set.keys() & given.keys():
            if row.set[key] != given[key]:
                at = root.value["recipes"].value[number].value["set"].value[key]
                text = (
                    f"got {shown(row.set[key])}, and the command changes it to "
                    f"{shown(given[key])} in every recipe; need one of them"
                )
                problems.append(Problem(at.place, f"recipes.{number}.set.{key}", text))
    return problems


def _note(text: str) -> str:
    """Return the comments at the top of a plan, without the line for editors."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "yaml-language-server" not in line:
            lines.append(line.lstrip("#").strip())
    return "\n".join(lines).strip()


def sets_of(plan: StudyPlan, row: PlannedRecipe) -> tuple[str, ...]:
    """Return the changes of a row's recipe, as ``--set`` takes them."""
    changes = {**plan.keys.set, **row.set}
    if row.steps is not None:
        changes = {key: value for key, value in changes.items() if key not in LENGTHS}
        changes |= {"train.steps": row.steps, "train.extend": None}
    return tuple(f"{key}={flow(value)}" for key, value in changes.items())


def dump(plan: StudyPlan) -> str:
    """Return a plan as YAML with every default written out, its note on top."""
    values = plan.keys.model_dump(mode="json", exclude_none=True)
    rows = values.pop("recipes")
    lines = [f"# {line}".rstrip() for line in plan.note.splitlines()]
    lines += [f"{key}: {flow(value)}" for key, value in values.items()]
    lines += ["recipes:", *(f"  - {flow(row)}" for row in rows)]
    return "\n".join(lines) + "\n"
