"""Recipes, runs and environments of a page, as text."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqkd_cli.lab.comparison import Comparison
from freqkd_cli.lab.run_record import RECIPE, RunRecord
from freqkd_cli.report.page_tables import printed


@dataclass(frozen=True)
class RecipeText:
    """A resolved recipe: (line, whether the baseline's recipe lacks it), and their number."""

    name: str
    lines: list[tuple[str, bool]]
    changed: int


@dataclass(frozen=True)
class RunRow:
    """A finished run as text."""

    name: str
    seed: int
    score: str
    steps: str
    views: str
    seconds: str
    folder: str
    command: str


@dataclass(frozen=True)
class Environment:
    """An environment, as (name, value), and the runs that had it."""

    facts: list[tuple[str, str]]
    runs: list[str]


def recipe_texts(comparison: Comparison) -> list[RecipeText]:
    """Return the resolved recipe of every row, with what differs from the baseline's."""
    texts = {row.name: _recipe_lines(row.records[0]) for row in comparison.rows}
    base = texts.get(comparison.baseline)
    out = []
    for name, lines in texts.items():
        new = _new_lines(base, lines) if base is not None and lines is not base else set()
        marked = [(line, number in new) for number, line in enumerate(lines)]
        out.append(RecipeText(name, marked, len(new)))
    return out


def _recipe_lines(record: RunRecord) -> list[str]:
    text = (record.folder / RECIPE).read_text(encoding="utf-8", errors="replace")
    return text.splitlines()


def _new_lines(base: Sequence[str], lines: Sequence[str]) -> set[int]:
    blocks = difflib.SequenceMatcher(None, base, lines, autojunk=False).get_opcodes()
    return {
        number for kind, _, _, low, high in blocks if kind != "equal" for number in range(low, high)
    }


def run_rows(comparison: Comparison) -> list[RunRow]:
    """Return all runs of a comparison."""
    return [
        RunRow(
            name=row.name,
            seed=record.seed,
            score=printed(row.values.get(record.seed), comparison.number),
            steps="" if record.steps is None else f"{record.steps:,}",
            views=str(record.views_per_step),
            seconds="" if record.seconds is None else f"{record.seconds:,.0f}",
            folder=str(record.folder),
            command=str(record.environment.get("command", "")),
        )
        for row in comparison.rows
        for record in row.records
    ]


def environments(comparison: Comparison) -> list[Environment]:
    """Return the different environments, without what belongs to one run alone."""
    runs: dict[str, list[str]] = {}
    facts: dict[str, list[tuple[str, str]]] = {}
    for row in comparison.rows:
        for record in row.records:
            shown = _facts(record.environment)
            key = json.dumps(shown)
            facts[key] = shown
            runs.setdefault(key, []).append(f"{row.name} seed {record.seed}")
    return [Environment(facts[key], names) for key, names in runs.items()]


def _facts(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the texts of an environment, its libraries one by one."""
    own = ("command", "libraries", "source", "cache", "teacher_sha256", "class_weights", "resumed")
    libraries = environment.get("libraries")
    values = {key: value for key, value in environment.items() if key not in own}
    values |= libraries if isinstance(libraries, dict) else {}
    return [
        (key, str(value)) for key, value in values.items() if not isinstance(value, (dict, list))
    ]
